"""What the embedded models can do, on data they never saw: `python -m pipeline.embedded.gates`.

Prints a table of (measured, goal) and writes it as JSON; docs/models.md shows it. Sampling 25 steps for some 800
prompts wants a GPU; `--only` names a part for a CPU.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.embedded import data, raytrace, tokenizer, train_prior, train_scorer, weights_folder, world
from pipeline.embedded.judge import COLOURS, judged, load_judge
from pipeline.embedded.training import log

GOALS = {
    "vae_psnr_db": 33.0,
    "scorer_retrieval_image_to_text": 0.97,
    "scorer_retrieval_text_to_image": 0.97,
    "scorer_heldout_retrieval_image_to_text": 0.94,
    "scorer_heldout_retrieval_text_to_image": 0.94,
    "scorer_names_asset": 0.95,
    "scorer_front_against_back": 0.90,
    "prior_type_by_scorer": 0.98,
    "prior_type_by_judge": 0.98,
    "prior_type_and_colour_by_scorer": 0.97,
    "prior_type_and_colour_by_judge": 0.97,
    "prior_heldout_pairs_by_scorer": 0.92,
    "prior_heldout_pairs_by_judge": 0.92,
    "prior_view_word_by_scorer": 0.85,
    "prior_view_word_by_judge": 0.85,
    "prior_relations_by_scorer": 0.70,
    "reward_right_over_wrong_caption": 0.95,
    "reward_clean_over_damaged": 0.90,
    "reward_monotone_in_blur": 1.0,
    "shape_nearest_class": 0.80,
}
PROMPT = "a DSLR photo of {}"


@dataclass
class Bench:
    """The models under test, loaded once, and how to tokenise for them."""

    weights: Path
    device: str

    def __post_init__(self) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from safetensors.torch import load_file
        from transformers import CLIPTextModel

        prior = self.weights / "prior"
        self.vae = AutoencoderKL.from_pretrained(prior / "vae").float().to(self.device).eval()
        self.unet = UNet2DConditionModel.from_pretrained(prior / "unet").float().to(self.device).eval()
        self.text_encoder = CLIPTextModel.from_pretrained(prior / "text_encoder").float().to(self.device).eval()
        state = load_file(self.weights / "scorer" / "open_clip_model.safetensors")
        self.scorer = train_scorer.build_model(state["token_embedding.weight"].shape[0])
        self.scorer.load_state_dict({name: value.float() for name, value in state.items()})
        self.scorer.to(self.device).eval()
        self.judge = load_judge(self.weights / "judge", self.device)

    def ids(self, texts: list[str]) -> Tensor:
        return torch.from_numpy(tokenizer.encode(self.weights / "prior" / "tokenizer", texts)).to(self.device)

    def draw(self, prompts: list[str], seed: int) -> Tensor:
        """One picture a prompt: uint8 [P,3,64,64], CFG 7.5, 25 DDIM steps."""
        null = self.ids([""])[0]
        return train_prior.sample(
            self.vae, self.unet, self.text_encoder, self.ids(prompts), null, guidance_scale=7.5, seed=seed
        )

    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosines [N, P] of the scorer."""
        text = train_scorer.text_features(self.scorer, self.ids(texts))
        return train_scorer.image_features(self.scorer, images) @ text.T


def share(right: Tensor) -> float:
    return float(right.float().mean())


def gate_vae(bench: Bench) -> dict[str, float]:
    seen = data.make(250, 4, seed=900_001, device=bench.device)
    return {"vae_psnr_db": train_prior.reconstruction_psnr(bench.vae, seen.images)}


def retrieval(bench: Bench, heldout: bool) -> tuple[float, float]:
    """Top-1 among 250 pictures and 250 captions; another caption that says the same thing does not count as wrong."""
    seen = data.make(250, 1, seed=900_002 + heldout, device=bench.device, heldout=heldout)
    cosines = bench.similarity(seen.images, [pair[0] for pair in seen.captions])
    key, view = seen.key_ids, meant_views(seen)
    same = (key[:, None] == key) & ((view[:, None] == view) | (view[:, None] == 0) | (view == 0))
    right = torch.arange(len(seen), device=bench.device)
    cosines = cosines.masked_fill(same & (right[:, None] != right), -1)
    return share(cosines.argmax(1) == right), share(cosines.argmax(0) == right)


def meant_views(seen: data.Data) -> Tensor:
    """What view each first caption means (0: none); words for views of a type that look the same are one word.

    The back view of a ball is its side view: nobody could tell which caption goes with which picture.
    """
    colours = dict(world.classes())
    scenes = [world.single(np.random.default_rng(7), kind, colours[kind]) for kind in world.TYPES]
    looks = photographs(scenes, np.array([0.0, 90.0, 180.0]), 15.0, "cpu").flatten(2)  # front, side, back
    meant = torch.arange(1 + len(data.VIEW_WORDS)).repeat(len(scenes) + 1, 1)  # the last row: pairs of objects
    for view in 1, 2:
        for other in range(view):
            same = (looks[:, view] == looks[:, other]).all(1)
            meant[:-1, 1 + view][same] = meant[:-1, 1 + other][same]
    kinds = [world.TYPES.index(key[0]) if key[0] in world.TYPES else -1 for key in seen.keys]
    return meant.to(seen.view_ids.device)[kinds, seen.view_ids[:, 0]]


def photographs(scenes: list, azimuth: np.ndarray, elevation: float, device: str) -> Tensor:
    """Each scene from each azimuth: uint8 [scenes, views, 3, 64, 64], by the evaluation camera on white."""
    cameras = world.orbit_cameras(azimuth, np.full(len(azimuth), elevation))
    counts = np.array([len(scene.rows) for scene in scenes], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    index = np.repeat(np.arange(len(scenes), dtype=np.int32), len(azimuth))
    rows = np.concatenate([scene.rows for scene in scenes])
    table = np.tile(cameras.table, (len(scenes), 1)).astype(np.float32)
    images = raytrace.render(rows, starts, counts, index, table, size=64, device=device)
    return images.view(len(scenes), len(azimuth), *images.shape[1:])


def gate_scorer(bench: Bench) -> dict[str, float]:
    result: dict[str, float] = {}
    for prefix, heldout in (("scorer_", False), ("scorer_heldout_", True)):
        there, back = retrieval(bench, heldout)
        result |= {prefix + "retrieval_image_to_text": there, prefix + "retrieval_text_to_image": back}
    classes = world.classes()
    texts = [world.phrase(*pair) for pair in classes]
    right, views = [], np.arange(24) * 15.0
    for start in range(0, len(classes), 64):
        chunk = classes[start : start + 64]
        scenes = [world.single(np.random.default_rng(7), kind, colour) for kind, colour in chunk]
        images = photographs(scenes, views, 0.0, bench.device)
        mean = bench.similarity(images.flatten(0, 1), texts).view(len(chunk), len(views), -1).mean(1)
        right.append(mean.argmax(1).cpu() == torch.arange(start, start + len(chunk)))
    result["scorer_names_asset"] = share(torch.cat(right))
    result["scorer_names_asset_type"] = _types_of(classes, right)
    fronts = [kind for kind in world.TYPES if world.has_front(kind)]
    answers = []
    for kind in fronts:
        colours = [colour for other, colour in classes if other == kind][:3]
        scenes = [world.single(np.random.default_rng(8), kind, colour) for colour in colours]
        images = photographs(scenes, np.array([0.0, 180.0]), 10.0, bench.device).flatten(0, 1)
        for i, colour in enumerate(colours):
            texts = [f"{world.phrase(kind, colour)}, front view", f"{world.phrase(kind, colour)}, back view"]
            cosines = bench.similarity(images[2 * i : 2 * i + 2], texts)
            answers.append(cosines.argmax(1).cpu() == torch.arange(2))
    result["scorer_front_against_back"] = share(torch.cat(answers))
    return result


def _types_of(classes: list, right: list[Tensor]) -> float:
    """Worst type: the smallest share of its colours that were named right."""
    flat = torch.cat(right)
    kinds = np.array([kind for kind, _ in classes])
    return min(share(flat[torch.from_numpy(kinds == kind)]) for kind in world.TYPES)


def gate_prior(bench: Bench) -> dict[str, float]:
    classes = world.classes()
    kinds = torch.tensor([world.TYPES.index(kind) for kind, _ in classes], device=bench.device)
    colours = torch.tensor([COLOURS.index(colour) for _, colour in classes], device=bench.device)
    heldout = torch.tensor([world.held_out(*pair) for pair in classes], device=bench.device)
    phrases = [world.phrase(*pair) for pair in classes]
    images = bench.draw([PROMPT.format(phrase) for phrase in phrases], seed=900_010)
    best = bench.similarity(images, phrases).argmax(1)
    whole = best == torch.arange(len(classes), device=bench.device)
    verdict = judged(bench.judge, images)
    both = (verdict.kind == kinds) & (verdict.colour == colours)
    result = {
        "prior_type_by_scorer": share(kinds[best] == kinds),
        "prior_type_by_judge": share(verdict.kind == kinds),
        "prior_type_and_colour_by_scorer": share(whole),
        "prior_type_and_colour_by_judge": share(both),
        "prior_heldout_pairs_by_scorer": share(whole[heldout]),
        "prior_heldout_pairs_by_judge": share(both[heldout]),
    }
    result |= {"judge_on_renders": judge_knows(bench, False), "judge_on_heldout_renders": judge_knows(bench, True)}
    result |= prior_views(bench)
    result["prior_relations_by_scorer"] = prior_relations(bench)
    return result


def judge_knows(bench: Bench, heldout: bool) -> float:
    """How often the judge names type and colour of true, undamaged renders: what its verdicts can be trusted with."""
    seen = data.make(1500, 1, seed=900_014 + heldout, device=bench.device, heldout=heldout)
    single = [i for i, key in enumerate(seen.keys) if key[0] in world.TYPES and key[1] in COLOURS]
    verdict = judged(bench.judge, seen.images[single])
    kinds = torch.tensor([world.TYPES.index(seen.keys[i][0]) for i in single], device=bench.device)
    colours = torch.tensor([COLOURS.index(seen.keys[i][1]) for i in single], device=bench.device)
    return share((verdict.kind == kinds) & (verdict.colour == colours))


def prior_views(bench: Bench) -> dict[str, float]:
    """Objects with a front, asked for by each view word: is that view drawn?"""
    asked = [
        (kind, colour, word)
        for kind in world.TYPES
        if world.has_front(kind)
        for colour in [colour for other, colour in world.classes() if other == kind][:2]
        for word in range(len(data.VIEW_WORDS))
    ]
    images = bench.draw(
        [f"{PROMPT.format(world.phrase(kind, colour))}, {data.VIEW_WORDS[word]}" for kind, colour, word in asked],
        seed=900_011,
    )
    words = torch.tensor([word for *_, word in asked], device=bench.device)
    texts = [f"{world.phrase(kind, colour)}, {word}" for kind, colour, _ in asked[::4] for word in data.VIEW_WORDS]
    cosines = bench.similarity(images, texts).view(len(asked), -1, len(data.VIEW_WORDS))
    own = cosines[torch.arange(len(asked)), torch.arange(len(asked)) // len(data.VIEW_WORDS)]
    return {
        "prior_view_word_by_scorer": share(own.argmax(1) == words),
        "prior_view_word_by_judge": share(judged(bench.judge, images).view == words),
    }


def prior_relations(bench: Bench, count: int = 256) -> float:
    """Pairs drawn right: the caption beats swapped colours, swapped objects and the other relation."""
    rng = np.random.default_rng(900_012)
    kinds = ["cube", "ball", "cone", "cylinder", "star", "ring"]
    bases = ["cube", "cylinder", "table"]
    texts = []
    for _ in range(count):
        upper, lower = rng.choice(kinds), rng.choice(bases)
        if upper == lower:
            upper = "ball"
        first, second = rng.permutation(["red", "blue", "green", "yellow", "white", "black", "purple"])[:2]
        relation, other = rng.permutation(["on", "next to"])
        texts.append(
            [
                f"{world.phrase(upper, first)} {relation} {world.phrase(lower, second)}",
                f"{world.phrase(upper, second)} {relation} {world.phrase(lower, first)}",
                f"{world.phrase(lower, second)} {relation} {world.phrase(upper, first)}",
                f"{world.phrase(upper, first)} {other} {world.phrase(lower, second)}",
                world.phrase(upper, first),
                world.phrase(lower, second),
            ]
        )
    images = bench.draw([PROMPT.format(options[0]) for options in texts], seed=900_013)
    flat = [text for options in texts for text in options]
    cosines = bench.similarity(images, flat).view(count, count, -1)
    # "a on b" against "b on a": next to has no order, so its swapped order is no mistake.
    own = cosines[torch.arange(count), torch.arange(count)]
    symmetric = torch.tensor([" next to " in options[0] for options in texts], device=bench.device)
    own[:, 2] = own[:, 2].masked_fill(symmetric, -1)
    return share(own.argmax(1) == 0)


def gate_reward(bench: Bench) -> dict[str, float]:
    from pipeline.embedded import train_reward

    return train_reward.gate(bench.weights, bench.device)


def gate_shape(bench: Bench) -> dict[str, float]:
    from pipeline.embedded import train_shape

    return train_shape.gate(bench.weights, bench.device)


GATES: dict[str, Callable[[Bench], dict[str, float]]] = {
    "vae": gate_vae,
    "scorer": gate_scorer,
    "prior": gate_prior,
    "reward": gate_reward,
    "shape": gate_shape,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=weights_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default=",".join(GATES), help=f"of {', '.join(GATES)}")
    parser.add_argument("--out", type=Path, default=None, help="default WEIGHTS/gates.json")
    args = parser.parse_args()
    target = args.out or args.weights / "gates.json"
    measured = json.loads(target.read_text()) if target.exists() else {}
    bench = Bench(args.weights, args.device)
    for name in args.only.split(","):
        measured |= {key: round(value, 4) for key, value in GATES[name](bench).items()}
        log(name, "measured")
        target.write_text(json.dumps(measured, indent=2) + "\n")
    for key, value in measured.items():
        goal = GOALS.get(key)
        verdict = "" if goal is None else f"  goal {goal:<6} {'met' if value >= goal else 'MISSED'}"
        print(f"{key:45s} {value:8.4f}{verdict}")


if __name__ == "__main__":
    main()
