"""Shell completion: the functions of each option, and a real bash."""

import shutil
import sys

import pytest
from typer.testing import CliRunner

from pipeline.cli import completion
from pipeline.cli.app import app, loaded
from pipeline.prompts import bundled
from sctd.recipe.methods import METHODS
from sctd.recipe.presets import RECIPES
from sctd.recipe.recipe import Recipe, keys

END, DELETE_LINE = "<", b"\x15"
BASH = shutil.which("bash")


def test_values_are_completed_from_the_known_names():
    assert completion.named("pipeline.prompts:bundled")("") == bundled()
    assert completion.named("pipeline.prompts:bundled")("emb") == ["embedded40"]
    assert completion.named("sctd.recipe.presets:RECIPES")("") == list(RECIPES)
    assert completion.named("sctd.recipe.presets:RECIPES")("paper-p") == ["paper-portrait"]
    assert completion.settings("guidance.sc") == ["guidance.scale="]
    assert completion.settings("") == [f"{key}=" for key in keys(Recipe())]


def test_last_of_several_objectives_is_completed_without_repetition():
    assert completion.objectives("") == list(METHODS)
    assert completion.objectives("sctd,sds") == ["sctd,sds", "sctd,sds-authors"]
    assert completion.objectives("sds,sd") == ["sds,sdi", "sds,sds-authors", "sds,sdi-authors"]


def test_every_option_with_known_values_is_completed():
    bench = {option.name: option for option in loaded().commands["bench"].params}
    context = loaded().commands["bench"].make_context("bench", [])
    for name, word in (
        ("suite", "embedded40"), ("objective", "sctd"), ("recipe", "paper"), ("executor", "inline"), ("log", "json"),
        ("eval_placement", "cpu"), ("set_", "iterations="), ("sweep", "iterations="),
    ):  # fmt: skip
        assert word in [item.value for item in bench[name].shell_complete(context, word[:2])], name


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_a_script(shell):
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert f"{completion.VARIABLE}=complete_{shell}" in result.stdout


def test_unknown_shell_is_an_error():
    result = CliRunner().invoke(app, ["completion", "bsh"])
    assert (result.exit_code, result.output) == (
        2,
        "Error: Unknown shell 'bsh'; choose from bash, zsh, fish; the nearest is 'bash'.\n",
    )


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_completion_in_bash(terminals, tmp_path):
    """The Tab key completes commands, options, suites, the last of several objectives, recipes and files."""
    program = tmp_path / "segmentdreamer"
    program.write_text(f"#!{sys.executable}\nfrom pipeline.cli.app import main\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "my_prompts.txt").write_text("a cube\n", encoding="utf-8")
    path = f"{tmp_path}:/usr/bin:/bin"
    bash = terminals([BASH, "--norc", "--noprofile", "-i"], PATH=path, PS1="ready> ", COLUMNS="300", TERM="dumb")
    bash.until("ready> ")
    bash.type(f'cd {tmp_path}; eval "$(segmentdreamer completion bash)"; echo pre"pared"\n'.encode())
    bash.until("prepared")
    for typed, completed in (
        ("eval", "evaluate "),
        ("bench --su", "bench --suite "),
        ("bench --suite emb", "bench --suite embedded40 "),
        ("bench --suite my", "bench --suite my_prompts.txt "),
        ("bench --objective ism,sctd-o", "bench --objective ism,sctd-official "),
        ("generate cube --recipe paper-p", "generate cube --recipe paper-portrait "),
        ("bench --set guidance.sc", "bench --set guidance.scale= "),
    ):
        bash.type(f"segmentdreamer {typed}\t{END}".encode())
        bash.until(f"segmentdreamer {completed}<")
        bash.type(DELETE_LINE)
