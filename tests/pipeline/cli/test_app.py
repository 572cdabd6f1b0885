"""The command line: help, errors before any work, whole runs in this process, exit statuses."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.commands import bench as commands
from pipeline.plan import options
from pipeline.plan.run import Run
from pipeline.weights.models import Weights
from pipeline.work import flow
from pipeline.work.execution import ExecutionOptions
from sctd.recipe.methods import METHODS
from tests.support.paths import EXAMPLES

BALL = ["--set", "initialization.kind=ball", "--set", "initialization.count=150"]
VOXELS = f"{EXAMPLES / 'my_representation.py'}:"
SMALL = ["--set", "iterations=4", *BALL, "--views", "4", "--executor", "inline"]


def invoke(*arguments: str):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: str) -> str:
    """The error of a command: one line, with status 2 and nothing on standard output."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def imported(arguments: list[str], modules: set[str]) -> set[str]:
    """Those of the modules that a command has imported at its end, in a process of its own."""
    code = (
        f"import sys; from pipeline.cli.app import main; sys.argv[1:] = {arguments!r}\n"
        f"try: main()\nexcept SystemExit: print(*({modules!r} & set(sys.modules)), sep=' ')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_what_the_packages_log_is_printed_as_plain_lines_to_standard_error(capsys):
    invoke("weights", "--help")
    for package in ("pipeline.report.live", "sctd.train", "evaluation", "cluster.ray"):
        logging.getLogger(package).info(f"from {package}")
    logging.getLogger("pipeline").debug("hidden")
    logging.getLogger("other").info("hidden")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "from pipeline.report.live",
        "from sctd.train",
        "from evaluation",
        "from cluster.ray",
    ]


# ---- help ---------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    heavy = {"torch", "ray", "pandas", "numpy", "rich"}
    assert imported(["--help"], heavy | {"pydantic"}) == set()
    for command in (["bench"], ["submit", "kuberay"], ["doctor"], ["export"], ["nightly"], ["study", "serve"]):
        assert imported([*command, "--help"], heavy) == set()


@pytest.mark.parametrize(
    "verb",
    [
        "bench",
        "generate",
        "export",
        "evaluate",
        "leaderboard",
        "status",
        "weights",
        "doctor",
        "reference",
        "nightly",
        "benchmark",
        "warmup",
        "manifest",
        "submit",
        "job",
        "study",
    ],
)
def test_every_command_has_help(verb):
    assert verb in invoke("--help").stdout
    assert "Usage:" in invoke(verb, "--help").stdout


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Starting an executor fails the test."""

    def start(*_):
        raise AssertionError("an executor was started")

    monkeypatch.setattr(commands, "executing", start)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--prompt", ""], 'The prompt is empty; describe an object, as in "a red mushroom".'),
        (["generate", " "], 'The prompt is empty; describe an object, as in "a red mushroom".'),
        (
            ["bench", "--prompt", "red " * 1250],
            f"The prompt {('red ' * 10)[:39] + '…'!r} has 5,000 characters; the limit is 1,000. Shorten it.",
        ),
        (["bench", "--limit", "0"], "--limit is 0; expected at least 1, or omit it to run all prompts."),
        (["bench", "--prompt", "a cube", "--views", "0"], "--views is 0; expected 1 to 1000 (the paper uses 120)."),
        (["bench", "--prompt", "a cube", "--seed", "-1"], "--seed is -1; expected a whole number from 0 to 2^63 - 1."),
        (
            ["bench", "--prompt", "a cube", "--objective", "sctdd"],
            f"Unknown objective 'sctdd'; choose from {', '.join(METHODS)}; the nearest is 'sctd'.",
        ),
        (
            ["bench", "--prompt", "a cube", "--representation", "nerv"],
            "Unknown representation 'nerv'; choose from gaussians, nerf, or pass FILE.py:CLASS; the nearest is 'nerf'.",
        ),
        (
            ["bench", "--prompt", "a cube", "--set", "representation.kind=nerf"],
            ("--set: representation.kind changes other keys, too; use --representation, as in --representation nerf."),
        ),
        (
            ["bench", "--prompt", "a cube", "--set", "nerf.resolution=9"],
            ("--set: nerf.resolution has no effect on sctd (representation.kind is gaussians); no key of nerf is read "
            "there."),
        ),
        (
            ["bench", "--prompt", "a cube", "--representation", "own.py"],
            "--representation own.py names a file without a class; write own.py:CLASS.",
        ),
        (
            ["bench", "--prompt", "a cube", "--representation", "own.py:Mine"],
            "--representation: own.py cannot be read (No such file or directory); expected the path of a Python file.",
        ),
        (
            ["bench", "--prompt", "a cube", "--representation", f"{VOXELS}Voxel"],
            f"--representation: {VOXELS[:-1]} has no class 'Voxel'; define it, or name another.",
        ),
        (
            ["bench", "--prompt", "a cube", "--representation", f"{VOXELS}Voxels", "--views", "50"],
            ("--views is 50, but assets of a custom representation have 120 views; pass a number that divides them."),
        ),
        (
            ["bench", "--prompt", "a cube", "--set", "guidance.scal=3"],
            "--set: unknown recipe key 'guidance.scal'; the nearest is 'guidance.scale'.",
        ),
        (
            ["bench", "--prompt", "a cube", "--set", "iterations=0"],
            "--set: recipe key 'iterations' is '0': it should be greater than or equal to 1.",
        ),
        (
            ["bench", "--prompt", "a cube", "--weights", "nowhere"],
            ("There is no weights folder 'nowhere'; pass one with prior/, scorer/, reward/ and reference.npz, or "
            "omit --weights for the bundled models."),
        ),
        (
            ["bench", "--prompt", "a cube", "--suite", "embedded40"],
            "--suite and --prompt were both passed; pass one of them.",
        ),
        (
            ["bench", "--prompt", "a", "--sweep", "times.segments=increasing", "--sweep", "times.num_segments=3,1"],
            ("The sweep cell 'sctd segments=increasing num_segments=1' is invalid: recipe key 'times': expected "
            "at least 2 increasing segments, found 1: use equal segments."),
        ),
        (
            ["bench", "--prompt", "a cube", "--sweep", "times.num_segment=1,3"],
            "--sweep: unknown recipe key 'times.num_segment'; the nearest is 'times.num_segments'.",
        ),
        (
            ["generate", "a cube", "--recipe", str(EXAMPLES / "figure6.yaml")],
            f"{EXAMPLES / 'figure6.yaml'} contains a sweep; run it with bench.",
        ),
        (["evaluate", "nowhere"], "nowhere contains no run (no run.json); pass the run folder of a bench run."),
        (["leaderboard", "nowhere"], "nowhere contains no run (no run.json); pass the run folder of a bench run."),
    ],
)  # fmt: skip
def test_invalid_input_is_a_one_line_error_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = ["--weights", "embedded"] if "--weights" not in arguments and "paper" not in arguments else []
    monkeypatch.setattr(Weights, "require", lambda *_: None)
    monkeypatch.setattr(Run, "_check_tokens", lambda _: None)
    options = weights if arguments[0] in ("bench", "generate") else []
    assert refused(*arguments, *options) == f"Error: {message}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("workers", "executor", "message"),
    [
        ("0", "ray", "--workers is 0; expected 1 to 16 (2 cores here), or omit it."),
        ("-2", "ray", "--workers is -2; expected 1 to 16 (2 cores here), or omit it."),
        ("99999", "ray", "--workers is 99999; expected 1 to 16 (2 cores here), or omit it."),
        ("2", "inline", "--workers is 2; expected 1 (inline runs in one process), or omit it."),
        ("1", "rai", "Unknown value 'rai' for --executor; choose from ray, inline; the nearest is 'ray'."),
    ],
)
def test_number_of_workers_out_of_range(workers, executor, message, tiny_weights, monkeypatch):
    monkeypatch.setattr(commands.manifest, "cores", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = ["--weights", tiny_weights, *BALL, "--workers", workers, "--executor", executor]
    line = refused("bench", "--prompt", "a", *options)
    assert line == f"Error: {message}"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("number", "others", "message"),
    [
        ("0", [], "--assets-per-gpu is '0'; expected 1 to 32, or auto."),
        ("33", [], "--assets-per-gpu is '33'; expected 1 to 32, or auto."),
        ("all", [], "--assets-per-gpu is 'all'; expected 1 to 32, or auto."),
        ("2", ["--workers", "2"], "--assets-per-gpu and --workers both set the number of workers; omit one."),
        (
            "2",
            ["--executor", "inline"],
            "--assets-per-gpu is 2, but --executor inline runs one job at a time; omit one.",
        ),
    ],
)
def test_assets_per_gpu_out_of_range(number, others, message, tiny_weights):
    options = ["--weights", tiny_weights, *BALL, "--assets-per-gpu", number, *others]
    assert refused("bench", "--prompt", "a", *options) == f"Error: {message}"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("shares", ["0", "0.5,1.5", "half"])
def test_shares_of_score_at_out_of_range(shares, tiny_weights):
    line = refused("bench", "--prompt", "a", "--weights", tiny_weights, *BALL, "--score-at", shares)
    assert line == (
        f"Error: --score-at is {shares!r}; expected up to 32 shares of the iterations, above 0 and at most 1, such as "
        "0.25,0.5,1."
    )


@pytest.mark.usefixtures("no_work")
def test_prompt_with_too_many_tokens(tiny_weights, tmp_path):
    line = refused("bench", "--prompt", "x" * 60, "--weights", tiny_weights, *BALL, "--out", tmp_path / "run")
    assert line == (
        f"Error: The prompt {'x' * 39 + '…'!r} has 87 tokens with its view-dependent suffix, but the text "
        f"encoder accepts at most "
        "64; shorten it."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_work")
def test_folder_that_is_not_writable(tiny_weights, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    line = refused("bench", "--prompt", "a cube", "--weights", tiny_weights, *BALL, "--out", out)
    assert line == f"Error: {out} cannot be written (Not a directory); choose another --out."


@pytest.mark.usefixtures("no_work")
def test_folder_on_a_full_disk(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.store.run_folder.shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    line = refused("bench", "--prompt", "a cube", "--weights", tiny_weights, *BALL, "--out", tmp_path)
    assert line.startswith(f"Error: {tmp_path} has 1 MiB free and this run may need ")
    assert line.endswith(" MiB; free some space or choose another --out.")


# ---- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tiny_weights, tmp_path_factory):
    """A finished run of two prompts by two objectives: its arguments and its folder."""
    out = tmp_path_factory.mktemp("bench") / "run"
    arguments = ["bench", "--prompt", "a red cube", "--prompt", "a blue ball", "--objective", "sctd,sds"]
    arguments += ["--weights", str(tiny_weights), *SMALL, "--out", str(out)]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return arguments, out, result


def assets(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("items/*/asset.ply")}


def test_files_of_a_run_folder(command):
    _, out, result = command
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".lock", ".published.json", "blank.json", "columns.json", "contact.png", "differences.csv", "distances.json",
        "events", "grid.csv", "grid.png", "items", "leaderboard.csv", "per_object.csv", "report", "report.md",
        "run.json",
    }  # fmt: skip
    assert len(assets(out)) == 4
    for item in out.glob("items/*"):
        assert {path.name for path in item.iterdir()} == {
            "asset.ply", "contact.png", "evaluation.npz", "generation.json", "record.json", "turntable.mp4",
        }  # fmt: skip
    assert result.stdout.splitlines()[0].startswith("| method | prompts | clip@tiny ↑ ")
    assert f"{out}/leaderboard.csv" in result.stdout
    assert f"4 of 4 assets to generate and score in {out}" in result.stderr
    assert "evaluate 0: a blue ball (sds): done (4 of 4)" in result.stderr


def test_leaderboard_has_a_row_per_objective(command):
    _, out, _ = command
    table = pd.read_csv(out / "leaderboard.csv")
    assert list(table["method"]) == ["sctd", "sds"]
    assert list(table["n_prompts"]) == [2, 2]
    assert list(table["n_failed"]) == [0, 0]
    measured = ["clip@tiny", "ir@tiny", "fd@tiny", "kid_cl@tiny", "clip_rprec@tiny", "clip@tiny_se", "time_min"]
    assert table[measured].notna().all().all()
    objects = pd.read_csv(out / "per_object.csv")
    mean = objects[objects["method"] == "sctd"]["clip@tiny"].mean()
    assert table.loc[0, "clip@tiny"] == pytest.approx(mean)
    assert set(json.loads((out / "columns.json").read_text())) <= set(table.columns)


def test_same_command_again_repeats_no_work(command, monkeypatch):
    arguments, out, first = command
    before = {path: path.stat().st_mtime_ns for path in out.glob("items/*/*")}
    manifest = (out / "run.json").read_bytes()
    monkeypatch.setattr(flow, "_generator", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(flow, "_evaluator", lambda *_: pytest.fail("a model was loaded"))
    again = invoke(*arguments)
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in out.glob("items/*/*")} == before
    assert (out / "run.json").read_bytes() == manifest


def test_finished_run_is_reported_in_one_line_and_not_changed(command, monkeypatch):
    arguments, out, _ = command
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr("pipeline.report.publish.publish", lambda *_: pytest.fail("tables were written"))
    again = invoke(*arguments)
    assert again.stderr == f"All 4 assets are generated and scored, nothing to do: {out}/leaderboard.csv\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_commands_on_a_finished_run_import_neither_torch_nor_ray(command):
    arguments, out, _ = command
    bench = [word for word in arguments if word not in ("--executor", "inline")]
    for words in (bench, ["leaderboard", str(out)], ["leaderboard", str(out), str(out)]):
        assert imported(words, {"torch", "ray"}) == set()
    assert imported(["status", str(out)], {"torch", "ray", "pandas", "scipy", "numpy"}) == set()


def test_doctor_imports_neither_torch_nor_ray():
    assert imported(["doctor"], {"torch", "torchvision", "ray", "gsplat", "diffusers", "pandas", "numba"}) == set()


def test_tables_older_than_a_record_are_rewritten(command):
    arguments, out, first = command
    record = next(out.glob("items/*/record.json"))
    os.utime(record, (9e9, 9e9))
    again = invoke(*arguments)
    assert "nothing to do" not in again.stderr
    assert again.stdout == first.stdout
    os.utime(record, (1e9, 1e9))


def test_other_settings_in_the_same_folder_are_an_error(command):
    arguments, out, _ = command
    line = refused(*arguments, "--set", "iterations=5")
    assert line == (
        f"Error: {out} was generated with other settings: iterations 4, now 5; use those, or choose another --out."
    )


def test_interrupted_run_resumes_to_identical_assets(command, tmp_path, monkeypatch):
    arguments, out, _ = command
    arguments = [*arguments[:-1], str(tmp_path / "run"), "--checkpoint-seconds", "0"]
    seen = []
    watcher = commands.Display.watcher

    def interrupt(self, event):
        seen.append(event)
        watcher(self, event)
        if len([event for event in seen if event.kind == "progress" and event.stage == "generate"]) == 7:
            raise KeyboardInterrupt  # in the third of four iterations of the second asset

    with monkeypatch.context() as patch:
        patch.setattr(commands.Display, "watcher", interrupt)
        stopped = invoke(*arguments)
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines()[-1].startswith("Interrupted. To resume, run: ")
    assert len(assets(tmp_path / "run")) == 1
    assert len(list((tmp_path / "run").glob("items/*/checkpoint"))) == 1

    assert invoke(*arguments).exit_code == 0
    assert assets(tmp_path / "run") == assets(out)
    objects = pd.read_csv(tmp_path / "run" / "per_object.csv")
    assert sorted(objects["resumed_from"]) == [0, 0, 0, 2]
    assert not list((tmp_path / "run").glob("items/*/checkpoint"))


def test_additional_prompts_are_generated_and_all_assets_are_scored_again(tmp_path, tiny_weights):
    base = ["bench", "--prompt", "a red cube", "--weights", tiny_weights, *SMALL, "--out", tmp_path / "run"]
    assert invoke(*base).exit_code == 0
    assert pd.read_csv(tmp_path / "run" / "leaderboard.csv")["clip_rprec@tiny"].isna().all(), "undefined for one prompt"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("items/*/asset.ply")}
    assert invoke(*base, "--prompt", "a green cube").exit_code == 0
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("items/*/asset.ply")}
    assert len(now) == 2
    assert made.items() <= now.items()
    assert pd.read_csv(tmp_path / "run" / "leaderboard.csv")["clip_rprec@tiny"].notna().all()


def test_sweep_has_a_row_and_a_column_per_cell_and_repeats_no_work(tmp_path, tiny_weights, monkeypatch):
    out = tmp_path / "run"
    base = [
        "bench",
        "--prompt",
        "a red cube",
        "--prompt",
        "a blue ball",
        "--weights",
        tiny_weights,
        *SMALL,
        "--out",
        out,
    ]
    made = invoke(*base, "--sweep", "times.num_segments=1,5")
    assert made.exit_code == 0, made.output
    assert "evaluate 0: a blue ball (sctd num_segments=5): done (4 of 4)" in made.stderr
    assert f"{out}/grid.png" in made.stdout
    assert list(pd.read_csv(out / "leaderboard.csv")["method"]) == ["sctd num_segments=1", "sctd num_segments=5"]
    cells = pd.read_csv(out / "grid.csv")
    assert list(cells["times.num_segments"]) == [1, 5, 1, 5]
    assert cells[["clip@tiny", "ir@tiny", "clip_rprec@tiny", "seconds"]].notna().all().all()
    assert "![every prompt by every method](grid.png)" in (out / "report.md").read_text()
    manifest = json.loads((out / "run.json").read_text())
    assert {name: recipe["times"]["num_segments"] for name, recipe in manifest["recipes"].items()} == {
        "sctd num_segments=1": 1, "sctd num_segments=5": 5,
    }  # fmt: skip
    assert {json.loads(path.read_text())["method"] for path in out.glob("items/*/record.json")} == set(
        manifest["recipes"]
    )

    before = {path: path.stat().st_mtime_ns for path in out.glob("items/*/*")}
    with monkeypatch.context() as patch:
        patch.setattr(flow, "_generator", lambda *_: pytest.fail("a model was loaded"))
        again = invoke(*base, "--sweep", "times.num_segments=1,5")
    assert (again.exit_code, again.stdout) == (0, made.stdout)
    assert {path: path.stat().st_mtime_ns for path in out.glob("items/*/*")} == before

    more = invoke(*base, "--sweep", "times.num_segments=1,3,5")
    assert "2 of 6 assets to generate and score" in more.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.glob("items/*/*")}.items()
    assert len(pd.read_csv(out / "leaderboard.csv")) == 3
    fewer = refused(*base, "--sweep", "times.num_segments=1,5")
    assert "methods sctd num_segments=1, sctd num_segments=3, sctd num_segments=5, now" in fewer


def test_job_with_a_numeric_failure_is_a_row_with_its_reason_and_status_3(tiny_weights, tmp_path):
    """Guidance of 1e38 overflows every latent: the job fails and the run continues."""
    arguments = ["bench", "--prompt", "a red cube", "--weights", tiny_weights, *SMALL, "--out", tmp_path / "run"]
    result = invoke(*arguments, "--set", "guidance.scale=1e38", "--set", "max_skipped_iterations=2")
    assert result.exit_code == 3
    (row,) = pd.read_csv(tmp_path / "run" / "per_object.csv").to_dict("records")
    assert (row["status"], row["error_kind"]) == ("failed", "numeric")
    assert row["error"].startswith("NumericError: NaN or infinity in 2 iterations in a row")
    assert f"failed: a red cube (sctd): {row['error']}" in result.stderr
    (line,) = pd.read_csv(tmp_path / "run" / "leaderboard.csv").to_dict("records")
    assert (line["n_prompts"], line["n_failed"]) == (1, 1)
    assert "Traceback" not in result.output
    assert "Traceback" in next((tmp_path / "run").glob("items/*/record.json")).read_text()


def test_evaluate_scores_a_generated_asset(tiny_weights, tmp_path):
    out = tmp_path / "run"
    options = ["--weights", str(tiny_weights), "--set", "iterations=3", *BALL]
    made = invoke("generate", "a red cube", *options, "--executor", "inline", "--out", out)
    assert made.exit_code == 0, made.output
    (asset,) = out.glob("items/*/asset.ply")
    assert made.stdout == f"{asset}\n"
    assert json.loads((asset.parent / "record.json").read_text())["status"] == "generated"
    scored = invoke("evaluate", out, "--views", "5", "--executor", "inline")
    assert scored.exit_code == 0, scored.output
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    assert (row["n_views"], row["protocol"], row["n_failed"]) == (5, "paper5", 0)
    assert row["clip@tiny"] == row["clip@tiny"]
    assert "0 of" not in invoke("evaluate", out, "--executor", "inline").stderr, "already scored"


def test_leaderboard_of_several_folders(command, tmp_path):
    _, out, first = command
    (out / "leaderboard.csv").unlink()
    assert invoke("leaderboard", out).stdout == first.stdout
    assert (out / "leaderboard.csv").exists()
    result = invoke("leaderboard", out, out, "--out", tmp_path / "both.csv")
    assert result.exit_code == 0
    assert list(pd.read_csv(tmp_path / "both.csv")["method"]) == ["sctd", "sds"] * 2


def test_leaderboard_as_json_has_null_for_empty_cells(command, tmp_path):
    _, out, _ = command
    rows = json.loads(invoke("leaderboard", out, "--json").stdout)
    table = pd.read_csv(out / "leaderboard.csv")
    assert [row["method"] for row in rows] == ["sctd", "sds"]
    assert list(rows[0]) == list(table.columns)
    assert [row["clip@tiny"] for row in rows] == pytest.approx(list(table["clip@tiny"]))
    for name in table.columns:
        assert [row[name] is None for row in rows] == list(table[name].isna()), name
    both = json.loads(invoke("leaderboard", out, out, "--json", "--out", tmp_path / "both.csv").stdout)
    assert len(both) == 4
    assert (tmp_path / "both.csv").exists()


def test_weights_check_as_json_keeps_its_status(tiny_weights, monkeypatch):
    from pipeline.weights import check

    found = check.CheckResult("prior", check.CheckStatus.MISSING, "no unet/config.json")
    monkeypatch.setattr(check, "check", lambda *_, **__: [found])
    result = invoke("weights", "check", "prior", "--weights", tiny_weights, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [
        {"role": "prior", "status": str(check.CheckStatus.MISSING), "text": "no unet/config.json"}
    ]


def test_default_run_has_the_first_four_prompts_and_a_folder_in_runs(monkeypatch, tiny_weights, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        options, "read_suite", lambda name: options.prompts_of(f"thing {i} of {name}" for i in range(9))
    )
    calls = []
    monkeypatch.setattr(commands, "finish", lambda *arguments: calls.append(arguments) or 0)
    assert invoke("bench", "--weights", tiny_weights, *BALL).exit_code == 0
    run, out, execution, note = calls[0]
    assert note is None
    assert [prompt.text for prompt in run.prompts] == [f"thing {i} of embedded40" for i in range(4)]
    assert run.name.startswith("embedded40-sctd-")
    assert out is None
    assert execution == ExecutionOptions(
        workers=None,
        assets_per_gpu="auto",
        executor="ray",
        eval_placement="auto",
        stall_seconds=180.0,
        checkpoint_seconds=20.0,
        log="auto",
        track=None,
        report=True,
        live=None,
    )
    assert invoke("bench", "--suite", "mine", "--weights", tiny_weights, *BALL).exit_code == 0
    assert len(calls[1][0].prompts) == 9
