from dataclasses import replace

import pytest

from pipeline.digests import digest
from pipeline.plan.jobs import Job, Method, plan, without_machine
from pipeline.prompts.prompt import Prompt
from sctd.recipe.methods import for_objective
from sctd.recipe.presets import embedded
from sctd.recipe.recipe import with_overrides

BALL = with_overrides(embedded(), {"initialization.kind": "ball"})
JOB = Job(Prompt("a-cube", "a cube", "cube"), BALL, seed=0, weights="w")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": Prompt("a-cube", "a red cube", "cube")},
        {"recipe": BALL.model_copy(update={"iterations": 301})},
        {"recipe": for_objective(BALL, "sds")},
        {"seed": 1},
        {"weights": "v"},
    ],
)
def test_the_id_changes_with_everything_that_can_change_the_asset(change):
    assert replace(JOB, **change).id != JOB.id


def test_the_id_tells_texts_with_the_former_padding_token_apart():
    """Assets that older versions made of such texts are not reused; the ids of all others stay (test_first_release)."""
    for changed in (
        replace(JOB, prompt=Prompt("a-cube", "a cube!", "cube")),
        replace(JOB, recipe=with_overrides(BALL, {"guidance.negative_prompt": "no!"})),
    ):
        content = {
            "text": changed.prompt.text,
            "shape_text": None,
            "recipe": without_machine(changed.recipe),
            "seed": 0,
            "weights": "w",
            "method_version": 2,
        }
        assert changed.id == digest(content | {"tokenizer_version": 2})[:16] != digest(content)[:16]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": Prompt("another-id", "a cube", "cube")},
        {"prompt": Prompt("a-cube", "a cube", "the short text, which a ball does not use")},
        {"recipe": BALL.model_copy(update={"name": "renamed"})},
        {"label": "sctd num_segments=5"},
    ],
)
def test_the_id_does_not_change_with_names(change):
    assert replace(JOB, **change).id == JOB.id


def test_the_short_text_changes_the_id_only_with_point_e():
    point_e = JOB.recipe.model_copy(
        update={"initialization": JOB.recipe.initialization.model_copy(update={"kind": "point_e"})}
    )
    other = Prompt("a-cube", "a cube", "box")
    assert replace(JOB, recipe=point_e).id != replace(JOB, recipe=point_e, prompt=other).id


def test_an_initialization_file_changes_the_id_by_its_content_not_its_path(tmp_path):
    def starting_from(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        shape = JOB.recipe.initialization.model_copy(update={"kind": "ply", "path": str(tmp_path / name)})
        return replace(JOB, recipe=JOB.recipe.model_copy(update={"initialization": shape})).id

    assert starting_from("a.ply", b"one") == starting_from("b.ply", b"one") != starting_from("b.ply", b"two")


def test_the_id_is_16_hexadecimal_digits_of_a_canonical_digest():
    assert len(JOB.id) == 16
    assert set(JOB.id) <= set("0123456789abcdef")
    assert digest({"a": 1, "b": [2, "ß"]}) == digest({"b": [2, "ß"], "a": 1})


def test_a_plan_is_ordered_by_prompt_then_method():
    prompts = [Prompt(name, name, name) for name in ("first", "second")]
    methods = [Method("ours", embedded()), Method("sds", for_objective(embedded(), "sds"))]
    jobs = plan(prompts, methods, seed=7, weights=lambda _: "w")
    assert [(job.prompt.text, job.method, job.objective, job.seed) for job in jobs] == [
        ("first", "ours", "sctd", 7), ("first", "sds", "sds", 7),
        ("second", "ours", "sctd", 7), ("second", "sds", "sds", 7),
    ]  # fmt: skip
    assert len({job.id for job in jobs}) == 4


def test_min_gpu_gib_changes_no_job():
    small, large = (with_overrides(embedded(), {"compute.min_gpu_gib": size}) for size in ("0", "24"))
    assert small != large
    assert without_machine(small) == without_machine(large)
