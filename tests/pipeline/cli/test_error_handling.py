"""How commands end: statuses, one line for an error, tracebacks on demand, Ctrl-C on a real terminal."""

import json
import re
import signal
import sys

import pytest
from typer.testing import CliRunner

from cluster.scheduling.executor import BootError
from cluster.scheduling.failures import Failure
from pipeline.cli import error_handling as cli_guard
from pipeline.cli.app import app
from pipeline.commands import bench as commands
from tests.support.paths import ROOT

MAIN = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
CTRL_C = b"\x03"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Without --debug, and whatever a test sets is forgotten."""
    monkeypatch.setenv(cli_guard.DEBUG, "")
    monkeypatch.setattr(sys, "argv", ["segmentdreamer", "bench", "--prompt", "a b"])


def ending_with(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(commands, "prompts", fail)


def test_an_unexpected_error_is_one_line_that_says_how_to_see_where(monkeypatch):
    ending_with(ZeroDivisionError("division\nby zero"), monkeypatch)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == cli_guard.BROKEN
    assert result.output == (
        "Error: ZeroDivisionError: division by zero. This is a fault of the program, not of the command: "
        "segmentdreamer --debug bench --prompt 'a b' shows where; please report that.\n"
    )


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), commands.UserError("no"), OSError("no")], ids=repr)
@pytest.mark.parametrize("asked", ["--debug", "environment"])
def test_debug_shows_the_traceback_above_the_line(error, asked, monkeypatch):
    ending_with(error, monkeypatch)
    if asked == "environment":
        monkeypatch.setenv(cli_guard.DEBUG, "1")
    result = CliRunner().invoke(app, ["--debug", "bench"] if asked == "--debug" else ["bench"])
    assert result.exit_code == (cli_guard.BROKEN if isinstance(error, ZeroDivisionError) else cli_guard.WRONG_INPUT)
    first, *_, last = result.output.splitlines()
    assert first == "Traceback (most recent call last):"
    assert "in fail" in result.output
    assert last.startswith("Error: ")


@pytest.mark.parametrize("debug", ["", "1"])
def test_debug_shows_where_in_its_process_a_worker_could_not_be_built(debug, monkeypatch):
    monkeypatch.setenv(cli_guard.DEBUG, debug)

    def fail(*_):
        with commands.executing("ray", None):
            raise BootError("generate", Failure("error", "KeyError: 'x'", "Traceback of the worker"))

    monkeypatch.setattr(commands, "prompts", fail)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == cli_guard.WRONG_INPUT
    assert ("Traceback of the worker" in result.output) == bool(debug)
    assert result.output.splitlines()[-1].startswith("Error: ")


def test_every_exit_status_is_on_the_page_of_errors():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = page[page.index("| exit status |") :].split("\n\n")[0]
    assert {int(row) for row in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {
        value for name, value in vars(cli_guard).items() if name.isupper() and isinstance(value, int)
    }


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output == f"segmentdreamer {version('segmentdreamer')}\n"


# ---- Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_ctrl_c_stops_a_run_on_a_terminal_and_says_how_to_go_on(executor, tiny_weights, tmp_path, terminals):
    out = tmp_path / "run"
    small = ["--set", "initialization.kind=ball", "--set", "initialization.count=150", "--views", "4"]
    words = ["bench", "--prompt", "a cube", "--weights", str(tiny_weights), *small, "--executor", executor]
    words += ["--set", "iterations=50000", "--checkpoint-seconds", "0", "--out", str(out)]
    terminal = terminals([*MAIN, *words], COLUMNS="200")
    terminal.until("/50000")
    assert "worker" in terminal.seen, "the table is shown on a terminal"
    terminal.type(CTRL_C)
    assert terminal.status() == cli_guard.INTERRUPTED
    *_, stopping, last = terminal.seen.splitlines()
    assert stopping.endswith("stopping; press Ctrl-C again to kill immediately")
    assert last.startswith("Interrupted. Start the same command again to go on: segmentdreamer bench --prompt 'a cube'")
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l"), "the cursor is there again"
    (checkpoint,) = out.glob("items/*/checkpoint")
    assert checkpoint.stat().st_size > 0
    assert json.loads(next(out.glob("run.json")).read_text())["jobs"]


SLOW_TO_STOP = """
import time
from pipeline.cli.error_handling import guarded, hear_signals
hear_signals()
@guarded
def command():
    try:
        print("at work", flush=True)
        time.sleep(600)
    finally:
        print("giving back", flush=True)
        time.sleep(600)
command()
"""


def test_a_second_ctrl_c_kills(terminals):
    terminal = terminals([sys.executable, "-c", SLOW_TO_STOP])
    terminal.until("at work")
    terminal.type(CTRL_C)
    terminal.until("giving back")
    terminal.type(CTRL_C)
    assert terminal.status() == -signal.SIGINT
