"""Train the bundled models: `python -m pipeline.embedded.build`; about half an hour of one GPU in total.

Every stage has its own seed, saves its state to `--state` and resumes from it. So the command can run in parts
(`--part-seconds`), and stages can run in parallel on several GPUs (`--stages`, CUDA_VISIBLE_DEVICES).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.embedded import tokenizer, weights_folder
from pipeline.embedded.training import log
from pipeline.embedded.training_context import TrainingContext

SEEDS = {"vae": 11, "scorer": 12, "judge": 13, "denoiser": 14, "reward": 15, "shape": 16}


def vae(context: TrainingContext) -> dict:
    from pipeline.embedded import train_prior as prior

    model, dataset = prior.build_vae(), context.training_data()
    record = prior.train_vae(model, dataset, context.plan("vae"), compiled=context.compiled)
    if record["finished"]:
        torch.manual_seed(SEEDS["vae"])
        prior.whiten(model, dataset.images[torch.randperm(len(dataset))[:8192]])
        record["psnr"] = prior.reconstruction_psnr(model, dataset.images[:1024])
        model.save_pretrained(context.state / "vae")
        log("vae psnr", record["psnr"])
    return record


def scorer(context: TrainingContext) -> dict:
    from pipeline.embedded import train_scorer

    model = train_scorer.build_model(context.vocabulary())
    record = train_scorer.train_scorer(
        model, context.training_data(), context.caption_ids(), context.plan("scorer"), compiled=context.compiled
    )
    train_scorer.save_scorer(context.out / "scorer", model, context.tokenizer)
    return record


def gate_classifier(context: TrainingContext) -> dict:
    from pipeline.embedded.gate_classifier import GateClassifier, save_gate_classifier, train_gate_classifier

    model = GateClassifier()
    record = train_gate_classifier(
        model, context.training_and_heldout_data(), context.plan("judge"), compiled=context.compiled
    )
    save_gate_classifier(context.out / "judge", model)
    return record


def denoiser(context: TrainingContext) -> dict:
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    from pipeline.embedded import train_prior as prior

    auto = AutoencoderKL.from_pretrained(context.state / "vae").to(context.device, memory_format=torch.channels_last)
    latents = prior.latents_of(auto.eval(), context.training_data().images)
    ids = context.caption_ids()
    unet, text = prior.build_unet(), prior.build_text_encoder(context.vocabulary())
    context.await_stage("scorer")
    prior.start_from_scorer(text, load_file(context.out / "scorer" / "open_clip_model.safetensors"))
    log(
        "latents",
        tuple(latents.shape),
        "mean",
        latents.float().mean().item(),
        "deviation",
        latents.float().std().item(),
    )
    record = prior.train_denoiser(
        unet, text, latents, ids, context.ids([""])[0], context.plan("denoiser"), compiled=context.compiled
    )
    prior.save_prior(context.out / "prior", auto, unet, text, context.tokenizer)
    return record


def reward(context: TrainingContext) -> dict:
    from pipeline.embedded import train_reward

    return train_reward.train(context)


def shape(context: TrainingContext) -> dict:
    from pipeline.embedded import train_shape

    context.await_stage("scorer")
    return train_shape.train(context)


STAGES: dict[str, Callable[[TrainingContext], dict]] = {
    "vae": vae,
    "scorer": scorer,
    "judge": gate_classifier,
    "denoiser": denoiser,
    "reward": reward,
    "shape": shape,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stages", default=",".join(STAGES), help=f"stages to run, of {', '.join(STAGES)}; default: all, in order"
    )
    parser.add_argument("--out", type=Path, default=weights_folder(), help="folder of the trained models")
    parser.add_argument(
        "--state", type=Path, default=Path(".embedded"), help="folder of the training states to resume from"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=8, help="images per scene")
    parser.add_argument("--seed", type=int, default=0, help="seed of this part's data; use a new one for each part")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument(
        "--part-seconds", type=float, default=540.0, help="save and stop when the process has run this long"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every stage's seconds")
    parser.add_argument("--steps", type=int, default=None, help="steps per stage, instead of its seconds")
    parser.add_argument("--no-compile", action="store_true", help="eager mode, for tests on a CPU")
    parser.add_argument(
        "--wait-seconds", type=float, default=0.0, help="how long to wait for a stage that runs in another process"
    )
    args = parser.parse_args()
    names = args.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    context = TrainingContext(
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
    if not (context.tokenizer / "vocab.json").exists():
        tokenizer.build(context.tokenizer)
    # Draw the scenes first: their worker processes are forked, which must happen before the first use of CUDA.
    if "judge" in names and not context.finished("judge"):
        context.describe_heldout()
    context.training_data()
    for name in names:
        run_stage(context, name)


def run_stage(context: TrainingContext, name: str) -> None:
    """Run one stage unless its record says that it is finished. The record is next to the state."""
    if context.finished(name):
        log(name, "is finished")
        return
    torch.manual_seed(1_000_003 * SEEDS[name] + context.seed)
    context.state.mkdir(parents=True, exist_ok=True)
    beside = context.record(name).with_suffix(".new")
    beside.write_text(json.dumps(STAGES[name](context), indent=2) + "\n")
    beside.replace(context.record(name))


if __name__ == "__main__":
    main()
