"""docs/errors.md has every error message of the source; helpers of messages."""

import ast

import pytest

from cluster.jobs.errors import ManifestError
from cluster.scheduling.retries import POLICIES
from pipeline.cli.error_handling import text_of
from pipeline.errors import nearest, shortened
from tests.support.paths import ROOT

PAGE = " ".join((ROOT / "docs" / "errors.md").read_text(encoding="utf-8").split())
ERRORS = "UserError", "ClusterError", "ManifestError", "LaunchError", "HeadLostError", "UnreachableError"
SOURCES = sorted(path for part in ("pipeline", "cluster") for path in ROOT.glob(f"{part}/**/*.py"))


def messages() -> dict[str, str]:
    """Every message of these errors in the source, with '…' for values, and its place."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                text = _pattern(node.args[0])
                found[text if node.func.id == "UserError" else text_of(ManifestError(text))] = (
                    f"{path.name}:{node.lineno}"
                )
    return found


def _pattern(message: ast.expr) -> str:
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
    text = "".join(texts)
    while "……" in text:
        text = text.replace("……", "…")
    return text


def test_every_error_message_is_documented():
    found = messages()
    assert len(found) > 150
    missing = {text: place for text, place in found.items() if f"`{text}`" not in PAGE}
    assert missing == {}


@pytest.mark.parametrize("kind", POLICIES)
def test_every_kind_of_failure_is_documented(kind):
    assert f"| `{kind}` |" in PAGE


def test_nearest_known_word_is_a_hint():
    assert nearest("sctdd", ["sds", "sctd"]) == "; the nearest is 'sctd'"
    assert nearest("zzz", ["sds", "sctd"]) == ""


def test_long_texts_are_truncated():
    assert shortened("short") == "short"
    assert shortened("a" * 50) == "a" * 39 + "…"
    assert shortened("word " * 20, 11) == "word word…"
