"""Train the embedded models: `python -m pipeline.embedded.build`; about half an hour of one GPU in all.

Every stage has its own seed, keeps its state in `--state` and resumes from it, so the command may be run in parts
(`--part-seconds`) and stages may run side by side on several GPUs (`--stages`, CUDA_VISIBLE_DEVICES).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.embedded import tokenizer, weights_folder
from pipeline.embedded.training import log
from pipeline.embedded.workshop import Workshop

SEEDS = {"vae": 11, "scorer": 12, "judge": 13, "denoiser": 14, "reward": 15, "shape": 16}


def vae(shop: Workshop) -> dict:
    from pipeline.embedded import train_prior as prior

    model, pictures = prior.build_vae(), shop.pictures()
    record = prior.train_vae(model, pictures, shop.plan("vae"), compiled=shop.compiled)
    if record["finished"]:
        torch.manual_seed(SEEDS["vae"])
        prior.whiten(model, pictures.images[torch.randperm(len(pictures))[:8192]])
        record["psnr"] = prior.reconstruction_psnr(model, pictures.images[:1024])
        model.save_pretrained(shop.state / "vae")
        log("vae psnr", record["psnr"])
    return record


def scorer(shop: Workshop) -> dict:
    from pipeline.embedded import train_scorer

    model = train_scorer.build_model(shop.vocabulary())
    record = train_scorer.train_scorer(
        model, shop.pictures(), shop.caption_ids(), shop.plan("scorer"), compiled=shop.compiled
    )
    train_scorer.save_scorer(shop.out / "scorer", model, shop.tokenizer)
    return record


def judge(shop: Workshop) -> dict:
    from pipeline.embedded.judge import Judge, save_judge, train_judge

    model = Judge()
    record = train_judge(model, shop.everything(), shop.plan("judge"), compiled=shop.compiled)
    save_judge(shop.out / "judge", model)
    return record


def denoiser(shop: Workshop) -> dict:
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    from pipeline.embedded import train_prior as prior

    auto = AutoencoderKL.from_pretrained(shop.state / "vae").to(shop.device, memory_format=torch.channels_last)
    latents = prior.latents_of(auto.eval(), shop.pictures().images)
    ids = shop.caption_ids()
    unet, text = prior.build_unet(), prior.build_text_encoder(shop.vocabulary())
    shop.await_stage("scorer")
    prior.start_from_scorer(text, load_file(shop.out / "scorer" / "open_clip_model.safetensors"))
    log(
        "latents",
        tuple(latents.shape),
        "mean",
        latents.float().mean().item(),
        "deviation",
        latents.float().std().item(),
    )
    record = prior.train_denoiser(
        unet, text, latents, ids, shop.ids([""])[0], shop.plan("denoiser"), compiled=shop.compiled
    )
    prior.save_prior(shop.out / "prior", auto, unet, text, shop.tokenizer)
    return record


def reward(shop: Workshop) -> dict:
    from pipeline.embedded import train_reward

    return train_reward.train(shop)


def shape(shop: Workshop) -> dict:
    from pipeline.embedded import train_shape

    shop.await_stage("scorer")
    return train_shape.train(shop)


STAGES: dict[str, Callable[[Workshop], dict]] = {
    "vae": vae,
    "scorer": scorer,
    "judge": judge,
    "denoiser": denoiser,
    "reward": reward,
    "shape": shape,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of {', '.join(STAGES)}; default all, in order")
    parser.add_argument("--out", type=Path, default=weights_folder(), help="folder of the models")
    parser.add_argument("--state", type=Path, default=Path(".embedded"), help="folder of the states to resume from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=8, help="pictures of each scene")
    parser.add_argument("--seed", type=int, default=0, help="seed of this part's data; a new one for each part")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--part-seconds", type=float, default=540.0, help="save and stop when the process is this old")
    parser.add_argument("--scale", type=float, default=1.0, help="times every stage's seconds")
    parser.add_argument("--steps", type=int, default=None, help="this many steps a stage instead of its seconds")
    parser.add_argument("--no-compile", action="store_true", help="eager mode: for trials on a CPU")
    parser.add_argument("--wait-seconds", type=float, default=0.0, help="wait for a stage that runs beside this one")
    args = parser.parse_args()
    names = args.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    shop = Workshop(
        args.out,
        args.state,
        args.device,
        args.scenes,
        args.views,
        args.seed,
        args.workers,
        args.part_seconds,
        args.scale,
        args.steps,
        not args.no_compile,
        args.wait_seconds,
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if not (shop.tokenizer / "vocab.json").exists():
        tokenizer.build(shop.tokenizer)
    # Drawn first: their workers fork, which must come before the first use of CUDA.
    if "judge" in names and not shop.finished("judge"):
        shop.describe_heldout()
    shop.pictures()
    for name in names:
        run_stage(shop, name)


def run_stage(shop: Workshop, name: str) -> None:
    """Run one stage unless its record says finished; the record lies beside the state."""
    if shop.finished(name):
        log(name, "is finished")
        return
    torch.manual_seed(1_000_003 * SEEDS[name] + shop.seed)
    shop.state.mkdir(parents=True, exist_ok=True)
    beside = shop.record(name).with_suffix(".new")
    beside.write_text(json.dumps(STAGES[name](shop), indent=2) + "\n")
    beside.replace(shop.record(name))


if __name__ == "__main__":
    main()
