"""A verdict for people and machines: Markdown, JSON, JUnit XML, and the line of the history. Values in, text out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from pipeline.nightly.baseline import Pinned
from pipeline.nightly.verdict import FAIL, INCONCLUSIVE, Found, Night, Verdict

HEAD = "metric", "method", "prompts", "difference", "interval", "δ", "p", "p (Holm)", "verdict"


def markdown(verdict: Verdict, pinned: Pinned, tonight: Night) -> str:
    """`verdict.md`."""
    parts = [
        f"# {verdict.verdict}: {verdict.reason}\n",
        _beside(pinned, tonight),
        table(verdict.gates),
        "".join(f"- {gate.metric} ({gate.method}), {gate.verdict}: {gate.reason}.\n" for gate in verdict.gates),
        "".join(f"- {note}\n" for note in verdict.notes),
        "![differences and CUSUM by night](trend.png)\n",
    ]
    return "\n".join(part for part in parts if part)


def table(gates: Sequence[Found]) -> str:
    """A row per gate: tonight minus baseline, ↑ or ↓ where better is."""
    lines = [HEAD, ["-"] * len(HEAD), *map(cells, gates)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    rows = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"| {row} |\n" for row in rows) if gates else ""


def cells(gate: Found) -> list[str]:
    """What stands below `HEAD`."""
    arrow = {"higher": "↑", "lower": "↓", "same": "="}[gate.better]
    interval = "" if gate.low is None else f"{gate.low:+.3g} to {gate.high:+.3g}"
    p, p_holm = ("" if value is None else f"{value:.2g}" for value in (gate.p, gate.p_holm))
    numbers = [str(gate.prompts), f"{gate.difference:+.3g}", interval, f"{gate.delta:.3g}", p, p_holm]
    return [f"{gate.metric} {arrow}", gate.method, *numbers, gate.verdict]


def junit(verdict: Verdict, tonight: Night) -> bytes:
    """`junit.xml`: a case for the night as a whole and one per gate; INCONCLUSIVE is skipped, with its reason."""
    cases = [("nightly", "verdict", verdict.verdict, verdict.reason)]
    cases += [(gate.method, gate.metric, gate.verdict, gate.reason) for gate in verdict.gates]
    count = {word: str(sum(case[2] == word for case in cases)) for word in (FAIL, INCONCLUSIVE)}
    numbers = {"tests": str(len(cases)), "failures": count[FAIL], "skipped": count[INCONCLUSIVE], "errors": "0"}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": tonight.run_id, "timestamp": tonight.date_utc} | numbers
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


def document(verdict: Verdict, pinned: Pinned, tonight: Night) -> dict[str, Any]:
    """`verdict.json`."""
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "run": tonight.run_id,
        "date_utc": tonight.date_utc,
        "commit": tonight.commit,
        "baseline": {"number": pinned.number, "run": pinned.night.run_id, "commit": pinned.night.commit}
        | {"accepted": pinned.accepted},
        "gates": [asdict(gate) for gate in verdict.gates],
        "notes": list(verdict.notes),
    }


def line(verdict: Verdict, pinned: Pinned, tonight: Night) -> dict[str, Any]:
    """Of `nights.jsonl`: what trends are drawn from."""
    names = "method", "metric", "better", "difference", "low", "high", "delta", "verdict"
    gates = [{name: getattr(gate, name) for name in names} | {"loss": gate.loss} for gate in verdict.gates]
    about = {"date_utc": tonight.date_utc, "run": tonight.run_id, "commit": tonight.commit, "baseline": pinned.number}
    return about | {"verdict": verdict.verdict, "reason": verdict.reason, "gates": gates}


def _beside(pinned: Pinned, tonight: Night) -> str:
    accepted = pinned.accepted
    return (
        f"`{tonight.run_id}` of {tonight.date_utc} (commit {tonight.commit or 'unknown'}) beside baseline "
        f"{pinned.number}, `{pinned.night.run_id}` (commit {pinned.night.commit or 'unknown'}), accepted "
        f"{accepted['date_utc']} by {accepted['by']}: {accepted['reason']}\n"
    )


def _printable(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
