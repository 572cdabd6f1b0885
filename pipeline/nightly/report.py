"""Formats a verdict as Markdown, JSON, JUnit XML and a line of the history. Values in, text out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from pydantic import TypeAdapter, field_validator

from pipeline.nightly.baseline import Pinned
from pipeline.nightly.verdict import FAIL, INCONCLUSIVE, GateResult, NightlyRun, Verdict
from pipeline.plan.metrics import ARROWS
from pipeline.store.records import Stored

HEAD = "metric", "method", "prompts", "difference", "interval", "δ", "p", "p (Holm)", "verdict"


def markdown(verdict: Verdict, pinned: Pinned, candidate: NightlyRun) -> str:
    """`verdict.md`."""
    parts = [
        f"# {verdict.verdict}: {verdict.reason}\n",
        _compared_with(pinned, candidate),
        table(verdict.gates),
        "".join(f"- {gate.metric} ({gate.method}), {gate.verdict}: {gate.reason}.\n" for gate in verdict.gates),
        "".join(f"- {note}\n" for note in verdict.notes),
        "![differences and CUSUM of each nightly run](trend.png)\n",
    ]
    return "\n".join(part for part in parts if part)


def table(gates: Sequence[GateResult]) -> str:
    """A row per gate: candidate minus baseline; ↑ or ↓ is the better direction."""
    lines = [HEAD, ["-"] * len(HEAD), *map(cells, gates)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    rows = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"| {row} |\n" for row in rows) if gates else ""


def cells(gate: GateResult) -> list[str]:
    """A gate's cells below `HEAD`."""
    interval = "" if gate.low is None else f"{gate.low:+.3g} to {gate.high:+.3g}"
    p, p_holm = ("" if value is None else f"{value:.2g}" for value in (gate.p, gate.p_holm))
    numbers = [str(gate.prompts), f"{gate.difference:+.3g}", interval, f"{gate.delta:.3g}", p, p_holm]
    return [f"{gate.metric} {ARROWS[gate.better]}", gate.method, *numbers, gate.verdict]


def junit(verdict: Verdict, candidate: NightlyRun) -> bytes:
    """`junit.xml`: a case for the verdict and one per gate; INCONCLUSIVE cases are skipped with their reason."""
    cases = [("nightly", "verdict", verdict.verdict, verdict.reason)]
    cases += [(gate.method, gate.metric, gate.verdict, gate.reason) for gate in verdict.gates]
    count = {word: str(sum(case[2] == word for case in cases)) for word in (FAIL, INCONCLUSIVE)}
    numbers = {"tests": str(len(cases)), "failures": count[FAIL], "skipped": count[INCONCLUSIVE], "errors": "0"}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": candidate.run_id, "timestamp": candidate.date_utc} | numbers
    )
    for group, name, word, reason in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": _printable(group), "name": name})
        if word in (FAIL, INCONCLUSIVE):
            kind = "failure" if word == FAIL else "skipped"
            ElementTree.SubElement(case, kind, {"message": _printable(f"{word}: {reason}")})
        else:
            ElementTree.SubElement(case, "system-out").text = _printable(reason)
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


class VerdictFile(Stored):
    """`verdict.json`, as far as the report pages read it."""

    verdict: str
    reason: str
    gates: tuple[GateResult, ...]

    @field_validator("gates")
    @classmethod
    def _are_printable(cls, gates: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
        if any(gate.better not in ARROWS or (gate.low is None) != (gate.high is None) for gate in gates):
            raise ValueError("a gate has no direction, or half an interval")
        return gates


VERDICT_FILE = TypeAdapter(VerdictFile)


def document(verdict: Verdict, pinned: Pinned, candidate: NightlyRun) -> dict[str, Any]:
    """`verdict.json`."""
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "run": candidate.run_id,
        "date_utc": candidate.date_utc,
        "commit": candidate.commit,
        "baseline": {"number": pinned.number, "run": pinned.nightly_run.run_id, "commit": pinned.nightly_run.commit}
        | {"accepted": pinned.accepted},
        "gates": [asdict(gate) for gate in verdict.gates],
        "notes": list(verdict.notes),
    }


def line(verdict: Verdict, pinned: Pinned, candidate: NightlyRun) -> dict[str, Any]:
    """A line of `nights.jsonl`, from which trends are plotted."""
    names = "method", "metric", "better", "difference", "low", "high", "delta", "verdict"
    gates = [{name: getattr(gate, name) for name in names} | {"loss": gate.loss} for gate in verdict.gates]
    about = {
        "date_utc": candidate.date_utc,
        "run": candidate.run_id,
        "commit": candidate.commit,
        "baseline": pinned.number,
    }
    return about | {"verdict": verdict.verdict, "reason": verdict.reason, "gates": gates}


def _compared_with(pinned: Pinned, candidate: NightlyRun) -> str:
    accepted = pinned.accepted
    return (
        f"`{candidate.run_id}` of {candidate.date_utc} (commit {candidate.commit or 'unknown'}) compared with baseline "
        f"{pinned.number}, `{pinned.nightly_run.run_id}` (commit {pinned.nightly_run.commit or 'unknown'}), accepted "
        f"{accepted['date_utc']} by {accepted['by']}: {accepted['reason']}\n"
    )


def _printable(text: str) -> str:
    """Replaces characters that XML cannot represent with spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
