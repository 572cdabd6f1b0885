"""Quality gates of the bundled models on unseen data: `python -m pipeline.embedded.gates`.

Prints a table of measured values and goals and writes it as JSON; docs/models.md shows it. Sampling 25 steps for about
800 prompts needs a GPU. On a CPU, select a part with `--only`.
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
from pipeline.embedded.gate_classifier import COLOURS, classify, load_gate_classifier
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
    "clip_faces_janus": 0.95,
    "clip_faces_front_alone": 0.95,
    "clip_faces_no_front_alone": 0.95,
    "clip_faces_round_alone": 0.95,
    "clip_faces_turned_alone": 0.95,
    "clip_faces_damage": 0.90,
    "clip_faces_noise": 0.95,
    "reward_right_over_wrong_caption": 0.95,
    "reward_clean_over_damaged": 0.90,
    "reward_monotone_in_blur": 1.0,
    "shape_nearest_class": 0.80,
}
PROMPT = "a DSLR photo of {}"


@dataclass
class ModelsUnderTest:
    """The models under test, loaded once, and their tokenizer."""

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
        self.gate_classifier = load_gate_classifier(self.weights / "judge", self.device)

    def ids(self, texts: list[str]) -> Tensor:
        return torch.from_numpy(tokenizer.encode(self.weights / "prior" / "tokenizer", texts)).to(self.device)

    def draw(self, prompts: list[str], seed: int) -> Tensor:
        """One image per prompt: uint8 [P,3,64,64], CFG 7.5, 25 DDIM steps."""
        null = self.ids([""])[0]
        return train_prior.sample(
            self.vae, self.unet, self.text_encoder, self.ids(prompts), null, guidance_scale=7.5, seed=seed
        )

    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosine similarities [N, P] of the scorer."""
        text = train_scorer.text_features(self.scorer, self.ids(texts))
        return train_scorer.image_features(self.scorer, images) @ text.T


def share(right: Tensor) -> float:
    return float(right.float().mean())


def gate_vae(models: ModelsUnderTest) -> dict[str, float]:
    dataset = data.generate(250, 4, seed=900_001, device=models.device)
    return {"vae_psnr_db": train_prior.reconstruction_psnr(models.vae, dataset.images)}


def retrieval(models: ModelsUnderTest, heldout: bool) -> tuple[float, float]:
    """Top-1 among 250 images and 250 captions. Another caption with the same meaning does not count as wrong."""
    dataset = data.generate(250, 1, seed=900_002 + heldout, device=models.device, heldout=heldout)
    cosines = models.similarity(dataset.images, [pair[0] for pair in dataset.captions])
    key, view = dataset.key_ids, caption_views(dataset)
    same = (key[:, None] == key) & ((view[:, None] == view) | (view[:, None] == 0) | (view == 0))
    right = torch.arange(len(dataset), device=models.device)
    cosines = cosines.masked_fill(same & (right[:, None] != right), -1)
    return share(cosines.argmax(1) == right), share(cosines.argmax(0) == right)


def caption_views(dataset: data.Data) -> Tensor:
    """The view that each first caption names (0: none). View words are merged if the views of a type look the same.

    The back view of a ball equals its side view, so either caption is correct.
    """
    colours = dict(world.classes())
    scenes = [world.single(np.random.default_rng(7), kind, colours[kind]) for kind in world.TYPES]
    rendered = render_views(scenes, np.array([0.0, 90.0, 180.0]), 15.0, "cpu").flatten(2)  # front, side, back
    named = torch.arange(1 + len(data.VIEW_WORDS)).repeat(len(scenes) + 1, 1)  # the last row: pairs of objects
    for view in 1, 2:
        for other in range(view):
            same = (rendered[:, view] == rendered[:, other]).all(1)
            named[:-1, 1 + view][same] = named[:-1, 1 + other][same]
    kinds = [world.TYPES.index(key[0]) if key[0] in world.TYPES else -1 for key in dataset.keys]
    return named.to(dataset.view_ids.device)[kinds, dataset.view_ids[:, 0]]


def render_views(scenes: list, azimuth: np.ndarray, elevation: float, device: str) -> Tensor:
    """Render each scene from each azimuth: uint8 [scenes, views, 3, 64, 64], with the evaluation camera on white."""
    cameras = world.orbit_cameras(azimuth, np.full(len(azimuth), elevation))
    counts = np.array([len(scene.rows) for scene in scenes], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    index = np.repeat(np.arange(len(scenes), dtype=np.int32), len(azimuth))
    rows = np.concatenate([scene.rows for scene in scenes])
    table = np.tile(cameras.table, (len(scenes), 1)).astype(np.float32)
    images = raytrace.render(rows, starts, counts, index, table, size=64, device=device)
    return images.view(len(scenes), len(azimuth), *images.shape[1:])


def gate_scorer(models: ModelsUnderTest) -> dict[str, float]:
    result: dict[str, float] = {}
    for prefix, heldout in (("scorer_", False), ("scorer_heldout_", True)):
        to_text, to_image = retrieval(models, heldout)
        result |= {prefix + "retrieval_image_to_text": to_text, prefix + "retrieval_text_to_image": to_image}
    classes = world.classes()
    texts = [world.phrase(*pair) for pair in classes]
    right, views = [], np.arange(24) * 15.0
    for start in range(0, len(classes), 64):
        chunk = classes[start : start + 64]
        scenes = [world.single(np.random.default_rng(7), kind, colour) for kind, colour in chunk]
        images = render_views(scenes, views, 0.0, models.device)
        mean = models.similarity(images.flatten(0, 1), texts).view(len(chunk), len(views), -1).mean(1)
        right.append(mean.argmax(1).cpu() == torch.arange(start, start + len(chunk)))
    result["scorer_names_asset"] = share(torch.cat(right))
    result["scorer_names_asset_type"] = _types_of(classes, right)
    fronts = [kind for kind in world.TYPES if world.has_front(kind)]
    answers = []
    for kind in fronts:
        colours = [colour for other, colour in classes if other == kind][:3]
        scenes = [world.single(np.random.default_rng(8), kind, colour) for colour in colours]
        images = render_views(scenes, np.array([0.0, 180.0]), 10.0, models.device).flatten(0, 1)
        for i, colour in enumerate(colours):
            texts = [f"{world.phrase(kind, colour)}, front view", f"{world.phrase(kind, colour)}, back view"]
            cosines = models.similarity(images[2 * i : 2 * i + 2], texts)
            answers.append(cosines.argmax(1).cpu() == torch.arange(2))
    result["scorer_front_against_back"] = share(torch.cat(answers))
    return result


def _types_of(classes: list, right: list[Tensor]) -> float:
    """The smallest share over all types of colours that were named correctly."""
    flat = torch.cat(right)
    kinds = np.array([kind for kind, _ in classes])
    return min(share(flat[torch.from_numpy(kinds == kind)]) for kind in world.TYPES)


def gate_prior(models: ModelsUnderTest) -> dict[str, float]:
    classes = world.classes()
    kinds = torch.tensor([world.TYPES.index(kind) for kind, _ in classes], device=models.device)
    colours = torch.tensor([COLOURS.index(colour) for _, colour in classes], device=models.device)
    heldout = torch.tensor([world.held_out(*pair) for pair in classes], device=models.device)
    phrases = [world.phrase(*pair) for pair in classes]
    images = models.draw([PROMPT.format(phrase) for phrase in phrases], seed=900_010)
    best = models.similarity(images, phrases).argmax(1)
    whole = best == torch.arange(len(classes), device=models.device)
    predicted = classify(models.gate_classifier, images)
    both = (predicted.kind == kinds) & (predicted.colour == colours)
    result = {
        "prior_type_by_scorer": share(kinds[best] == kinds),
        "prior_type_by_judge": share(predicted.kind == kinds),
        "prior_type_and_colour_by_scorer": share(whole),
        "prior_type_and_colour_by_judge": share(both),
        "prior_heldout_pairs_by_scorer": share(whole[heldout]),
        "prior_heldout_pairs_by_judge": share(both[heldout]),
    }
    result |= {
        "judge_on_renders": classifier_accuracy(models, False),
        "judge_on_heldout_renders": classifier_accuracy(models, True),
    }
    result |= prior_views(models)
    result["prior_relations_by_scorer"] = prior_relations(models)
    return result


def classifier_accuracy(models: ModelsUnderTest, heldout: bool) -> float:
    """Share of true, undamaged renders whose type and colour the classifier predicts: the ceiling of its gates."""
    dataset = data.generate(1500, 1, seed=900_014 + heldout, device=models.device, heldout=heldout)
    single = [i for i, key in enumerate(dataset.keys) if key[0] in world.TYPES and key[1] in COLOURS]
    predicted = classify(models.gate_classifier, dataset.images[single])
    kinds = torch.tensor([world.TYPES.index(dataset.keys[i][0]) for i in single], device=models.device)
    colours = torch.tensor([COLOURS.index(dataset.keys[i][1]) for i in single], device=models.device)
    return share((predicted.kind == kinds) & (predicted.colour == colours))


def prior_views(models: ModelsUnderTest) -> dict[str, float]:
    """Share of images of objects with a front that show the view named in the prompt."""
    queries = [
        (kind, colour, word)
        for kind in world.TYPES
        if world.has_front(kind)
        for colour in [colour for other, colour in world.classes() if other == kind][:2]
        for word in range(len(data.VIEW_WORDS))
    ]
    images = models.draw(
        [f"{PROMPT.format(world.phrase(kind, colour))}, {data.VIEW_WORDS[word]}" for kind, colour, word in queries],
        seed=900_011,
    )
    words = torch.tensor([word for *_, word in queries], device=models.device)
    texts = [f"{world.phrase(kind, colour)}, {word}" for kind, colour, _ in queries[::4] for word in data.VIEW_WORDS]
    cosines = models.similarity(images, texts).view(len(queries), -1, len(data.VIEW_WORDS))
    own = cosines[torch.arange(len(queries)), torch.arange(len(queries)) // len(data.VIEW_WORDS)]
    return {
        "prior_view_word_by_scorer": share(own.argmax(1) == words),
        "prior_view_word_by_judge": share(classify(models.gate_classifier, images).view == words),
    }


def prior_relations(models: ModelsUnderTest, count: int = 256) -> float:
    """Share of pairs whose caption scores above swapped colours, swapped objects and the other relation."""
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
    images = models.draw([PROMPT.format(options[0]) for options in texts], seed=900_013)
    flat = [text for options in texts for text in options]
    cosines = models.similarity(images, flat).view(count, count, -1)
    # "a on b" against "b on a". "next to" is symmetric, so its swapped order is not wrong.
    own = cosines[torch.arange(count), torch.arange(count)]
    symmetric = torch.tensor([" next to " in options[0] for options in texts], device=models.device)
    own[:, 2] = own[:, 2].masked_fill(symmetric, -1)
    return share(own.argmax(1) == 0)


def gate_reward(models: ModelsUnderTest) -> dict[str, float]:
    from pipeline.embedded import train_reward

    return train_reward.gate(models.weights, models.device)


def gate_faces(models: ModelsUnderTest) -> dict[str, float]:
    from pipeline.embedded import face_gate

    return face_gate.gate(models.weights, models.device)


def gate_shape(models: ModelsUnderTest) -> dict[str, float]:
    from pipeline.embedded import train_shape

    return train_shape.gate(models.weights, models.device)


GATES: dict[str, Callable[[ModelsUnderTest], dict[str, float]]] = {
    "vae": gate_vae,
    "scorer": gate_scorer,
    "prior": gate_prior,
    "faces": gate_faces,
    "reward": gate_reward,
    "shape": gate_shape,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=weights_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default=",".join(GATES), help=f"gates to measure, of {', '.join(GATES)}")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to update; default: WEIGHTS/gates.json")
    args = parser.parse_args()
    target = args.out or args.weights / "gates.json"
    measured = json.loads(target.read_text()) if target.exists() else {}
    models = ModelsUnderTest(args.weights, args.device)
    for name in args.only.split(","):
        measured |= {key: round(value, 4) for key, value in GATES[name](models).items()}
        log(name, "measured")
        target.write_text(json.dumps(measured, indent=2) + "\n")
    for key, value in measured.items():
        goal = GOALS.get(key)
        verdict = "" if goal is None else f"  goal {goal:<6} {'met' if value >= goal else 'MISSED'}"
        print(f"{key:45s} {value:8.4f}{verdict}")


if __name__ == "__main__":
    main()
