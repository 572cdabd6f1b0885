"""Writes `report.md`: the leaderboard, a contact sheet of every asset, all failures, and the command to reproduce."""

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.prompts import NOTES
from pipeline.store.records import Failed, Record
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, TURNTABLE

LEGEND = """Averages over prompts ± standard error; {views} views of each asset (`{protocol}`). An empty cell is a value
that could not be computed. Definitions of the columns: `columns.json`. Scores of each asset: `per_object.csv`.
"""
ORIGIN = "Versions, weights and recipe: `run.json`."


def report(run: RunResults, table: str, compared: str = "") -> str:
    """Markdown with paths relative to the run folder; `compared` has the sections after the leaderboard."""
    about, session = run.manifest, run.manifest.sessions[-1]
    parts = [
        f"# {about.run_id}\n",
        _summary(run),
        table,
        LEGEND.format(views=about.views, protocol=about.protocol),
        *([compared] if compared else []),
        *_failures(run.failed),
        f"## Assets{run.shown_note}\n",
        *map(_asset, run.shown.records.values()),
        "## Reproduce\n",
        f"```\n{session.command}\n```\n",
        f"Started {session.started_utc} on {session.hardware.line}; commit {session.commit or 'unknown'}. {ORIGIN}\n",
    ]
    return "\n".join(parts)


def _summary(run: RunResults) -> str:
    statuses, suite = Counter(record.status for record in run.records.values()), run.manifest.suite
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    note = f" ({NOTES[suite]})" if suite in NOTES else ""
    return f"{len(run.records)} jobs of suite `{suite}`{note}, seed {run.manifest.seed}: {counts}.\n"


def _failures(failed: Sequence[Failed]) -> list[str]:
    if not failed:
        return []
    rows = [
        f"| {' | '.join(map(escaped, (record.prompt, record.method, record.failed_stage, record.error)))} |"
        for record in failed
    ]
    return [
        "## Failed\n",
        "\n".join(["| prompt | method | stage | reason |", "| --- | --- | --- | --- |", *rows]) + "\n",
    ]


def _asset(record: Record) -> str:
    folder, title = f"items/{record.job_id}", f"{escaped(record.prompt)} ({escaped(record.method)})"
    if record.generation is None:
        return f"### {title}\n\nNot generated.\n"
    scored = ", ".join(f"{metric} {summary['mean']:.3g}" for metric, summary in record.scores.items())
    return (
        f"### {title}\n\n"
        f"![{escaped(record.prompt)}, contact sheet]({folder}/{CONTACT})\n\n"
        f"{scored or 'not scored'}; [turntable]({folder}/{TURNTABLE})\n"
    )


def escaped(text: str) -> str:
    """Text escaped for a line or a table cell of Markdown."""
    return re.sub(r"([\\`*\[\]|<>&])", r"\\\1", " ".join(text.split()))
