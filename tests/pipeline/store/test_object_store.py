"""Run folders in object stores: a real S3 server on this machine, and memory."""

import io
import json
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.error_handling import INTERRUPTED, INVALID_INPUT
from pipeline.embedded import frozen
from pipeline.report import viewer
from pipeline.store import files
from pipeline.store.run_folder import Store
from sctd.formats import ply
from tests.support import finished_run
from tests.support.processes import BALL, PROMPTS

QUICK = ["--set", "iterations=4", *BALL, "--views", "4", "--executor", "inline"]


EVENTS = b"".join(
    b'{"stage": "generate", "job_id": "0000cafe", "iteration": %d, "loss": 0.5}\n' % iteration for iteration in (1, 2)
)


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def contents(root: Path) -> dict[str, bytes]:
    """The outputs that are the same in every run, by item and file name."""
    names = "asset.ply", "asset-2.ply", "contact.png", "turntable.mp4"
    places = [path for name in names for path in root.glob(f"items/*/{name}")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in places}


def scores(root: Path) -> dict[str, object]:
    records = (json.loads(path.read_bytes()) for path in root.glob("items/*/record.json"))
    return {record["job_id"]: record["scores"] for record in records}


def test_commands_give_the_same_results_in_a_bucket_as_in_a_folder(s3, tiny_weights, tmp_path):
    folder, bucket = tmp_path / "run", files.place(f"{s3}/verbs/run")
    for out in (folder, bucket):
        options = ["--weights", tiny_weights, "--seed", "1", "--score-at", "0.5", *QUICK]
        made = invoke("bench", *PROMPTS, *options, "--out", out)
        assert made.exit_code == 0, made.output
        assert f"{out}/leaderboard.csv" in made.stdout
    assert contents(bucket) == contents(folder)
    assert scores(bucket) == scores(folder)
    assert {path.name for path in bucket.glob("*")} == {path.name for path in folder.glob("*")} - {".lock", "report"}
    leaderboards = [pd.read_csv(io.BytesIO((out / "leaderboard.csv").read_bytes())) for out in (folder, bucket)]
    for column in ("clip@tiny", "fd@tiny", "kid_cl@tiny"):
        assert leaderboards[0][column].tolist() == leaderboards[1][column].tolist()
    curves = [pd.read_csv(io.BytesIO((out / "curves.csv").read_bytes())) for out in (folder, bucket)]
    assert curves[0]["iterations"].tolist() == [2, 4, 2, 4]
    assert curves[0]["clip@tiny"].tolist() == curves[1]["clip@tiny"].tolist()

    scored = invoke("evaluate", bucket, "--views", "5", "--executor", "inline")
    assert scored.exit_code == 0, scored.output
    ranked = invoke("leaderboard", bucket, folder, "--out", tmp_path / "both.csv")
    assert ranked.exit_code == 0, ranked.output
    assert sorted(pd.read_csv(tmp_path / "both.csv")["n_views"]) == [4, 5]
    one = invoke(
        "generate", "a red cube", "--weights", tiny_weights, "--executor", "inline", *QUICK[:6], "--out", f"{s3}/one"
    )
    assert one.exit_code == 0, one.output
    assert one.stdout.startswith("s3://bucket/one/items/")


def test_pages_of_a_run_in_a_bucket_are_written_to_a_local_folder(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "fetch", lambda: viewer.Files({"start.js": b""}))
    monkeypatch.setattr(viewer, "cached", lambda: None)
    bucket, folder = Store(files.place(f"{s3}/paged/run")), Store(tmp_path / "run")
    finished_run.write(folder, tmp_path / "weights", ["a red cube"], ["sctd", "sds"], failed=[(0, 1)])
    folder.write(folder.root / "events" / "a-0000.jsonl", EVENTS)
    for path in filter(Path.is_file, folder.root.rglob("*")):
        bucket.write(bucket.root / path.relative_to(folder.root).as_posix(), path.read_bytes())
    reports = [tmp_path / "from-folder", tmp_path / "from-bucket"]
    for run, out in zip((folder, bucket), reports, strict=True):
        written = invoke("report", run.root, "--out", out)
        assert (written.exit_code, written.stdout) == (0, f"{out}/index.html\n"), written.output
    contents = [{p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in reports]
    assert contents[0].keys() == contents[1].keys() >= {Path("plots/001-made.svg"), Path("view/0-0000cafe.html")}
    differing = [
        path for path, content in contents[0].items() if contents[1][path] != content and path.suffix != ".html"
    ]
    assert differing == []
    again = invoke("report", bucket.root, "--out", reports[1])
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "s3://bucket/run is in an object store and --out is missing"),
        (["--out", "s3://bucket/pages"], "--out is s3://bucket/pages"),
    ],
)
def test_pages_cannot_be_written_to_a_bucket(options, found):
    refused = invoke("report", "s3://bucket/run", *options)
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: {found}; set --out to a local folder, because the pages open from disk.\n"


@pytest.fixture
def visited(monkeypatch) -> dict[str, bytes]:
    """The responses of `view` to a browser before Ctrl-C, by the name of the page."""
    found = {}

    def serve_until_visited(server):
        thread = threading.Thread(target=serve_forever, args=(server, 0.01))
        thread.start()
        for name in ("", "asset.js", "viewer/start.js"):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{name}", timeout=30) as answer:
                found[name] = answer.read()
        server.shutdown()
        thread.join()
        raise KeyboardInterrupt

    serve_forever = ThreadingHTTPServer.serve_forever
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", serve_until_visited)
    monkeypatch.setattr(viewer, "fetch", lambda: viewer.Files({"start.js": b"the viewer"}))
    return found


@pytest.mark.parametrize("named", ["items/a-red-cube-0000cafe", "items/a-red-cube-0000cafe/asset.ply", "other.ply"])
def test_an_asset_in_a_bucket_is_shown(s3, visited, named):
    data, title = ply.to_ply(finished_run.asset()), "other.ply" if named == "other.ply" else "a-red-cube-0000cafe"
    run = Store(files.place(f"{s3}/viewed"))
    path = run.root / (named if named.endswith(".ply") else f"{named}/asset.ply")
    run.write(path, data)
    shown = invoke("view", run.root / named, "--port", 0, "--no-browser")
    assert shown.exit_code == INTERRUPTED
    assert shown.stdout.startswith(f"{path}: http://127.0.0.1:"), shown.output
    assert visited["asset.js"] == viewer.embedded(data)
    assert visited["viewer/start.js"] == b"the viewer"
    assert f"<title>{title}</title>" in visited[""].decode()


@pytest.mark.parametrize("named", ["bucket/nothing", "bucket/nothing/asset.ply", "absent/run/items/a"])
def test_a_missing_asset_in_a_bucket_is_an_error(s3, visited, named):
    refused = invoke("view", f"s3://{named}", "--port", 0, "--no-browser")
    assert (refused.exit_code, visited) == (INVALID_INPUT, {})
    assert refused.stderr.startswith(f"Error: s3://{named} cannot be read (")
    assert refused.stderr.endswith("; pass an asset.ply, or the folder of an item that has one.\n")


def test_a_missing_bucket_is_an_error(s3, tiny_weights):
    refused = invoke("bench", *PROMPTS, "--weights", tiny_weights, *QUICK, "--out", "s3://absent/run")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "Error: s3://absent/run cannot be written (The specified bucket does not exist); choose another --out.\n"
    )


def test_nightly_runs_and_baselines_work_in_a_store(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "check", list)
    (tmp_path / "gates.toml").write_text("[clip]\ndelta = 0.3\n")
    root = files.place(f"memory://{tmp_path.name}")
    (tmp_path / "two.txt").write_text("a red cube\na blue ball\n")
    options = ["--suite", tmp_path / "two.txt", "--weights", tiny_weights, *QUICK]
    assert invoke("bench", *options, "--out", root / "release").exit_code == 0
    accepted = invoke("nightly", "accept", root / "release", "--baseline", root / "pinned", "--reason", "first")
    assert accepted.stdout == f"Baseline 1 in {root}/pinned: release, 2 assets\n", accepted.output
    for night in ("one", "two"):
        gated = ["--baseline", root / "pinned", "--gates", tmp_path / "gates.toml", "--out", root / night]
        result = invoke("nightly", *options, *gated)
        assert (result.exit_code, "PASS: " in result.stdout) == (0, True), result.output
    lines = (root / "pinned" / "nights.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["one", "two"]
    assert json.loads((root / "two" / "verdict.json").read_bytes())["verdict"] == "PASS"
