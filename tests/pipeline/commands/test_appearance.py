"""The script `pipeline.commands.appearance` on run folders without any generation."""

import csv

import pytest
import torch

from pipeline.commands.appearance import FIGURES, SUMMARY, TABLE, main
from pipeline.store.run_folder import Store
from sctd.formats import ply
from sctd.scene.gaussians import Gaussians, rgb_to_sh
from tests.support import runs

SCALES = 5.0, 60.0
METHODS = "sds", "sctd"
PROMPTS = "a red cube", "a blue cube"


def ball(*rgb: float) -> bytes:
    """A wide opaque Gaussian."""
    return ply.to_ply(
        Gaussians(
            means=torch.zeros(1, 3),
            log_scales=torch.full((1, 3), -1.2),
            quats=torch.tensor([[1.0, 0, 0, 0]]),
            logit_opacities=torch.tensor([9.0]),
            sh=rgb_to_sh(torch.tensor([[rgb]])),
        )
    )


def scores(clip: float) -> dict:
    return runs.scores(clip=clip) | {"clip_faces": {"mean": clip - 3, "sd": 1.0, "p10": 0.0}}


def sweep(root, seed: int, methods: tuple[str, ...] = METHODS) -> Store:
    """A run over two scales: at 60 the balls are red beyond 1, else grey; with seed 1 all are darker."""
    store = Store(root)
    recipes = {
        f"{method} scale={scale:g}": {"name": "embedded", "guidance": {"scale": scale}}
        for method in methods
        for scale in SCALES
    }
    jobs = [
        runs.job(f"{method}-{prompt.split()[1]}-{seed}", prompt, method, objective=method.split()[0], seed=seed)
        for method in recipes
        for prompt in PROMPTS
    ]
    runs.manifest(store, jobs, recipes=recipes, swept=("guidance.scale",), seed=seed)
    for job in jobs:
        folder = store.item(job.job_id)
        folder.mkdir(parents=True)
        red = 1.5 if job.method.endswith("=60") else 0.5 - 0.2 * seed
        (folder / "asset.ply").write_bytes(ball(red, 0.5 - 0.2 * seed, 0.5 - 0.2 * seed))
        store.write_record(runs.done(job, scores=scores(40.0)))
    return store


def table(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def measured(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def test_tables_and_figures_of_a_sweep_with_two_seeds(tmp_path, capsys):
    folders = [sweep(tmp_path / str(seed), seed).root for seed in (0, 1)]
    out = tmp_path / "out"
    measured(*folders, "--out", out, "--views", 4)
    rows = table(out / TABLE)
    assert len(rows) == 16
    assert {(row["method"], row["guidance.scale"]) for row in rows} == {
        (m, s) for m in METHODS for s in ("5.0", "60.0")
    }
    grey = next(row for row in rows if row["guidance.scale"] == "5.0" and row["seed"] == "0")
    assert float(grey["luminance"]) == pytest.approx(0.5, abs=1e-3)
    assert float(grey["covered"]) > 0.02
    assert (float(grey["clipped"]), float(grey["specks"])) == (0, 0)
    assert (float(grey["second_face"]), float(grey["clip@embedded"])) == (3, 40)
    found = {(r["measure"], r["method"], r["guidance.scale"]): r for r in table(out / SUMMARY)}
    assert float(found["overshoot", "sctd", "60.0"]["mean"]) == 1
    assert float(found["overshoot", "sctd", "5.0"]["mean"]) == 0
    cell = found["luminance", "sctd", "5.0"]
    assert float(cell["mean"]) == pytest.approx(0.4, abs=1e-3), "of 0.5 and 0.3"
    assert float(cell["seed_sd"]) == pytest.approx(0.2 / 2**0.5, abs=1e-3)
    over = found["overshoot", "sctd", "60.0"]
    assert (over["since"], float(over["change"])) == ("5.0", 1)
    assert (cell["minus"], float(cell["difference"]), cell["n_assets"]) == ("sds", 0, "4")
    for name in FIGURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"floating bits" in (out / f"{name}.svg").read_bytes()
    assert b"minus sds" in (out / "differences.svg").read_bytes()
    assert b"change from the lowest value" in (out / "changes.svg").read_bytes()
    assert "16 assets measured from 4 views" in capsys.readouterr().err


def test_an_asset_of_two_runs_counts_once_and_one_seed_has_no_deviation(tmp_path, capsys):
    first, second = sweep(tmp_path / "a", 0).root, sweep(tmp_path / "b", 0).root
    measured(first, second, "--out", tmp_path / "out", "--views", 1)
    assert len(table(tmp_path / "out" / TABLE)) == 8
    assert not (tmp_path / "out" / "seeds.png").exists()
    assert "8 assets are also in another run and count once." in capsys.readouterr().err


def test_failed_jobs_and_views_without_opacity_are_left_out_with_a_sentence(tmp_path, capsys):
    store = sweep(tmp_path / "run", 0)
    store.write_record(runs.failed(runs.job("sds scale=5-red-0", method="sds scale=5")))
    mesh = {
        "sha256": "0", "file": "a.glb", "format": "glb", "front_degrees": 0.0, "front": "given", "image_size": 64,
        "num_triangles": 12,
    }  # fmt: skip
    path = store.item("sctd scale=60-blue-0") / "record.json"
    store.write_json(path, store.read_json(path) | {"generation": mesh})
    measured(store.root, "--out", tmp_path / "out", "--views", 1)
    assert len(table(tmp_path / "out" / TABLE)) == 6
    said = capsys.readouterr().err
    assert "Some averages are over fewer prompts than others: see n_prompts in summary.csv." in said
    assert "1 jobs failed and are left out, which can flatter a method." in said
    assert "1 assets are skipped, because only Gaussians are measured." in said


def test_errors_are_one_line(tmp_path, capsys):
    def error(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            measured(*arguments, "--out", tmp_path / "out")
        assert stopped.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert error(tmp_path / "none") == (
        f"Error: {tmp_path / 'none'} contains no run (no run.json); pass the run folder of a bench run."
    )
    runs.manifest(Store(tmp_path / "empty"), [runs.job("a")])
    assert error(tmp_path / "empty") == (
        f"Error: {tmp_path / 'empty'} contains no finished asset of Gaussians; run its bench command first."
    )
    store = sweep(tmp_path / "run", 0)
    assert error(store.root, "--views", 0) == "Error: --views is 0; expected 1 to 1000."
    assert "--key is 'scale', which is no setting of 'sds scale=5'" in error(store.root, "--key", "scale")
    asset = next(store.root.glob("items/*/asset.ply"))
    asset.write_bytes(b"ply")
    assert error(store.root).startswith(f"Error: {asset} is damaged (")
    asset.unlink()
    assert str(asset) in error(store.root)
