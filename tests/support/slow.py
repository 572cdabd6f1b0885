"""Which tests are slow, from measured times: `python -m tests.support.slow JUNIT.xml…` rewrites tests/slow.txt.

Measure with `uv run pytest --junitxml=JUNIT.xml`. A test function is slow if one of its cases takes LIMIT_SECONDS or
longer, with the fixtures that the case sets up. Times of several files are merged: a second run without the slow tests
(`make test-fast`) finds those that now set up the fixture of a slow one, so pass both files.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LIMIT_SECONDS = 0.4
LIST = Path(__file__).parents[1] / "slow.txt"


def name_of(node_id: str) -> str:
    """A test function without its parameters: `tests/sctd/x.py::test_y`."""
    return node_id.partition("[")[0]


def listed() -> frozenset[str]:
    """The functions that are marked slow."""
    return frozenset(LIST.read_text(encoding="utf-8").split()) if LIST.is_file() else frozenset()


def measured(report: Path) -> dict[str, float]:
    """The longest case of each test function in a JUnit report, in seconds."""
    found: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{name_of(case.attrib['name'])}"
        found[name] = max(found.get(name, 0.0), float(case.attrib["time"]))
    return found


def main() -> None:
    slow = {
        name for report in sys.argv[1:] for name, seconds in measured(Path(report)).items() if seconds >= LIMIT_SECONDS
    }
    LIST.write_text("\n".join(sorted(slow)) + "\n", encoding="utf-8")
    print(f"{len(slow)} slow test functions in {LIST.name}")


if __name__ == "__main__":
    main()
