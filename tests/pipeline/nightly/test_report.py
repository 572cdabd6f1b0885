"""A verdict as Markdown, JUnit XML, JSON and a plot."""

import io
import json
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipeline.nightly import trend
from pipeline.nightly.baseline import Pinned
from pipeline.nightly.report import document, junit, line, markdown
from pipeline.nightly.verdict import FAIL, INCONCLUSIVE, PASS, GateResult, NightlyRun, Verdict

GATES = [
    GateResult("sctd", "clip", "higher", 8, -0.5, 0.1, -0.7, -0.3, 0.0078, 0.016, 0.3, FAIL, "worse by 0.5"),
    GateResult("sctd", "fd", "lower", 8, 0.25, 0.5, -1.0, 1.5, 0.6, 0.6, 2.0, PASS, "gain -0.25"),
    GateResult("sctd", "time", "lower", 1, 3.0, None, None, None, None, None, 5.0, INCONCLUSIVE, "no \x00 <interval>"),
]
VERDICT = Verdict(FAIL, "the generation changed: clip (sctd) worse", GATES, ["commit changed from a to b"])
RUN = NightlyRun("night", "2026-01-03T01:00:00+00:00", "b", "a CPU", {}, {}, ())
PINNED = Pinned(2, RUN, {"by": "ada", "date_utc": "2026-01-02", "reason": "release 1"})


def test_markdown_starts_with_the_verdict_and_has_a_row_per_gate():
    text = markdown(VERDICT, PINNED, RUN)
    assert text.splitlines()[0] == "# FAIL: the generation changed: clip (sctd) worse"
    assert "compared with baseline 2, `night` (commit b), accepted 2026-01-02 by ada: release 1" in text
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]
    assert rows[0] == ["metric", "method", "prompts", "difference", "interval", "δ", "p", "p (Holm)", "verdict"]
    assert rows[2] == ["clip ↑", "sctd", "8", "-0.5", "-0.7 to -0.3", "0.3", "0.0078", "0.016", "FAIL"]
    assert rows[3][:4] == ["fd ↓", "sctd", "8", "+0.25"]
    assert rows[4] == ["time ↓", "sctd", "1", "+3", "", "5", "", "", "INCONCLUSIVE"]
    assert len({len(row) for row in rows}) == 1
    assert "- clip (sctd), FAIL: worse by 0.5." in text
    assert "- commit changed from a to b" in text


def test_junit_is_valid_and_counts_its_cases():
    root = ElementTree.fromstring(junit(VERDICT, RUN))
    (suite,) = root
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "night",
        "4",
        "2",
        "1",
    )
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == ["verdict", "clip", "fd", "time"]
    assert cases["clip"].find("failure").get("message") == "FAIL: worse by 0.5"
    assert cases["fd"].find("failure") is None
    assert cases["fd"].find("skipped") is None
    assert cases["time"].find("skipped").get("message") == "INCONCLUSIVE: no   <interval>"


def test_json_and_history_line_are_plain_values():
    whole = json.loads(json.dumps(document(VERDICT, PINNED, RUN), allow_nan=False))
    assert (whole["verdict"], whole["baseline"]["number"], whole["gates"][0]["delta"]) == (FAIL, 2, 0.3)
    one = json.loads(json.dumps(line(VERDICT, PINNED, RUN), allow_nan=False))
    assert [gate["loss"] for gate in one["gates"]] == [0.5 / 0.3, 0.25 / 2.0, 3.0 / 5.0]


def test_trend_has_a_row_per_gate_coloured_by_verdict():
    history = [line(VERDICT, PINNED, RUN)] * 3
    image = Image.open(io.BytesIO(trend.draw(history, 2)))
    two = Image.open(io.BytesIO(trend.draw([line(Verdict(PASS, "", GATES[:2], []), PINNED, RUN)], 2)))
    assert image.height > two.height > 300
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in trend.COLOURS.values():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).any(), colour
    trend.draw([line(Verdict(FAIL, "", [], []), PINNED, RUN)], 2)  # runs that are not comparable
