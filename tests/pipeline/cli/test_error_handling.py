"""Exit statuses, one-line errors, tracebacks in debug mode, and Ctrl-C on a real terminal."""

import errno
import json
import os
import re
import signal
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from cluster.scheduling.executor import BootError
from cluster.scheduling.failures import Failure
from pipeline.cli import error_handling
from pipeline.cli.app import app
from pipeline.errors import UserError
from pipeline.plan.options import RunOptions
from pipeline.store import files
from pipeline.work.execution import ExecutionOptions, executing
from tests.support.paths import ROOT

MAIN = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
CTRL_C = b"\x03"


@pytest.fixture(autouse=True)
def debug_mode_is_off(monkeypatch):
    monkeypatch.setenv(error_handling.DEBUG, "")
    monkeypatch.setattr(sys, "argv", ["segmentdreamer", "bench", "--prompt", "a b"])


def raise_in_bench(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(RunOptions, "run", fail)


@pytest.mark.parametrize("number", error_handling.FILE_ERRORS)
def test_a_file_that_cannot_be_written_is_one_sentence(number, monkeypatch, tmp_path):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    target = tmp_path / "out.csv"
    with pytest.raises(OSError, match=r"out\.csv") as error:
        files.put(target, b"")
    assert error_handling.text_of(error.value) == f"{target} {error_handling.FILE_ERRORS[number]}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ELOOP, errno.EINVAL])
def test_other_errors_of_files_are_one_sentence_with_the_reason(number):
    error = OSError(number, os.strerror(number), "gone.ply")
    assert error_handling.text_of(error) == (
        f"gone.ply cannot be read or written ({os.strerror(number)}); check the path."
    )


def test_errors_without_a_file_keep_their_text():
    assert error_handling.text_of(OSError("s3://bucket/run: no credentials")) == "s3://bucket/run: no credentials"


def test_unexpected_error_is_one_line_with_the_command_for_its_traceback(monkeypatch):
    raise_in_bench(ZeroDivisionError("division\nby zero"), monkeypatch)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == error_handling.INTERNAL_ERROR
    assert result.output == (
        "Error: ZeroDivisionError: division by zero. This is a bug of this program. For the traceback, run "
        "segmentdreamer --debug bench --prompt 'a b'; please report it.\n"
    )


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), UserError("no"), OSError("no")], ids=repr)
@pytest.mark.parametrize("source", ["--debug", "environment"])
def test_debug_mode_prints_the_traceback_before_the_error(error, source, monkeypatch):
    raise_in_bench(error, monkeypatch)
    if source == "environment":
        monkeypatch.setenv(error_handling.DEBUG, "1")
    result = CliRunner().invoke(app, ["--debug", "bench"] if source == "--debug" else ["bench"])
    assert result.exit_code == (
        error_handling.INTERNAL_ERROR if isinstance(error, ZeroDivisionError) else error_handling.INVALID_INPUT
    )
    first, *_, last = result.output.splitlines()
    assert first == "Traceback (most recent call last):"
    assert "in fail" in result.output
    assert last.startswith("Error: ")


@pytest.mark.parametrize("debug", ["", "1"])
def test_debug_mode_prints_the_traceback_of_a_worker_that_does_not_start(debug, monkeypatch):
    monkeypatch.setenv(error_handling.DEBUG, debug)

    def fail(*_):
        with executing(ExecutionOptions()):
            raise BootError("generate", Failure("error", "KeyError: 'x'", "Traceback of the worker"))

    monkeypatch.setattr(RunOptions, "run", fail)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == error_handling.INVALID_INPUT
    assert ("Traceback of the worker" in result.output) == bool(debug)
    assert result.output.splitlines()[-1].startswith("Error: ")


def test_every_exit_status_is_documented():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = page[page.index("| exit status |") :].split("\n\n")[0]
    assert {int(row) for row in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {
        value for name, value in vars(error_handling).items() if name.isupper() and isinstance(value, int)
    }


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output == f"segmentdreamer {version('segmentdreamer')}\n"


# ---- Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_ctrl_c_stops_a_run_and_prints_the_command_that_resumes_it(executor, tiny_weights, tmp_path, terminals):
    out = tmp_path / "run"
    small = ["--set", "initialization.kind=ball", "--set", "initialization.count=150", "--views", "4"]
    words = ["bench", "--prompt", "a cube", "--weights", str(tiny_weights), *small, "--executor", executor]
    words += ["--set", "iterations=50000", "--checkpoint-seconds", "0", "--out", str(out)]
    terminal = terminals([*MAIN, *words], COLUMNS="200")
    terminal.until("/50000")
    assert "worker" in terminal.seen, "a terminal shows the table"
    while not list(out.glob("items/*/checkpoint")):  # the first one is saved after the first progress is shown
        assert terminal.process.poll() is None, terminal.seen
        time.sleep(0.01)
    terminal.type(CTRL_C)
    assert terminal.status() == error_handling.INTERRUPTED
    *_, stopping, last = terminal.seen.splitlines()
    assert stopping.endswith("stopping; press Ctrl-C again to kill immediately")
    assert last.startswith("Interrupted. To resume, run: segmentdreamer bench --prompt 'a cube'")
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l"), "the cursor is visible again"
    (checkpoint,) = out.glob("items/*/checkpoint")
    assert checkpoint.stat().st_size > 0
    assert json.loads(next(out.glob("run.json")).read_text())["jobs"]


SLOW_TO_STOP = """
import time
from pipeline.cli.error_handling import handle_errors, install_signal_handlers
install_signal_handlers()
@handle_errors
def command():
    try:
        print("running", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        time.sleep(600)
command()
"""


def test_second_ctrl_c_kills_the_process(terminals):
    terminal = terminals([sys.executable, "-c", SLOW_TO_STOP])
    terminal.until("running")
    terminal.type(CTRL_C)
    terminal.until("cleaning up")
    terminal.type(CTRL_C)
    assert terminal.status() == -signal.SIGINT


def test_control_characters_of_a_file_do_not_reach_the_terminal(capsys):
    @error_handling.handle_errors
    def command() -> None:
        raise UserError("It has \x1b[31mred\x07 and 👩\u200d🎤 and \ud800.")

    with pytest.raises(typer.Exit):
        command()
    assert capsys.readouterr().err == "Error: It has \\x1b[31mred\\x07 and 👩\u200d🎤 and \\xd800.\n"
