"""Outputs of a run folder that are written again, and those that are kept because their data is unchanged."""

import json

import pytest
from PIL import Image

from pipeline.report import publish as publishing
from pipeline.report.publish import publish
from pipeline.store import results
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from tests.support import finished_run

DRAWN = "contact.png", "grid.png", "report/index.html"


@pytest.fixture
def published(tmp_path):
    store = Store(tmp_path / "run")
    finished_run.write(store, tmp_path / "weights", ["a red cube", "a blue ball"], ["sctd", "sds"])
    publish(RunResults.read(store), pages=True)
    return store


def written(store, **options) -> set[str]:
    """The drawn files that publishing writes again."""
    before = {name: (store.root / name).stat().st_mtime_ns for name in DRAWN if (store.root / name).exists()}
    publish(RunResults.read(store), **options)
    return {name for name in DRAWN if (store.root / name).stat().st_mtime_ns != before.get(name)}


def test_images_and_pages_of_unchanged_data_are_kept(published):
    assert written(published) == set()
    assert written(published, pages=True) == {"report/index.html"}, "on request they are written"


def test_tables_are_always_written(published):
    before = (published.root / "leaderboard.csv").read_bytes()
    (published.root / "leaderboard.csv").write_text("")
    (published.root / "report.md").unlink()
    publish(RunResults.read(published))
    assert (published.root / "leaderboard.csv").read_bytes() == before
    assert (published.root / "report.md").exists()


@pytest.mark.parametrize("name", ["contact.png", "grid.png"])
def test_missing_image_is_drawn_again(published, name):
    (published.root / name).unlink()
    assert written(published) == {name}


def test_changed_data_is_drawn_again(published):
    path = next(published.root.glob("items/*/record.json"))
    record = json.loads(path.read_text())
    record["scores"]["clip"]["mean"] += 1
    path.write_text(json.dumps(record))
    assert written(published) == set(DRAWN)
    sheets = sorted(published.root.glob("items/*/contact.png"))
    sheets[0].write_bytes(sheets[1].read_bytes() + b"\0")
    assert written(published) == set(DRAWN)
    assert written(published, paper=True) == set(DRAWN)
    assert written(published, paper=True) == set()


def test_pages_that_were_left_out_are_updated_later(published):
    path = next(published.root.glob("items/*/record.json"))
    record = json.loads(path.read_text())
    record["scores"]["clip"]["mean"] += 1
    path.write_text(json.dumps(record))
    assert written(published, pages=False) == {"contact.png", "grid.png"}
    assert written(published) == {"report/index.html"}


def height(path) -> int:
    with Image.open(path) as image:
        return image.height


def test_images_and_lists_of_large_runs_show_the_first_prompts(published, monkeypatch):
    whole = {name: height(published.root / name) for name in ("contact.png", "grid.png")}
    assert "## Assets\n" in (published.root / "report.md").read_text()
    monkeypatch.setattr(results, "MOST_SHOWN", 3)
    assert written(published) == {"contact.png", "grid.png"}, "pages show every job"
    assert height(published.root / "contact.png") == whole["contact.png"] / 2
    assert height(published.root / "grid.png") < whole["grid.png"]
    text = (published.root / "report.md").read_text()
    assert "## Assets (the first 1 of 2 prompts)\n" in text
    assert "![every prompt by every method (the first 1 of 2 prompts)](grid.png)" in text
    assert text.count("contact sheet](items/") == 2
    assert len((published.root / "per_object.csv").read_text().splitlines()) == 1 + 4


def test_pages_of_large_runs_follow_the_jobs_that_images_leave_out(published, monkeypatch):
    monkeypatch.setattr(results, "MOST_SHOWN", 3)
    publish(RunResults.read(published))
    last = list(RunResults.read(published).records)[-1]
    path = published.item(last) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluation_seconds": 7.0}))
    assert written(published) == {"report/index.html"}
    monkeypatch.setattr(publishing, "MOST_PAGES", 3)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluation_seconds": 8.0}))
    assert written(published, pages=True) == set(), "only `report` writes pages of a run this large"
