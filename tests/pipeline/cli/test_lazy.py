"""The table of commands, and which modules are imported by help, by completion and by a command."""

import os
import subprocess
import sys

import pytest

from pipeline.cli.app import COMMANDS

HEAVY = {"torch", "ray", "pandas", "numpy", "rich", "diffusers", "scipy"}


def imported(*words: str, **variables: str) -> set[str]:
    """All modules that a command has imported at its end, in a process of its own."""
    code = (
        f"import sys; from pipeline.cli.app import main; sys.argv[1:] = {list(words)!r}\n"
        "try: main()\nexcept SystemExit: print('', *sys.modules, sep='\\n')"
    )
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.splitlines())


def of_commands(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("pipeline.commands.")}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_table_has_the_summary_of_each_command(command):
    assert command.get_short_help_str(1000) == command.loaded.get_short_help_str(1000)
    assert command.hidden == command.loaded.hidden


def test_global_help_and_version_import_no_command():
    for words in (["--help"], ["--version"], []):
        modules = imported(*words)
        assert modules >= {"pipeline.cli.app"}
        assert modules & {*HEAVY, "pydantic"} == set()
        assert of_commands(modules) == set()


def completed(line: str) -> set[str]:
    words = f"segmentdreamer {line}"
    cursor = str(len(words.split(" ")) - 1)
    return imported(_SEGMENTDREAMER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=cursor)


def test_completion_of_a_command_imports_no_command():
    modules = completed("be")
    assert {"bench", "benchmark"} <= modules, "printed as completions"
    assert of_commands(modules) == set()
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [("bench --suite emb", "embedded40"), ("weights f", "fetch"), ("export a.ply --to sp", "splat")],
)
def test_completion_within_a_command_imports_nothing_heavy(line, expected):
    modules = completed(line)
    assert expected in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_imports_nothing_heavy(command):
    assert imported(str(command.name), "--help") & HEAVY == set()
