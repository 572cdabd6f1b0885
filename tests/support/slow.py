"""Which tests are slow by measured times: `python -m tests.support.slow FULL.xml [FAST.xml]` rewrites tests/slow.txt.

FULL.xml is a JUnit report of all tests (`uv run pytest --junitxml=FULL.xml`). A test function is slow if a case of it
takes LIMIT_SECONDS or longer, with the fixtures that the case sets up. FAST.xml is a report of a run without these
(`make test-fast`): where a fast test now sets up the fixture of a slow one, its whole file is listed.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LIMIT_SECONDS = 0.4
LIST = Path(__file__).parents[1] / "slow.txt"


def is_slow(node_id: str, listed: frozenset[str]) -> bool:
    """Whether a test is listed: its function without parameters, `tests/sctd/x.py::test_y`, or its file."""
    function = node_id.partition("[")[0]
    return function in listed or function.partition("::")[0] in listed


def read_list() -> frozenset[str]:
    """The functions and files that are marked slow."""
    return frozenset(LIST.read_text(encoding="utf-8").split()) if LIST.is_file() else frozenset()


def slow_functions(report: Path) -> set[str]:
    """The test functions of a JUnit report with a case of LIMIT_SECONDS or longer."""
    return {
        f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].partition('[')[0]}"
        for case in ElementTree.parse(report).iter("testcase")
        if float(case.attrib["time"]) >= LIMIT_SECONDS
    }


def main() -> None:
    full, *fast = map(Path, sys.argv[1:])
    files = {name.partition("::")[0] for report in fast for name in slow_functions(report)}
    functions = {name for name in slow_functions(full) if name.partition("::")[0] not in files}
    LIST.write_text("\n".join(sorted(files | functions)) + "\n", encoding="utf-8")
    print(f"{len(files)} slow files and {len(functions)} slow functions in {LIST.name}")


if __name__ == "__main__":
    main()
