"""The documentation names existing objectives, links, functions and tests, and lists every recipe error."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from pipeline.plan import recipes as pipeline_recipes
from sctd.objectives import ENTRIES, load
from sctd.recipe import custom_file, custom_objective, custom_representation, methods
from sctd.recipe.effects import with_settings
from sctd.recipe.methods import METHODS, for_objective
from sctd.recipe.presets import paper
from sctd.recipe.recipe import Recipe, keys
from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SECTIONS = ("The equation", "Implementation", "Cost", "Recipe", "On exact scores", "On the bundled suite")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def exists(dotted: str) -> bool:
    """A recipe's key, or something in the package sctd (or pipeline), however deep."""
    if dotted in set(keys(Recipe())):
        return True
    names = dotted.split(".")
    names = names if names[0] == "pipeline" else ["sctd", *names]
    for depth in range(len(names), 0, -1):
        try:
            found = importlib.import_module(".".join(names[:depth]))
        except ModuleNotFoundError:
            continue
        for name in names[depth:]:
            found = getattr(found, name, None)
        return found is not None
    return False


@pytest.mark.parametrize("objective", ENTRIES)
def test_every_objective_has_a_page_with_its_function_and_commands(objective):
    page = ROOT / "docs" / "objectives" / f"{objective}.md"
    assert page.is_file(), f"write docs/objectives/{objective}.md, in the sections of the others"
    text, function = text_of(page), load(objective).residual
    assert f"In code:\n`{function.__name__}`" in text or f"In code: `{function.__name__}`" in text
    assert f"({'../../' + function.__module__.replace('.', '/')}.py)" in text
    named = set(re.findall(r"^segmentdreamer bench --objective (\S+)", text, re.MULTILINE))
    assert named == {name for name in METHODS if name.removesuffix("-authors") == objective}
    assert set(pipeline_recipes.objectives(",".join(sorted(named)))) == named
    assert {f"## {section}" for section in SECTIONS} <= set(text.splitlines())


def test_every_page_of_an_objective_is_of_one():
    assert {page.stem for page in (ROOT / "docs" / "objectives").glob("*.md")} == {*ENTRIES, "README"}


@pytest.mark.parametrize("objective", ENTRIES)
def test_settings_named_on_an_objectives_page_exist(objective):
    text = text_of(ROOT / "docs" / "objectives" / f"{objective}.md")
    groups = set(Recipe.model_fields)
    for span in spans(text):
        key = span.removeprefix("--set ").partition("=")[0]
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.split(".")[0] in groups:
            assert exists(key), key
    for setting in re.findall(r"--set (\S+=[^\s`]+)", text):
        key, _, value = setting.partition("=")
        tried = with_settings(for_objective(paper(), objective), {key: value})
        assert isinstance(tried, Recipe), setting


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    prose = re.sub(r"`[^`\n]*`", "", without_blocks(text_of(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(text_of(found)), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_a_page_names_exist(page):
    for span in spans(text_of(page)):
        if span.startswith("tests/"):
            path, _, test = span.partition("::")
            assert (ROOT / path).exists(), f"{name_of(page)}: {span}"
            assert not test or test in functions_in(path), f"{name_of(page)}: {span}"


def test_functions_that_the_papers_page_names_exist():
    dotted = [span for span in spans(text_of(ROOT / "docs" / "paper.md")) if re.fullmatch(r"\w+(\.\w+)+", span)]
    assert len(dotted) > 40
    assert [name for name in dotted if not exists(name)] == []
    assert not exists("solver.leap")
    assert not exists("leap")


def test_every_equation_of_the_papers_page_has_a_test():
    rows = re.findall(r"^\| (?:Eq\. \d|Theorem|Table|Fig|Sec).*$", text_of(ROOT / "docs" / "paper.md"), re.MULTILINE)
    assert len(rows) >= 11
    assert [row[:20] for row in rows if "::test_" not in row] == []


def refusals() -> list[str]:
    """Of each ValueError of a recipe: its longest part that does not vary."""
    found = []
    others = {Path(each.__file__) for each in (custom_file, custom_objective, custom_representation, methods)}
    recipe_files = set((ROOT / "sctd" / "recipe").glob("*.py")) - others
    for path in [*recipe_files, ROOT / "sctd" / "diffusion" / "segments.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = node.exc.args[0].values if isinstance(node.exc.args[0], ast.JoinedStr) else node.exc.args
                constants = [part.value for part in parts if isinstance(part, ast.Constant)]
                found.append(max(constants, key=len, default=""))
    return [text for text in found if len(text) > 8 and "is in no segment" not in text and "; draw t" not in text]


def test_every_refusal_of_a_recipe_is_on_the_page_of_errors():
    page, texts = " ".join(text_of(ROOT / "docs" / "errors.md").split()), refusals()
    assert len(texts) > 20
    assert [text for text in texts if text.strip() not in page] == []
