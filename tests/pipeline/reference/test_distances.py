"""The optional distances in whole commands: Inception at its published size with random weights, on few views."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluation.fid import Moments
from evaluation.references import Reference, from_bytes
from pipeline.assets import images
from pipeline.cli.app import app
from pipeline.errors import UserError
from pipeline.plan.protocol import Protocol
from pipeline.reference import distances
from pipeline.store import manifest
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.weights.networks import DISTANCES
from pipeline.work import flow
from tests.support import runs, tiny_models

MADE = ["--set", "iterations=1", "--set", "initialization.kind=ball", "--set", "initialization.count=50"]
PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
DINOV2 = "dinov2", "reference-dinov2.npz"
OTHERS = "fid", "fid_tf", "fd_dinov2"


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def assets(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("items/*/asset.ply")}


@pytest.fixture(scope="module")
def weights(tiny_weights, tmp_path_factory):
    """A weights folder named `tiny` without metric networks."""
    return shutil.copytree(tiny_weights, tmp_path_factory.mktemp("distances") / "tiny")


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """A run scored without the networks, then by the same command with them; and its earlier assets and leaderboard."""
    root = tmp_path_factory.mktemp("run")
    command = ["bench", *PROMPTS, *MADE, "--weights", weights, "--views", "2", "--executor", "inline"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # without --out: the default folder
        invoke(*command)
        (out,) = (root / "runs").iterdir()
        before = assets(out), pd.read_csv(out / "leaderboard.csv")
        tiny_models.write_inception(weights / "inception")
        tiny_models.write_dinov2(weights / "dinov2")
        tiny_models.write_references(weights, *OTHERS)
        stderr = invoke(*command).stderr
    return out, before, stderr


def test_an_added_network_scores_the_existing_assets(run):
    out, (files, leaderboard), stderr = run
    assert list(out.parent.iterdir()) == [out], "the same command uses the same folder"
    assert assets(out) == files, "no asset was generated again"
    assert f"2 of 2 assets to generate and score in runs/{out.name}, 2 of them already generated" in stderr
    assert not any("fid" in name or "inception" in name for name in leaderboard.columns)
    now = pd.read_csv(out / "leaderboard.csv")
    assert set(leaderboard.columns) < set(now.columns)
    measured = [name for name in leaderboard.columns if "@tiny" in name]
    pd.testing.assert_frame_equal(leaderboard[measured], now[measured], check_exact=True)


def test_the_leaderboard_has_every_distance_with_standard_error_and_reference(run, weights):
    out, _, _ = run
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    for metric in (*OTHERS, "kid_cl_inception"):
        assert np.isfinite(row[f"{metric}@tiny"]), metric
    for metric in OTHERS:
        assert row[f"{metric}@tiny_se"] > 0
        reference = from_bytes((weights / DISTANCES[metric].reference).read_bytes())
        assert row[f"ref_key_{metric}"] == reference.key
    columns = json.loads((out / "columns.json").read_text())
    assert columns["fid@tiny"]["direction"] == columns["kid_cl_inception@tiny"]["direction"] == "lower"
    assert columns["fid_tf@tiny_se"]["definition"] == "standard error of fid_tf@tiny"
    assert "fid@tiny ↓ " in (out / "report.md").read_text()
    sha256 = json.loads((out / "run.json").read_text())["weights"]["sha256"]
    assert {"inception", "dinov2", *(DISTANCES[metric].reference for metric in OTHERS)} < set(sha256)


@pytest.mark.parametrize("metric", OTHERS)
def test_a_distance_matches_the_textbook_formula_on_the_stored_features(run, weights, metric):
    """|μ - m|² + tr C + tr R - 2 tr (C R)^½, the last as the sum of singular values of the centred sets' product."""
    out, _, _ = run
    ours, reference = stored(out, metric), reference_of(weights, metric)
    everything = np.concatenate(ours)
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (everything, reference)]
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    shift = np.sum((everything.mean(0) - reference.mean(0)) ** 2)
    expected = shift + sum(np.sum(x**2) for x in centred) - 2 * roots
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    assert row[f"{metric}@tiny"] == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_excludes_pairs_of_views_of_the_same_object(run, weights):
    out, _, _ = run
    (a, b), reference = stored(out, "fid"), reference_of(weights, "fid")

    def kernel(x, y):
        return (x @ y.T / 2048 + 1) ** 3

    among = kernel(reference, reference)
    among = (among.sum() - np.trace(among)) / (len(reference) * (len(reference) - 1))
    expected = 1000 * (kernel(a, b).mean() + among - 2 * kernel(np.concatenate([a, b]), reference).mean())
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    assert row["kid_cl_inception@tiny"] == pytest.approx(expected, rel=1e-9)


def test_the_stored_features_are_those_of_the_rendered_views(run, weights):
    from sctd.formats import ply

    out, _, _ = run
    item = next(out.glob("items/*"))
    views = images.on_white(ply.from_ply((item / "asset.ply").read_bytes()), Protocol(2).cameras(16))
    arrays = np.load(io.BytesIO((item / "evaluation.npz").read_bytes()))
    for metric in OTHERS:
        features = DISTANCES[metric].load(models.resolve(str(weights)), "cpu")(views)
        assert arrays[f"features_{metric}"].dtype == np.float32
        np.testing.assert_allclose(arrays[f"features_{metric}"], features, rtol=1e-5, atol=1e-6)


def test_a_distance_is_computed_once_and_cached(run, monkeypatch):
    out, _, _ = run
    before = (out / "leaderboard.csv").read_bytes()
    monkeypatch.setattr(distances, "frechet", lambda *_: pytest.fail("it was computed again"))
    monkeypatch.setattr(distances, "kernel_distance", lambda *_: pytest.fail("it was computed again"))
    invoke("leaderboard", out)
    assert (out / "leaderboard.csv").read_bytes() == before


def test_a_known_distance_reads_no_features_and_another_file_is_refused(run, tmp_path):
    """Records have the digest of their features, so that a leaderboard of a finished run need not read them."""
    out = Path(shutil.copytree(run[0], tmp_path / "run"))
    before = (out / "leaderboard.csv").read_bytes()
    first, second = sorted(out.glob("items/*/evaluation.npz"))
    content = first.read_bytes()
    first.unlink()
    invoke("leaderboard", out)
    assert (out / "leaderboard.csv").read_bytes() == before
    first.write_bytes(second.read_bytes())
    (out / "distances.json").unlink()
    result = CliRunner().invoke(app, ["leaderboard", str(out)])
    assert result.exit_code == 2
    assert f"{first} is damaged (it is not the file that was scored); delete it" in result.output
    first.write_bytes(content)
    invoke("leaderboard", out)
    assert (out / "leaderboard.csv").read_bytes() == before


def test_other_features_give_another_cache_entry():
    features = [np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32) for seed in range(3)]
    other = [*features[:2], features[2] + 1]
    reference_features = np.random.default_rng(9).normal(size=(20, 3)).astype(np.float32)
    reference = Reference(Moments.of(reference_features), reference_features, {})
    first = distances.DistanceCache({})
    found = first.estimates(DISTANCES["fd"], features, reference, 1)
    again = distances.DistanceCache(json.loads(json.dumps(first.used)))
    assert again.estimates(DISTANCES["fd"], features, reference, 1) == found
    assert again.estimates(DISTANCES["fd"], other, reference, 1) != found
    assert len(again.used) == 4
    assert set(again.estimates(DISTANCES["fid_tf"], features, reference, 1)) == {"fid_tf"}, "no kernel distance"
    assert len(again.used) == 5, "the same features of another metric are another entry"


def test_another_inception_scores_again_without_generating(run, weights, tmp_path, monkeypatch):
    """`evaluate` with another network has new features and a new digest. Distances without a part are not measured."""
    out = Path(shutil.copytree(run[0], tmp_path / "run"))
    other = tmp_path / "tiny"
    shutil.copytree(weights, other, ignore=shutil.ignore_patterns("inception*", "dinov2", "reference-inception*"))
    tiny_models.write_inception(other / "inception", seed=1)
    tiny_models.write_references(other, "fid")
    before = models.resolve(str(weights)), json.loads((out / "run.json").read_text()), assets(out), stored(out, "fid")
    assert models.resolve(str(other)).evaluation_digest() != before[0].evaluation_digest()
    monkeypatch.setattr(flow, "_generator", lambda *_: pytest.fail("an asset was generated"))
    stderr = invoke("evaluate", out, "--weights", other, "--executor", "inline").stderr
    assert f"2 of 2 assets to score in {out}" in stderr
    lacks = f"fid_tf is not measured: {other} has inception but no reference-inception_tf.npz"
    assert stderr.count(f"{lacks}; run segmentdreamer reference --weights {other}.\n") == 1
    lacks = f"fd_dinov2 is not measured: {other} has reference-dinov2.npz but no dinov2"
    assert stderr.count(f"{lacks}; run segmentdreamer weights fetch dinov2 --weights {other}.\n") == 1
    assert assets(out) == before[2]
    assert not np.allclose(stored(out, "fid"), before[3])
    settings = json.loads((out / "run.json").read_text())
    assert settings["evaluation"] != before[1]["evaluation"]
    assert settings["weights"]["sha256"]["inception"] != before[1]["weights"]["sha256"]["inception"]
    assert not {"dinov2", "reference-dinov2.npz", "reference-inception_tf.npz"} & set(settings["weights"]["sha256"])
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    assert np.isfinite(row["fid@tiny"])
    assert not {"fid_tf@tiny", "fd_dinov2@tiny"} & set(row)


def test_a_run_resumes_with_added_scorers_but_not_with_fewer(run, weights, tmp_path, run_of):
    folder = Path(shutil.copytree(weights, tmp_path / "tiny"))
    several = replace(run_of(views=2), weights=models.resolve(str(folder)))
    assert several.weights.scorers[3:] == ["inception", *(DISTANCES[m].reference for m in OTHERS[:2]), *DINOV2]
    for file in folder.glob("reference-*.npz"):
        file.unlink()
    one = replace(several, weights=models.resolve(str(folder)))
    assert one.weights.scorers == several.weights.scorers[:3]
    assert several.name == one.name
    assert several.evaluation != one.evaluation
    assert [job.id for job in several.jobs] == [job.id for job in one.jobs]
    store = Store(tmp_path / "run")
    runs.begin(store, one)
    runs.begin(store, several)
    with pytest.raises(UserError, match=r"inception weights [0-9a-f]{12}, now none; use those"):
        manifest.check_same(store, one)


def stored(out, metric):
    """The features of each object, in the order of the jobs."""
    jobs = json.loads((out / "run.json").read_text())["jobs"]
    files = [out / "items" / job["job_id"] / "evaluation.npz" for job in jobs]
    return [np.load(io.BytesIO(file.read_bytes()))[f"features_{metric}"].astype(float) for file in files]


def reference_of(weights, metric):
    return from_bytes((weights / DISTANCES[metric].reference).read_bytes()).features.astype(float)
