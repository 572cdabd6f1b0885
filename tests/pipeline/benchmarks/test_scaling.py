"""Assets per minute and speed-up from events."""

import json

import pytest

from pipeline.benchmarks.scaling import assets_per_minute, records, table


def event(kind, second, stage="generate"):
    return {"time": f"2026-01-02T00:00:{second:02}+00:00", "kind": kind, "stage": stage}


def test_assets_per_minute_are_measured_from_the_first_start_to_the_last_end(tmp_path):
    events = [event("ready", 1), event("started", 10), event("started", 12), event("finished", 30)]
    events += [event("finished", 40), event("finished", 59, "evaluate")]
    (tmp_path / "events").mkdir()
    for part in (0, 1):
        lines = [json.dumps(one) + "\n" for one in events[part::2]]
        (tmp_path / "events" / f"a-{part}.jsonl").write_text("".join(lines))
    assert records(tmp_path) == events
    assert assets_per_minute(events) == pytest.approx(2 / 30 * 60)
    with pytest.raises(ValueError, match="no asset was generated"):
        assets_per_minute(events[:2])


def test_the_speed_up_is_over_the_fewest_workers():
    lines = table({1: 2.0, 4: 7.6}).splitlines()
    assert [line.split() for line in lines[1:]] == [["1", "2.00", "1.00", "1.00"], ["4", "7.60", "3.80", "0.95"]]
