"""A study of three methods in two run folders with generated turntables, and helpers to serve it."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.assets import images
from pipeline.store.run_folder import Store
from pipeline.study import clips, plan
from pipeline.study.database import Database
from tests.support.runs import job, manifest

SERVE = [sys.executable, "-c", "from pipeline.cli.app import main; main()", "study", "serve"]
METHODS = {"alpha": ["sctd-secret", "sds-secret"], "beta": ["sctd-secret"]}
HOSTILE = '<script>alert("x")</script> a red & "blue" cube'
PROMPTS = [HOSTILE, "a green ball", "a yellow cone"]


def turntable(seed: int, frames: int = 12, side: int = 32) -> bytes:
    colour = np.random.default_rng(seed).integers(0, 256, size=3)
    views = np.full((frames, side, side, 3), 255, np.uint8)
    for i, view in enumerate(views):
        view[8:24, i : i + 12] = colour
    return images.video(views)


def write_run(root, methods, unfinished=()):
    """The parts of a run folder that a study reads; `unfinished` jobs have no turntable."""
    jobs = [job(f"{method}-{p}", prompt, method) for p, prompt in enumerate(PROMPTS) for method in methods]
    store = Store(root)
    manifest(store, jobs)
    for number, entry in enumerate(jobs):
        if entry.job_id not in unfinished:
            frames = 12 if root.name == "alpha" else 20
            store.write(store.item(entry.job_id) / "turntable.mp4", turntable(number, frames))
    return store


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, methods in METHODS.items():
        write_run(root / name, methods)
    return [root / name for name in METHODS]


@pytest.fixture(scope="session")
def made_clips(runs):
    """A plan and its clips, generated once."""
    made = plan.planned(runs, [], 2, seed=1)
    assert HOSTILE in made.prompts
    contents = [clips.clip(Path(path)) for group in made.turntables for path in group]
    return made, clips.padded(contents)


@pytest.fixture
def study(made_clips, tmp_path):
    """A study's folder, plan and database: three methods, two groups, six steps per volunteer."""
    made, contents = made_clips
    store = Store(tmp_path / "study")
    paths = [made.clip(store, g, c) for g in range(2) for c in range(3)]
    for path, content in zip(paths, contents, strict=True):
        store.write(path, content)
    plan.write(store, made)
    database = Database(store.root / plan.DATABASE)
    yield store, made, database
    database.close()


def csrf(html: str) -> str:
    return re.search(r'name="csrf" value="([0-9a-f]+)"', html)[1]


def secrets_of(made) -> list[str]:
    """Words that no response may contain."""
    runs = [word for c in made.competitors for word in (c.run, c.run_id, c.method)]
    return [*runs, made.id, "sctd", "sds", "run.json", "items/", json.dumps(made.competitors[0].method)]


@contextmanager
def serving(store):
    server = subprocess.Popen(
        [*SERVE, str(store.root), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline()
        yield server, re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    finally:
        server.kill()
        server.communicate()
