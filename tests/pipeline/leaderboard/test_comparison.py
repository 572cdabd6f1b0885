"""Comparison of methods, from records written by hand."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_rel

from pipeline.assets import images
from pipeline.leaderboard import comparison
from pipeline.store.manifest import UsedWeights
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, Store
from tests.support import runs

PROMPTS = [f"a cube of side {side}" for side in range(6)]
CLIP = {  # by method, prompt by prompt; None: failed
    "sctd num_segments=1": [20.0, 22.0, 25.0, 21.0, 30.0, 24.0],
    "sctd num_segments=3": [21.1, 22.9, 26.0, 22.2, 30.8, 25.1],
    "sctd num_segments=5": [19.0, 24.0, None, 20.0, 33.0, 25.0],
}


@pytest.fixture
def run(tmp_path) -> RunResults:
    """Six prompts by three methods, one of which failed once; the first prompt has contact sheets."""
    store, jobs = Store(tmp_path), []
    views = np.stack([np.full((64, 64, 3), 30 * i, np.uint8) for i in range(8)])
    for number, prompt in enumerate(PROMPTS):
        for method, values in CLIP.items():
            job, clip = runs.job(f"{method[-1]}-{number}", prompt, method, objective="sctd"), values[number]
            if number == 0:
                store.write(store.item(job.job_id) / CONTACT, images.contact_sheet(views, prompt))
            jobs.append(job)
            store.write_record(
                runs.failed(job) if clip is None else runs.done(job, scores=runs.scores(clip, clip / 10, 0.5))
            )
    recipes = {method: {"times": {"num_segments": int(method[-1])}} for method in CLIP}
    weights = UsedWeights(name="tiny", folder="tiny", sha256={})
    runs.manifest(store, jobs, recipes=recipes, swept=("times.num_segments",), weights=weights)
    return RunResults.read(store)


def test_cells_have_settings_and_numbers_of_every_job(run):
    rows = comparison.cells(run)
    assert len(rows) == len(PROMPTS) * len(CLIP)
    assert rows[1] == {
        "method": "sctd num_segments=3", "objective": "sctd", "times.num_segments": "3", "prompt": PROMPTS[0],
        "seed": 0, "status": "done", "clip@tiny": 21.1, "ir@tiny": pytest.approx(2.11), "clip_rprec@tiny": 0.5,
        "seconds": 60.0, "asset": "items/3-0/asset.ply",
    }  # fmt: skip
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert (failed["times.num_segments"], failed["clip@tiny"], failed["seconds"], failed["asset"]) == ("5", *[None] * 3)


def test_differences_are_paired_over_prompts_that_both_finished(run):
    found = {(row["method"][-1], row["metric"]): row for row in comparison.differences(run)}
    assert set(found) == {("3", "clip@tiny"), ("5", "clip@tiny"), ("3", "ir@tiny"), ("5", "ir@tiny")}
    first, _, last = CLIP.values()
    both = [i for i in range(6) if i != 2]
    row = found["5", "clip@tiny"]
    assert (row["minus"], row["n_prompts"]) == ("sctd num_segments=1", 5)
    assert row["difference"] == pytest.approx(np.mean([last[i] - first[i] for i in both]))


def test_intervals_of_several_methods_hold_simultaneously(run):
    """Two comparisons: each interval has 97.5 % confidence, so that both hold with 95 %."""
    row = comparison.differences(run)[0]
    first, second, _ = CLIP.values()
    expected = ttest_rel(second, first).confidence_interval(0.975)
    assert row["confidence"] == pytest.approx(0.975)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["bootstrap_low"] < row["difference"] < row["bootstrap_high"]


def test_report_has_the_grid_and_marks_significant_differences(run):
    text = comparison.markdown(run, comparison.differences(run))
    assert "![every prompt by every method](grid.png)" in text
    header, _, third, fifth = [line for line in text.splitlines() if line.startswith("|")]
    assert header == "| method | clip@tiny | ir@tiny |"
    assert third.startswith("| sctd num_segments=3 | **+1.02 (")
    assert third.endswith("** [6] |")
    assert fifth.startswith("| sctd num_segments=5 | +0.8 (")
    assert fifth.endswith(") [5] |")


def test_methods_without_common_prompts_have_empty_cells(run):
    run = run.updated(runs.failed(record) for record in run.records.values())
    rows = comparison.differences(run)
    assert {row["n_prompts"] for row in rows} == {0}
    assert {row["difference"] for row in rows} == {None}
    assert "| sctd num_segments=3 |  |  |" in comparison.markdown(run, rows)


def test_grid_has_a_row_per_prompt_and_a_column_per_method(run):
    image = Image.open(io.BytesIO(comparison.grid(run)))
    size, gap, line = images.THUMBNAIL_PIXELS, images.GAP_PIXELS, images.LINE_PIXELS
    assert image.width == images.PROMPT_PIXELS + len(CLIP) * (2 * size + gap)
    rows = len(PROMPTS) * (size + line + gap)
    top = image.height - rows
    assert gap + line <= top <= gap + 3 * line
    for column in range(len(CLIP)):
        left = images.PROMPT_PIXELS + column * (2 * size + gap)
        seen = [image.getpixel((left + half * size + size // 2, top + size // 2))[0] for half in (0, 1)]
        assert seen == [0, 90], "the contact sheet's views at 0° and 135°"
        heading = np.asarray(image)[:top, left : left + 2 * size]
        caption = np.asarray(image)[top + size : top + size + line, left : left + 2 * size]
        assert heading.min() < 64 > caption.min(), "heading and caption are written in black"
    below = np.asarray(image)[top + size + line + gap :][:size, images.PROMPT_PIXELS :]
    assert (below == 255).all(), "an asset without a contact sheet has an empty tile"
