"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
SHARED = ROOT.parent / "shared"  # beside a checkout in CI; tests that need it skip without it
FIXTURES = SHARED / "fixtures"
