"""Commands in code blocks and inline code of the documentation: found, split like a shell does, and parsed."""

import argparse
import importlib
import re
import shlex
import sys
from itertools import takewhile
from typing import Any, NamedTuple
from unittest import mock

from pipeline import prompts as suites
from pipeline.assets import export
from pipeline.cli.app import loaded
from pipeline.cli.cluster_options import TARGETS
from pipeline.events import progress
from pipeline.plan import recipes, sweep
from pipeline.weights import catalogue
from pipeline.work import execution, placement
from sctd.experiments import testbed
from sctd.recipe.custom_file import is_custom
from sctd.recipe.methods import METHODS
from sctd.recipe.presets import RECIPES
from tests.support.paths import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
WITHOUT_PARSER = {
    "sctd.experiments.theorem": 0,
    "sctd.recipe.presets": 0,
    "pipeline.embedded.frozen": 0,
    "pipeline.benchmarks.full_size": 1,
    "tests.support.slow": 1,
}
ONE_OF = {
    "to": export.FORMATS, "executor": execution.EXECUTORS, "log": progress.LOGS, "target": TARGETS,
    "eval_placement": placement.PLACEMENTS, "names": catalogue.ROLES,
}  # fmt: skip


class Shown(NamedTuple):
    """A command of this program without prefixes such as `uv run`; `is_inline` if it is in a sentence."""

    words: tuple[str, ...]
    is_inline: bool

    def __str__(self) -> str:
        return shlex.join(self.words)


def of_page(text: str) -> list[Shown]:
    """All commands of a Markdown page, in order."""
    found = []
    for block, span in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        if block:
            lines = re.sub(r"\\\n\s*", " ", block).splitlines()
            found += [Shown(words, False) for line in lines for words in of_line(line)]
        elif re.match(r"(segmentdreamer|uv run|python -m) ", span):
            found += [Shown(words, True) for words in of_line(span)]
    return found


def of_line(line: str) -> list[tuple[str, ...]]:
    """The commands of a shell line. `a | b && c > d` has three; those in `$(…)` come first."""
    if not re.search(r"segmentdreamer |python -m |pytest", line):
        return []
    inner = [words for text in re.findall(r"\$\(([^)]*)\)", line) for words in of_line(text)]
    line = re.sub(r"<[^<>]*>", "PLACEHOLDER", re.sub(r"\$\([^)]*\)", "", line))
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    simple: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            simple.append([])
        else:
            simple[-1].append(word)
    plain = [list(takewhile(lambda word: word != ">", words)) for words in simple]
    return [*inner, *(found for words in plain if (found := _ours(words)))]


def _ours(words: list[str]) -> tuple[str, ...]:
    if "segmentdreamer" in words and words[0] != "pip":
        return tuple(words[words.index("segmentdreamer") :])
    if "-m" in words and words[words.index("-m") - 1].startswith("python"):
        return ("python", *words[words.index("-m") :])
    return tuple(words[words.index("pytest") :]) if "pytest" in words else ()


def is_placeholder(word: str) -> bool:
    """Whether the reader replaces the word: RUN, DIR, NAME-authors, `…`, $seed, or a file of the reader."""
    return bool(re.search(r"[A-Z]{2}|^[A-Z]$|…|\$", word)) or (
        word.endswith((".txt", ".yaml")) and not word.startswith("examples/")
    )


def check(shown: Shown) -> None:
    """Parse a command. Raises the parser's errors, and AssertionError for unknown names."""
    program, *words = shown.words
    words = ["1" if word in ("N", "$seed") else word for word in words]
    if program == "pytest":
        missing = [word for word in words if not word.startswith("-") and not (ROOT / word.split("::")[0]).exists()]
        assert not missing, missing
    elif program == "python":
        _check_module(words[1], words[2:])
    else:
        check_verb(words, may_be_bare=shown.is_inline)


def check_verb(words: list[str], *, may_be_bare: bool = False) -> None:
    command: Any = loaded()
    known = {option for parameter in command.params for option in parameter.opts}
    while words and words[0].startswith("--"):
        assert words[0] in known | {"--help"}, words[0]
        words = words[1:]
        may_be_bare = may_be_bare or not words
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if may_be_bare and set(words) <= {"…"}:
        return
    assert not hasattr(command, "commands") or command.callback is not None, f"there is no command {words[:1]}"
    context = command.make_context(command.name, list(words))
    extra = [*getattr(context, "_protected_args", ()), *context.args]
    assert not extra, extra
    _check_values(context.params)


def _check_values(values: dict[str, Any]) -> None:
    objectives = [name for name in (values.get("objective") or "sctd").split(",") if not is_placeholder(name)]
    own = {name for name in objectives if is_custom(name) and (ROOT / name.partition(":")[0]).is_file()}
    assert {*objectives} <= {*METHODS, *own}, objectives
    if (suite := values.get("suite")) and not is_placeholder(suite):
        assert suite in suites.bundled(), suite
    for name, known in ONE_OF.items():
        given = values.get(name) or []
        given = [word for word in ([given] if isinstance(given, str) else given) if not is_placeholder(word)]
        assert set(given) <= set(known), given
    if "recipe" in values:
        recipe = values["recipe"]
        if recipe not in RECIPES:
            assert is_placeholder(recipe) or (ROOT / recipe).is_file(), recipe
        base, saved = recipes.named(recipe if not is_placeholder(recipe) else "embedded")
        sweeps = sweep.combined(saved, sweep.from_options(values.get("sweep") or [], base))
        sweep.methods(base, objectives or ["sctd"], recipes.settings(values.get("set_") or []), sweeps)
    if values.get("command"):
        check_verb(values["command"])


class _ReadError(Exception):
    """Stops a module after it has parsed its arguments."""


def _check_module(name: str, words: list[str]) -> None:
    module = importlib.import_module(name)
    if name in WITHOUT_PARSER:
        assert len(words) == WITHOUT_PARSER[name], words
        return
    read = list[argparse.Namespace]()

    def stopping(parse: Any) -> Any:
        def stop(self: Any, *given: Any) -> None:
            read.append(parse(self, *given))
            raise _ReadError

        return stop

    parsers = {way: stopping(getattr(argparse.ArgumentParser, way)) for way in ("parse_args", "parse_intermixed_args")}
    with mock.patch.multiple(argparse.ArgumentParser, **parsers), mock.patch.object(sys, "argv", [name, *words]):
        try:
            module.main()
        except _ReadError:
            values = vars(read[0])
            _check_values({key: values[key] for key in ("objective",) if key in values})
            if "set" in values:
                (method, *_) = [name for name in values["objective"].split(",") if not is_placeholder(name)] or ["sctd"]
                testbed.settings(method, recipes.settings(values["set"]))
            if "bench" in values:
                check_verb(["bench", *values["bench"]])
