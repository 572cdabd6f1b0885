"""Which keys have an effect, measured: the tables agree with what is read, and with what changes an asset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
import trimesh
from trimesh.visual import ColorVisuals

from sctd.diffusion.times import Times
from sctd.objectives import load
from sctd.point_e import PointDiffusionTransformer, PointE, PointEConfig, SamplerConfig
from sctd.recipe.effects import CONDITIONS, OPTIONS, RULES, has_effect, readers, with_settings
from sctd.recipe.fields import Config
from sctd.recipe.gradient import TimesConfig
from sctd.recipe.methods import METHODS, for_objective
from sctd.recipe.objective import ENTRIES
from sctd.recipe.presets import embedded, paper
from sctd.recipe.recipe import Recipe, RecipeError, from_json, keys, value_of, with_overrides
from sctd.train import draws
from sctd.train.initialization import initial_gaussians
from tests.support.analytic import mixture
from tests.support.tiny_prior import growing, recipe, rows, run
from tests.support.toy_adapters import completed

PAIRS = [(name, rule) for name, entry in ENTRIES.items() for rule in entry.rules]
TRAINER = (
    "objective.", "guidance.", "times.", "noise.", "encoding.", "cameras.", "background.", "optimizer.", "densify.",
    "relocate.", "bounds.", "brightness.", "regularizers.", "sh_degree", "iterations",
)  # fmt: skip
NOT_VISIBLE = {
    # They decide whether a run fails, or where and how fast it computes.
    "max_skipped_iterations", "compute.dtype", "compute.min_gpu_gib", "compute.cuda_graphs",
    # Both need files: a custom objective and a ControlNet.
    "objective.function", "guidance.control", "guidance.control_scale",
    # Another objective needs other settings, too.
    "objective.name", "times.rule",
}  # fmt: skip


def changed(base: Recipe, key: str) -> Iterator[Recipe]:
    """Valid recipes that differ in this key only."""
    value = value_of(base, key)
    part: Any = Recipe
    for name in key.split("."):
        about = part.model_fields[name]
        part = about.annotation
    if get_origin(part) is Literal:
        tried: list[Any] = [other for other in get_args(part) if other != value]
    elif isinstance(value, bool):
        tried = [not value]
    elif isinstance(value, str):
        tried = [f"{value} yellow"]
    elif isinstance(value, tuple):
        pairs = [(0.7, 0.7), (0.7, 1), (1, 0.7), (0.9, 1.1), (1, 1.5), (0.2, 2)]
        tried = [(type(value[0])(value[0] * a), type(value[1])(value[1] * b)) for a, b in pairs]
        tried += [
            (value[0] + 20, value[1] - 20),
            (value[0] + 1, value[1] + 2),
            (value[0] + 7, value[1] - 7),
            (1e-3, 2e-3),
        ]
    elif isinstance(value, int):
        tried = [value + 1, value - 1, value + 30, value * 3 // 2, value // 2, 2, 9, 480, 520, 720, 999]
    else:
        tried = [value * 1.5, value * 0.5, value + 0.4, value * 0.1, value * 20, 0.0, 1.0, 0.02]
    for other in tried:
        try:
            found = with_overrides(base, {key: other})
        except RecipeError:
            continue
        if found != base:
            yield found


class Recording(TimesConfig):
    """Settings that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in TimesConfig.model_fields:
            super().__getattribute__("__dict__")["seen"].add(f"times.{name}")
        return super().__getattribute__(name)


@pytest.mark.parametrize("segments", ["equal", "increasing"])
@pytest.mark.parametrize("rule", RULES)
def test_the_table_of_rules_has_exactly_the_keys_that_the_draw_of_times_reads(rule: str, segments: str) -> None:
    name = {"single": "sds", "two_intervals": "gcs", "annealed": "cds", "linear": "sdi"}.get(rule, "ism")
    chosen = with_overrides(for_objective(paper(), name), {"times.rule": rule, "times.segments": segments})
    times = Recording.model_construct(**dict(chosen.times))
    times.__dict__["seen"] = set()
    draws.times(chosen.model_copy(update={"times": times}), 40, torch.Generator().manual_seed(0))
    threshold = {"times.threshold"} if (rule, segments) == ("segments", "increasing") else set()
    assert times.__dict__["seen"] == {"times.rule", *RULES[rule]} | threshold
    shown = {key for key in keys(chosen) if key.startswith("times.") and has_effect(chosen, key)}
    assert shown == times.__dict__["seen"]


@pytest.mark.parametrize("name", ENTRIES)
def test_only_objectives_that_support_the_rule_single_use_t_alone(name: str) -> None:
    world = mixture(5, spread=0.3)
    z_0, noise = torch.randn(2, 3, *world.means.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    given = {"z_0": z_0, "denoise": world, "text": world.text([0], 3), "noise": noise, "schedule": world.schedule}
    given, pair = completed(load(name), given, world), (Times(560, 450, 400), Times(560, 460, 300))
    one, other = (load(name)(**given, times=times) for times in pair)
    assert torch.equal(one, other) == ("single" in ENTRIES[name].rules)


@pytest.mark.parametrize("name", ENTRIES)
def test_exactly_the_guided_objectives_call_the_guided_denoiser_with_a_text(name: str) -> None:
    world, guided = mixture(5, spread=0.3), []

    def denoise(z_t: torch.Tensor, t: int, text: torch.Tensor | None) -> torch.Tensor:
        guided.append(text is not None)
        return world(z_t, t, text)

    z_0, noise = torch.randn(2, 3, *world.means.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    given = {"z_0": z_0, "denoise": denoise, "text": world.text([0], 3), "noise": noise, "schedule": world.schedule}
    load(name)(**completed(load(name), given | {"times": Times(560, 450, 400), "unguided": world}, world))
    assert any(guided) == ENTRIES[name].is_guided
    has = {has_effect(for_objective(paper(), name), f"guidance.{key}") for key in ("scale", "perp_neg")}
    assert has == {ENTRIES[name].is_guided}


@pytest.mark.parametrize(
    ("name", "rule", "weight"),
    [*((*pair, "one") for pair in PAIRS), *((*pair, "b_t") for pair in PAIRS if "single" in ENTRIES[pair[0]].rules)],
)
def test_exactly_the_keys_with_an_effect_change_the_times(name: str, rule: str, weight: str) -> None:
    """b(t) uses s_m, also if the objective uses t alone."""
    small = {"times.rule": rule, "iterations": 60, "times.warmup_share": 0.9, "objective.time_weight": weight}
    for varied in ({}, {"times.warmup_share": 0}, {"times.high": 980}, {"times.segments": "increasing"}):
        base = with_overrides(for_objective(paper(), name), small | varied)
        plain = drawn(base)
        for key in keys(base):
            # The threshold also belongs to the inversion of SCTD.
            if key.startswith("times.") and key not in ("times.rule", *ENTRIES[name].options):
                others = list(changed(base, key))
                assert any(drawn(other) != plain for other in others) == has_effect(base, key) or not others, (
                    key, varied)  # fmt: skip


def drawn(chosen: Recipe) -> list[tuple[int, ...]]:
    """What objective and time weight use of the times of each iteration."""
    source = torch.Generator().manual_seed(0)
    found = [draws.times(chosen, number, source) for number in range(1, chosen.iterations + 1)]
    if "single" not in ENTRIES[chosen.objective.name].rules:
        return list(found)
    return [(times.t, times.s_m) if chosen.objective.time_weight == "b_t" else (times.t,) for times in found]


DEAD = {"relocate__dead_opacity": 0.3, "relocate__until_share": 1}
BASES = {
    "embedded": recipe(iterations=9, **DEAD),
    "one view": recipe(iterations=4, cameras__views=1, cameras__overhead_share=1, optimizer__quats__end=0.02, **DEAD),
    "paper": growing(relocate__enabled=False, densify__prune_large_after=3),
    "all parts": growing(
        relocate__enabled=True, relocate__interval=3, brightness__enabled=True, densify__reset_interval=0,
        densify__prune_large_after=3, regularizers__oversize=1.0, background__white_share=0.33, sh_degree=0,
        optimizer__clip_norm=(0.01, 0.02), cameras__progress_every=100, **DEAD,
    ),
}  # fmt: skip
"""Between them each part of the trainer is on and off."""


@pytest.mark.parametrize("name", BASES)
def test_keys_without_an_effect_change_no_asset(name: str) -> None:
    """All of them at once."""
    base = BASES[name]
    other, count = base, 0
    for key in keys(base):
        if key.startswith(TRAINER) and not has_effect(base, key) and key not in NOT_VISIBLE:
            other, count = next((found for found in changed(other, key) if same_effects(base, found)), other), count + 1
    assert sum(value_of(other, key) != value_of(base, key) for key in keys(base)) > 0.9 * count > 15
    assert torch.equal(asset(other), asset(base))


def same_effects(one: Recipe, other: Recipe) -> bool:
    return all(has_effect(one, key) == has_effect(other, key) for key in keys(one))


def asset(chosen: Recipe) -> torch.Tensor:
    return rows(run(chosen)[-1].gaussians)


@pytest.mark.parametrize("name", BASES)
def test_keys_with_an_effect_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, read, plain = BASES[name], set[tuple[int, str]](), Config.__getattribute__

    def recorded(config: Config, attribute: str) -> Any:
        read.add((id(config), attribute))
        return plain(config, attribute)

    with monkeypatch.context() as patch:
        patch.setattr(Config, "__getattribute__", recorded)
        run(base)
    effective = [key for key in keys(base) if key.startswith(TRAINER) and key not in NOT_VISIBLE]
    effective = [key for key in effective if has_effect(base, key)]
    groups = {key: key.rpartition(".")[0] for key in effective}
    owners = {key: id(value_of(base, group) if group else base) for key, group in groups.items()}
    assert len(effective) > 50
    assert [key for key in effective if (owners[key], key.rpartition(".")[2]) not in read] == []


@pytest.mark.parametrize(
    ("key", "value", "off", "on"),
    [
        ("noise.shared", True, {"cameras.views": 1}, {}),
        ("optimizer.clip_share", 0.9, {"optimizer.clip_norm": (1e-3, 1e-3)}, {"optimizer.clip_norm": (1e-3, 1e-2)}),
        ("optimizer.quats.decay", "log", {"optimizer.quats.end": 0.02}, {}),
        ("optimizer.sh_rest.start", 0.1, {}, {"sh_degree": 1}),
        ("bounds.colour", False, {"sh_degree": 1}, {"optimizer.sh_constant.start": 2, "optimizer.sh_constant.end": 2}),
        ("cameras.elevation_degrees", (0, 9), {"cameras.overhead_share": 1}, {}),
        ("cameras.overhead_elevation_degrees", (55, 60), {"cameras.overhead_share": 0}, {"cameras.overhead_share": 1}),
        ("cameras.radius_factor", 0.5, {"cameras.progress_every": 10}, {"cameras.progress_every": 9}),
        ("background.darkest", 0.6, {"background.black_share": 0.8, "background.grey_share": 0}, {}),
        ("regularizers.after_share", 0.5, {"regularizers.oversize": 0, "regularizers.alpha_entropy": 0}, {}),
        ("regularizers.oversize_limit", 0.01, {"regularizers.oversize": 0}, {}),
    ],
)
def test_a_key_that_is_read_may_still_have_no_effect(key: str, value: Any, off: Any, on: Any) -> None:
    base = recipe(iterations=9, cameras__radius_min=(1, 1), sh_degree=0)
    for others, expected in ((off, False), (on, True)):
        one = with_overrides(base, others)
        other = with_overrides(one, {key: value})
        assert has_effect(one, key) == has_effect(other, key) == expected
        assert torch.equal(asset(one), asset(other)) != expected


def test_the_weight_of_a_controlnet_is_read_only_with_one() -> None:
    assert not has_effect(paper(), "guidance.control_scale")
    assert has_effect(with_overrides(paper(), {"guidance.control": "depth"}), "guidance.control_scale")


@pytest.mark.parametrize("kind", ["ball", "sphere", "box", "ply", "mesh", "point_e"])
def test_exactly_the_keys_with_an_effect_change_the_initialization(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "shape.ply") if kind in ("ply", "mesh") else ""
    box = trimesh.creation.box(extents=(1, 2, 3))
    box.visual = ColorVisuals(vertex_colors=np.tile(np.uint8([200, 10, 10, 255]), (8, 1)))
    points = np.random.default_rng(0).normal(size=(60, 3))
    cloud = trimesh.PointCloud(points, np.tile(np.uint8([200, 10, 10, 255]), (60, 1)))
    (box if kind == "mesh" else cloud).export(tmp_path / "shape.ply")
    given = {"kind": kind, "path": path, "count": 30, "replicas": 3, "colour_noise": 0.01}
    for coloured in (False, True):
        base = with_overrides(embedded(), {f"initialization.{key}": x for key, x in given.items()})
        base = with_overrides(base, {"initialization.use_point_cloud_colours": coloured, "initialization.scale": 0})
        plain = initial(base)
        for key in keys(base):
            if key.startswith("initialization.") and key not in ("initialization.kind", "initialization.path"):
                differs = any(not torch.equal(initial(other), plain) for other in changed(base, key))
                # A point cloud or mesh without colours is grey.
                assert differs == has_effect(base, key) or (key, coloured) == ("initialization.colour", True), key


def initial(chosen: Recipe) -> torch.Tensor:
    """The Gaussians, with a Point-E of random weights whose text vector depends on the text."""
    sampler = SamplerConfig(steps=3, sigma_max=5.0, s_churn=0.0)
    config = PointEConfig(n_ctx=20, width=16, layers=1, heads=2, clip_width=8, axes="world", sampler=sampler)
    model, source = PointDiffusionTransformer(config).requires_grad_(False), torch.Generator().manual_seed(1)
    for weights in model.parameters():
        weights.normal_(0, 0.3, generator=source)
    point_e = PointE(lambda texts: np.full((len(texts), 8), len(texts[0]), np.float32), model)
    return rows(initial_gaussians(chosen.initialization, "a cube", torch.Generator().manual_seed(0), point_e))


def test_every_condition_is_about_known_keys_and_none_depends_on_a_key_of_its_own() -> None:
    known = set(keys(Recipe()))
    assert set(RULES) == set(get_args(TimesConfig.model_fields["rule"].annotation))
    for condition in CONDITIONS:
        assert condition.keys
        assert {*condition.keys} <= known
        assert {*condition.on} <= known | {"objective"}
        assert not {*condition.keys} & {*condition.on}
    assert known >= OPTIONS
    for base in (paper(), embedded()):
        for key in known - {"name"}:
            assert has_effect(base, key) or readers(key), f"{key}: the table of keys does not say why"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "sctd", {"times.interval": 80},
            ("times.interval has no effect on sctd (times.rule is segments); keys read there: times.rule, "
            "times.segments, times.num_segments, times.segment_range, times.threshold, times.minimum_interval, "
            "times.epsilon, times.low, times.high, times.start_high, times.warmup_share, times.shift_lower_bound"),
        ),
        (
            "sds", {"objective.outer_weight": 8.5},
            ("objective.outer_weight has no effect on sds; keys read there: objective.name, objective.function, "
            "objective.time_weight, objective.weight, objective.clamp"),
        ),
        (
            "sctd", {"densify.interval": 7},
            ("densify.interval has no effect on sctd (densify.enabled is false); keys read there: densify.enabled"),
        ),
        (
            "sctd", {"seed_shape.cloud_steps": 9, "seed_shape.kind": "ball"},
            ("initialization.point_e_steps has no effect on sctd (initialization.kind is ball); keys read there: "
            "initialization.kind, initialization.count, initialization.radius, initialization.opacity, "
            "initialization.scale, initialization.colour, initialization.colour_noise"),
        ),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_refused_with_those_that_have_one(method: str, settings: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_settings(for_objective(embedded(), method), settings)
    assert str(caught.value) == message


def test_the_result_counts_and_not_the_base() -> None:
    """Keys may enable each other; the name of a recipe is always accepted, and so is a value that a key has."""
    both = {"densify.enabled": True, "densify.interval": 7, "name": "x", "iterations": 300}
    assert with_settings(embedded(), both).densify.interval == 7
    with pytest.raises(RecipeError, match=r"^relocate.spread has no effect on sctd \(relocate.enabled is false\)"):
        with_settings(embedded(), {"relocate.spread": 0.7, "relocate.enabled": False})
    with pytest.raises(RecipeError, match=r"unknown recipe key 'times.rul'"):
        with_settings(embedded(), {"times.rul": 1})


def test_options_of_a_custom_objective_are_its_parameters(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("LIKE = 'sds'\ndef f(z_0, denoise, text, noise, times, schedule, outer_weight, threshold): ...")
    chosen = for_objective(embedded(), f"{own}:f")
    assert with_settings(chosen, {"objective.outer_weight": 3, "times.threshold": 9}).times.threshold == 9
    with pytest.raises(RecipeError, match=r"^objective.self_sign has no effect on f; keys read there: objective.func"):
        with_settings(chosen, {"objective.self_sign": -1})
    with pytest.raises(RecipeError, match=r"^objective.name has no effect on f \(objective.function is "):
        with_settings(chosen, {"objective.name": "sds"})


@pytest.mark.parametrize("method", METHODS)
def test_a_method_and_a_stored_recipe_may_have_keys_without_effect(method: str) -> None:
    chosen = for_objective(paper(), method)
    assert from_json(chosen.model_dump_json(), embedded()) == chosen
