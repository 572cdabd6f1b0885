"""The live view: what it shows, its errors, and that it does not change a run."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.error_handling import INVALID_INPUT
from pipeline.report import live
from pipeline.report.live import LiveView
from pipeline.store.run_folder import ASSET, CONTACT, NERF, SNAPSHOT, TURNTABLE, Store
from pipeline.work import execution
from sctd.formats import ply, splat
from sctd.render import nerf_file
from sctd.render.hash_grid import Levels
from sctd.render.nerf import Field, Lit, Nerf, Occupancy
from tests.support import finished_run
from tests.support.processes import BALL

RECORD = {"kind": "progress", "stage": "generate", "worker": 0, "job_id": "cafe", "iteration": 7, "iterations": 300}


@pytest.fixture
def view(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "SECONDS", 1e6)  # tests refresh by hand
    view = LiveView(Store(tmp_path), {"cafe": "a <b>red</b> ball", "beef": "a cube"}, 0)
    yield view
    view.close()


def snapshot(view, job_id, attempt="attempt-1-ab"):
    return view.store.item(job_id) / attempt / SNAPSHOT


def test_server_listens_on_loopback_and_cannot_be_shared(view, monkeypatch):
    assert view.server.get_host() == "127.0.0.1"
    monkeypatch.setattr("viser._viser.ViserTunnel", lambda *_: pytest.fail("a tunnel was opened"))
    assert view.server.request_share_url() is None


def test_panel_shows_the_current_job_of_a_worker_escaped(view):
    view.take(RECORD | {"loss": 0.125, "gaussians": 3072.0})
    view.show()
    content = view.panel.content
    assert "a &lt;b&gt;red&lt;/b&gt; ball" in content
    assert all(f">{text}</td>" in content for text in ("working", "7 of 300", "0.125", "3,072"))
    view.take({"kind": "finished", "stage": "generate", "worker": 0, "job_id": "cafe"})
    view.show()
    assert all(f">{text}</td>" in view.panel.content for text in ("finished", "7 of 300", "0.125"))
    view.take({"kind": "started", "stage": "generate", "worker": 0, "job_id": "beef"})
    view.take({"kind": "progress", "stage": "evaluate", "worker": 0, "job_id": "cafe"})
    view.show()
    assert "a cube" in view.panel.content
    assert "0.125" not in view.panel.content


def test_newest_snapshot_then_asset_is_drawn_at_the_workers_position(view, monkeypatch):
    drawn, asset = [], finished_run.asset()
    draw = view.server.scene.add_gaussian_splats
    monkeypatch.setattr(
        view.server.scene,
        "add_gaussian_splats",
        lambda name, **values: (drawn.append((name, len(values["centers"]), values["position"])), draw(name, **values)),
    )
    view.store.write(snapshot(view, "cafe"), splat.to_splat(asset.select(torch.arange(10))))
    view.take(RECORD)
    view.take(RECORD | {"worker": 3, "job_id": "beef"})  # without a snapshot so far
    view.show()
    view.show()
    time.sleep(0.02)
    view.store.write(snapshot(view, "cafe", "attempt-2-cd"), splat.to_splat(asset.select(torch.arange(20))))
    view.store.write(snapshot(view, "beef"), splat.to_splat(asset.select(torch.arange(30))))
    view.show()
    view.store.write(view.store.item("cafe") / ASSET, ply.to_ply(asset))
    view.show()
    left, right = (0.0, 0.0, 0.0), (0.0, live.SPACING, 0.0)
    assert drawn == [
        ("/worker-0", 10, left), ("/worker-0", 20, left), ("/worker-3", 30, right), ("/worker-0", 900, left)
    ]  # fmt: skip


def test_covariance_of_a_rotated_gaussian():
    """A quarter turn about z exchanges the standard deviations along x and y."""
    one = finished_run.asset().select(torch.tensor([0]))
    scales, half = torch.tensor([[0.3, 0.2, 0.1]]), 0.5**0.5
    turned = replace(one, log_scales=scales.log(), quats=torch.tensor([[half, 0.0, 0.0, half]]))
    drawn = live._splats(ply.to_ply(turned), Path("asset.ply"))
    np.testing.assert_allclose(drawn["covariances"][0], np.diag([0.04, 0.09, 0.01]), atol=1e-6)
    np.testing.assert_allclose(drawn["rgbs"][0], finished_run.RED, atol=1e-6)
    np.testing.assert_allclose(drawn["opacities"], [[1 / (1 + np.exp(-3.0))]], atol=1e-6)


def test_a_finished_nerf_is_drawn_as_gaussians(view, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        view.server.scene, "add_gaussian_splats", lambda name, **values: drawn.append(values["centers"])
    )
    field = Field(Levels(2, 4, 8, 8, 2), 4, 1.0, 40.0, 0.5)  # a blob of radius 0.5
    nerf = Nerf.random(field, torch.Generator().manual_seed(0))
    lit = Lit(nerf, Occupancy(torch.ones(4, 4, 4), 0.5), 32)
    view.store.write(view.store.item("cafe") / NERF, nerf_file.to_bytes(lit))
    view.take(RECORD)
    view.show()
    (centers,) = drawn
    assert len(centers) > 1000
    assert np.linalg.norm(centers, axis=1).max() < 0.65


def test_unreadable_snapshot_is_reported_once_and_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(live, "SECONDS", 0.01)
    view = LiveView(Store(tmp_path), {"cafe": "a red ball"}, 0)
    view.store.write(snapshot(view, "cafe"), b"no splat")
    view.take(RECORD)
    view.thread.join(60)
    view.take(RECORD)
    view.close()
    (logged,) = caplog.messages
    assert logged.startswith("--live: The .splat has 8 bytes; expected a multiple of 32")
    assert logged.endswith("; the run continues without the live view")
    assert "\n" not in logged


def generate(out, weights, *options):
    quick = ["--executor", "inline", "--set", "iterations=6", *BALL, "--weights", weights, "--out", out, *options]
    return CliRunner().invoke(app, ["generate", "a red cube", *map(str, quick)])


def test_live_view_does_not_change_the_run(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(live, "SECONDS", 0.01)
    plain, watched = generate(tmp_path / "plain", tiny_weights), generate(tmp_path / "live", tiny_weights, "--live", 0)
    assert (plain.exit_code, watched.exit_code) == (0, 0), watched.output
    assert watched.stdout == plain.stdout.replace("/plain/", "/live/")
    assert "Live view until this command ends: http://127.0.0.1:" in watched.stderr
    assert "the run continues without the live view" not in watched.stderr
    (one,), (other,) = ((tmp_path / name / "items").iterdir() for name in ("plain", "live"))
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for name in (ASSET, CONTACT, TURNTABLE):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    losses = [json.loads((folder / "generation.json").read_text())["mean_loss"] for folder in (one, other)]
    assert losses[0] == losses[1]


def test_missing_package_is_an_error(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    refused = generate(tmp_path / "run", tiny_weights, "--live", 0)
    assert refused.exit_code == INVALID_INPUT
    needs = "--live needs a package that is not installed; install it with pip install 'segmentdreamer[live]'."
    assert refused.stderr == f"Error: {needs}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("port", ["taken", 70_000])
def test_unavailable_port_is_an_error(tiny_weights, tmp_path, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1] if port == "taken" else port
        refused = generate(tmp_path / "run", tiny_weights, "--live", number)
    assert refused.exit_code == INVALID_INPUT
    assert refused.stderr.startswith(f"Error: Port {number} is not available (")
    assert refused.stderr.endswith("); pass another port with --live, or 0 for a free one.\n")
    assert not (tmp_path / "run").exists()
