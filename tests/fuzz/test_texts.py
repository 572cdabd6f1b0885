"""Readers of texts that users write: prompt suites, recipes, options, gates, tables and published ranks."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.leaderboard import table, user_study
from pipeline.nightly import gates
from pipeline.plan import recipes, sweep
from pipeline.plan.jobs import Method
from pipeline.prompts import suites
from sctd.recipe.names import leaves
from sctd.recipe.presets import embedded
from sctd.recipe.recipe import Recipe, keys
from tests.support.fuzzing import (
    ODD,
    PIECES,
    Refused,
    changed_trees,
    chosen,
    damaged,
    fuzz,
    json_files,
    outcome,
    put,
)

CHARACTERS = st.sampled_from("aé中🎈 |#\",;\t=-+@'\n\r\u2028\x00\x1b\ufeff\u200d\u00a0\ud800:[]{}")
WORDS = st.text(CHARACTERS, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass"))
PROMPTS = [
    "a red cube",
    "a cat | cat",
    "# a comment",
    "",
    "=1+1",
    "a castle, with towers",
    "中国の城",
    "x" * 1_001,
    "| b",
]
TREES = st.sampled_from(
    [["a cat", "a dog"], {"one": ["a cat"], "two": ["b"]}, [{"prompt": "a cat", "id": 1}], {"prompt": "a"}]
)


def lines(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(values, max_size=5).map(b"\n".join)


TEXTS = lines(st.one_of(st.sampled_from(PROMPTS).map(str.encode), WORDS))
TABLES = st.builds(
    lambda head, rows, mark: mark.join(head) + b"\n" + b"\n".join(mark.join(row) for row in rows),
    st.lists(st.sampled_from([b"prompt", b"Prompt ", b"id", b'"a', b""]), max_size=3),
    st.lists(st.lists(st.one_of(st.sampled_from([b"a cat", b'"a, b"', b'"', b""]), WORDS), max_size=3), max_size=4),
    st.sampled_from([b",", b"\t", b";"]),
)
SUITES = {
    ".txt": TEXTS,
    ".json": json_files(TREES),
    ".jsonl": lines(changed_trees(TREES).map(lambda tree: json.dumps(tree).encode())),
    ".csv": TABLES,
}


@pytest.mark.parametrize("suffix", SUITES)
def test_prompt_suites(suffix, tmp_path):
    path = Path(tmp_path) / f"suite{suffix}"

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: suites.suite(str(path)), UserError)
        if isinstance(found, Refused):
            return
        assert found
        assert len({prompt.id for prompt in found}) == len(found)
        for prompt in found:
            assert prompt.text == prompt.text.strip() != ""
            assert prompt.shape_text
            assert len(prompt.text) <= suites.MAX_CHARACTERS
            for text in (prompt.text, prompt.shape_text):
                assert all(letter.isprintable() or letter in suites.TEXT_MARKS for letter in text)
            assert prompt.id == suites.slug(prompt.id, 60)
        again = suites.prompts(p.text if p.shape_text == p.text else f"{p.text}|{p.shape_text}" for p in found)
        assert [(p.text, p.shape_text) for p in again] == [(p.text, p.shape_text) for p in found]

    fuzz(st.one_of(SUITES[suffix], damaged(SUITES[suffix])), check)


RECIPE = json.loads(embedded().model_dump_json())
KEYS = list(keys(Recipe()))
PARTS = [
    {"iterations": 30, "guidance": {"scale": 7.5}},
    {"base": "paper", "objective": {"name": "ism"}, "times": {"num_segments": 3}},
    {"name": "a", "sweep": {"times.num_segments": [1, 3]}, "seed_shape": {"kind": "ball"}},
    {"sweep": [{"guidance": {"scale": [1, 2]}}, {"cameras.fov_y_degrees": [[1, 2]]}], "compute.fast": False},
    {"guidance": RECIPE["guidance"], "initialization": {"kind": "sphere", "count": 5}},
]
BOMB = ["\n".join([f"b{n}: &b{n} [{','.join(9 * [f'*b{n - 1}'])}]" if n else "b0: &b0 [1]" for n in range(9)]) + "\n"]
YAML = [
    "iterations: 30\n", "a: &a [1]\nb: *a\n", "? [1]\n: 2\n", "iterations: 0x1F\n", "1: 2\n", "name: 2026-01-01\n",
    "a: !!python/object:os.system x\n", "<<: {iterations: 3}\n", "&a [*a]\n", "&a {iterations: *a}\n", "- a\n",
    "name: .nan\n", "name: !!binary aGk=\n", "iterations: !!set {1}\n", "base: [embedded]\n", "sweep: [[1]]\n",
    "guidance: 1\n", "sweep: {2026-01-01: [1]}\n", "--- 1\n--- 2\n", "guidance: {scale: 1, scale: 2}\n",
    "? {a: 1}\n: 2\n", "name: 2026-13-45\n", "iterations: " + "1" * 5_000, "[" * 1_000, *BOMB,
]  # fmt: skip


def recipe_files() -> st.SearchStrategy[bytes]:
    parts = chosen(PARTS)
    trees = st.one_of(
        changed_trees(parts),
        changed_trees(parts),
        st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), max_size=2),
    )
    texts = st.one_of(
        trees.map(lambda tree: json.dumps(tree).encode()),
        trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")),
        lines(st.sampled_from(YAML).map(str.encode)),
    )
    return st.one_of(texts, texts, damaged(texts))


def check_recipe(recipe: Recipe) -> None:
    """It is stored and read again without a change."""
    for _, value in leaves(recipe.model_dump()):
        assert not isinstance(value, float) or math.isfinite(value)
    assert Recipe.model_validate(json.loads(json.dumps(recipe.stored()))) == recipe


def test_recipe_files(tmp_path):
    path = Path(tmp_path) / "recipe.yaml"

    def check(file: bytes) -> None:
        put(path, file)
        base = outcome(lambda: recipes.named(str(path)), UserError)
        if isinstance(base, Refused):
            return
        check_recipe(base.recipe)
        if base.sweeps:
            found = outcome(lambda: sweep.methods(base.recipe, ["sctd"], {}, base.sweeps), UserError)
            if not isinstance(found, Refused):
                check_methods(found)

    fuzz(recipe_files(), check)


def check_methods(found: list[Method]) -> None:
    assert found
    assert len({method.label for method in found}) == len(found)
    check_recipe(found[-1].recipe)


VALUES = st.one_of(
    st.sampled_from(
        [
            "1",
            "0",
            "-1",
            "0.5",
            "1e400",
            "nan",
            "1,2",
            "1,2;3,4",
            "(1,2)",
            "[1]",
            "",
            "true",
            "None",
            "x",
            "ball",
            "1;",
            ",",
            "1_000",
        ]
    ),
    st.sampled_from(ODD).map(str),
    WORDS.map(lambda text: text.decode("utf-8", "surrogatepass")),
)
OPTIONS = st.lists(
    st.builds(
        lambda key, mark, value: f"{key}{mark}{value}",
        st.one_of(
            st.sampled_from(KEYS),
            st.sampled_from(["", "guidance", "seed_shape.kind", "times.numsegments", "a.b", "objective.name", "."]),
        ),
        st.sampled_from(["=", "=", "=", " = ", "", "=="]),
        VALUES,
    ),
    max_size=3,
)


def test_options():
    """`--set`, `--sweep` and `--objective`."""
    base = embedded()

    def check(options: tuple[list[str], list[str], str]) -> None:
        settings, swept, objectives = options
        found = outcome(
            lambda: sweep.methods(
                base,
                recipes.objectives(objectives),
                recipes.settings(settings),
                sweep.combined([], sweep.from_options(swept, base)),
            ),
            UserError,
        )
        if not isinstance(found, Refused):
            check_methods(found)

    names = st.sampled_from(
        ["sctd", "sctd,ism", "sds,sds-authors", "", "x", "a.py", "/nowhere.py:f", "sctd,,", "ism-authors"]
    )
    fuzz(st.tuples(OPTIONS, OPTIONS, st.one_of(names, names, VALUES)), check)


GATES = gates.BUNDLED.read_bytes()
TOML = [
    "confidence = 0.9", "confidence = 1", "confidence = nan", "[clip]", "delta = 0.5", "delta = inf", "delta = -1",
    "x = 1", "clip = 3", "clip = [1]", "[clip.a]", "standard_errors = true", "[[clip]]", "delta = 1979-05-27",
    "a.b.c = 1", '"" = 1', "[fid]",
]  # fmt: skip


def test_gates(tmp_path):
    path = Path(tmp_path) / "gates.toml"

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: gates.read(path), UserError)
        if not isinstance(found, Refused):
            assert 0.5 <= found.confidence < 1
            assert all(0 < gate.margin(None) < math.inf for gate in found.gates.values())

    fuzz(st.one_of(lines(st.sampled_from(TOML).map(str.encode)), damaged(st.just(GATES))), check)


RANKS = st.builds(
    lambda head, rows: ",".join(head) + "\n" + "\n".join(",".join(row) for row in rows),
    st.sampled_from([["method", "q1_rank"], ["method", "q1_rank", "q2_rank"], ["q1_rank"], ["a"], []]),
    st.lists(
        st.lists(st.sampled_from(["sds", "1", "2", "1.5", "nan", "inf", "-1", "", '"', "1e400"]), max_size=4),
        max_size=4,
    ),
).map(str.encode)


def test_published_ranks(tmp_path):
    path = Path(tmp_path) / "ranks.csv"

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: user_study.published(path), UserError)
        if not isinstance(found, Refused):
            for row in found:
                assert all(1 <= row[name] <= len(found) for name in row if name != "method")

    fuzz(st.one_of(RANKS, damaged(RANKS)), check)


CELLS = st.one_of(
    st.none(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
LABELS = st.text(st.sampled_from("aé中=+-@'\t\r\n ,\"|#1."), min_size=1, max_size=6)


def test_tables():
    """What is written is read again; the texts of spreadsheets' formulas are unchanged."""

    def check(rows: list[tuple[str, float]]) -> None:
        made = table.from_rows([{"prompt": f"a{text}" if number else text, "clip": number} for text, number in rows])
        content = table.csv(made)
        again = outcome(lambda: table.read_csv(content), UserError)
        assert not isinstance(again, Refused)
        assert list(again["prompt"]) == [text.replace("\r\n", "\n").replace("\r", "\n") for text in made["prompt"]]
        assert list(again["clip"]) == list(made["clip"])

    text = LABELS.filter(lambda label: label.strip(" \t\r\n1.+-'") != "")
    fuzz(st.lists(st.tuples(text, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=3), check)


def test_damaged_tables():
    made = table.csv(
        table.from_rows([{"method": "sctd", "clip@tiny": 1.5, "prompt": "=1"}, {"method": "é", "clip@tiny": None}])
    )

    def check(file: bytes) -> None:
        outcome(lambda: table.rows_of(table.read_csv(file)), UserError)

    fuzz(st.one_of(damaged(st.just(made)), RANKS, TABLES, st.sampled_from(PIECES)), check)
