"""Classes of options become options of a command, which gets whole values."""

import json
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner

from pipeline.cli.values import with_options
from pipeline.option import option


@dataclass(frozen=True)
class Colors:
    red: int = option(help="Amount of red.", metavar="N")
    blue: int = option(2, help="Amount of blue.", metavar="N", show_default="two")
    words: list[str] | None = option(None, "--word", help="A word. Repeatable.", metavar="TEXT")
    log: str = option("auto", help="Format.", metavar="NAME", complete="pipeline.events.progress:LOGS")
    suite: str | None = option(None, help="Suite.", metavar="NAME", complete="pipeline.prompts:bundled")


class Size(BaseModel):
    model_config = ConfigDict(frozen=True)
    width: int = Field(3, description="Width of the image.", json_schema_extra={"metavar": "PIXELS"})


def app_of(command) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(command)
    return app


def run(command, *words: str):
    result = CliRunner().invoke(app_of(command), list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_gets_whole_values():
    got = []

    @with_options()
    def command(folder: Annotated[str, typer.Argument()], colors: Colors, size: Size, json: bool = False):
        got.append((folder, colors, size, json))

    run(command, "runs/a", "--red", "1", "--word", "x", "--word", "y", "--json", "--width", "9")
    assert got == [("runs/a", Colors(red=1, words=["x", "y"]), Size(width=9), True)]


def test_help_follows_the_names_and_the_changes():
    @with_options("size", "red", "blue", "width", blue={"help": "Blueness.", "default": 7}, red={"hidden": True})
    def command(colors: Colors, picture: Size, size: Annotated[int, typer.Option(help="Own.")] = 1):
        print(json.dumps([colors.red, colors.blue, colors.log, picture.width, size]))

    assert json.loads(run(command, "--red", "4")) == [4, 7, "auto", 3, 1]
    text = " ".join(run(command, "--help").split())
    assert (
        "Own. [default: 1] --blue N Blueness. [default: (two)] --width PIXELS Width of the image. [default: 3]" in text
    )
    assert "--red" not in text
    assert "--word" not in text


def test_parameter_of_the_command_replaces_the_field_of_its_name():
    @with_options("blue", "red")
    def command(blue: Annotated[str, typer.Argument(metavar="BLUE")], colors: Colors):
        print(blue, colors.blue, colors.red)

    assert run(command, "navy", "--red", "1") == "navy 2 1\n"


def test_required_field_is_required():
    @with_options()
    def command(colors: Colors): ...

    result = CliRunner().invoke(app_of(command), [])
    assert result.exit_code == 2
    assert "Missing option '--red'" in result.output


@pytest.mark.parametrize(("name", "word"), [("log", "json"), ("suite", "embedded40")])
def test_completion_by_name(name, word):
    @with_options()
    def command(colors: Colors): ...

    real = typer.main.get_command(app_of(command))
    (found,) = [parameter for parameter in real.params if parameter.name == name]
    context = real.make_context("command", ["--red", "1"])
    assert word in [item.value for item in found.shell_complete(context, word[:2])]
