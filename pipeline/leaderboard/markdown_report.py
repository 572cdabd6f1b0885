"""Writes `report.md`: the leaderboard, a contact sheet of every asset, all failures, and the command to reproduce."""

import re
from typing import Any

from pipeline.prompts import NOTES
from pipeline.store.run_folder import CONTACT, TURNTABLE

LEGEND = """Averages over prompts ± standard error; {views} views of each asset (`{protocol}`). An empty cell is a value
that could not be computed. Definitions of the columns: `columns.json`. Scores of each asset: `per_object.csv`.
"""


def report(manifest: dict[str, Any], records: dict[str, dict[str, Any] | None], table: str, compared: str = "") -> str:
    """Markdown with paths relative to the run folder; `compared` is the section that compares the methods."""
    session = manifest["sessions"][-1]
    parts = [
        f"# {manifest['run_id']}\n",
        _summary(manifest, records),
        table,
        LEGEND.format(**manifest),
        *([compared] if compared else []),
        *_failures(manifest, records),
        "## Assets\n",
        *(_asset(job, records[job["job_id"]]) for job in manifest["jobs"]),
        "## Reproduce\n",
        f"```\n{session['command']}\n```\n",
        _origin(session),
    ]
    return "\n".join(parts)


def _summary(manifest: dict[str, Any], records: dict[str, dict[str, Any] | None]) -> str:
    statuses = [(record or {"status": "unfinished"})["status"] for record in records.values()]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    note = f" ({NOTES[manifest['suite']]})" if manifest["suite"] in NOTES else ""
    return f"{len(statuses)} jobs of suite `{manifest['suite']}`{note}, seed {manifest['seed']}: {counts}.\n"


def _failures(manifest: dict[str, Any], records: dict[str, dict[str, Any] | None]) -> list[str]:
    failed = [(job, record) for job in manifest["jobs"] if (record := records[job["job_id"]]) and record["error"]]
    if not failed:
        return []
    rows = [
        f"| {' | '.join(map(escaped, (job['prompt'], job['method'], record['failed_stage'], record['error'])))} |"
        for job, record in failed
    ]
    return [
        "## Failed\n",
        "\n".join(["| prompt | method | stage | reason |", "| --- | --- | --- | --- |", *rows]) + "\n",
    ]


def _asset(job: dict[str, Any], record: dict[str, Any] | None) -> str:
    folder, title = f"items/{job['job_id']}", f"{escaped(job['prompt'])} ({escaped(job['method'])})"
    if record is None or "generation" not in record:
        return f"### {title}\n\nNot generated.\n"
    scores = record.get("scores") or {}
    scored = ", ".join(f"{metric} {summary['mean']:.3g}" for metric, summary in scores.items())
    return (
        f"### {title}\n\n"
        f"![{escaped(job['prompt'])}, contact sheet]({folder}/{CONTACT})\n\n"
        f"{scored or 'not scored'}; [turntable]({folder}/{TURNTABLE})\n"
    )


def _origin(session: dict[str, Any]) -> str:
    where, commit = machine(session["hardware"]), session["commit"] or "unknown"
    return f"Started {session['started_utc']} on {where}; commit {commit}. Versions, weights and recipe: `run.json`.\n"


def escaped(text: str) -> str:
    """Text escaped for a line or a table cell of Markdown."""
    return re.sub(r"([\\`*\[\]|<>&])", r"\\\1", " ".join(text.split()))


def machine(hardware: dict[str, Any]) -> str:
    """The machine of a session in one line."""
    gpus = f", {len(hardware['gpus'])} × {hardware['gpus'][0]}" if hardware["gpus"] else ""
    return f"{hardware['cpu']}, {hardware['cores']} cores{gpus}"
