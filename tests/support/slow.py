"""Which tests are slow by measured times: `python -m tests.support.slow FULL.xml [FAST.xml]` rewrites tests/slow.txt.

FULL.xml is a JUnit report of all tests (`uv run pytest --junitxml=FULL.xml`). A test function is slow if a case of it
takes LIMIT_SECONDS or longer, with the fixtures that the case sets up. FAST.xml is a report of a run without these
(`make test-fast`): where a fast test now sets up the fixture of a slow one, its whole file is listed. Behind each name
are the seconds of all its cases: files with the most run first, so that no process waits for another at the end.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

LIMIT_SECONDS = 0.4
LIST = Path(__file__).parents[1] / "slow.txt"


def is_slow(node_id: str, listed: Container[str]) -> bool:
    """Whether a test is listed: its function without parameters, `tests/sctd/x.py::test_y`, or its file."""
    function = node_id.partition("[")[0]
    return function in listed or file_of(function) in listed


def file_of(name: str) -> str:
    """The file of a test, a function or a file."""
    return name.partition("::")[0]


def read_list() -> dict[str, int]:
    """The functions and files that are marked slow, and the seconds of each."""
    lines = LIST.read_text(encoding="utf-8").splitlines() if LIST.is_file() else []
    return {name: int(seconds) for name, seconds in map(str.split, lines)}


def seconds_of_files(listed: Mapping[str, int]) -> Counter[str]:
    """The seconds of the slow tests in each file."""
    found = Counter[str]()
    for name, seconds in listed.items():
        found[file_of(name)] += seconds
    return found


def times(report: Path) -> dict[str, list[float]]:
    """The seconds of each case of the test functions of a JUnit report."""
    found: dict[str, list[float]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].partition('[')[0]}"
        found.setdefault(name, []).append(float(case.attrib["time"]))
    return found


def slow_functions(report: Path) -> set[str]:
    """The test functions of a JUnit report with a case of LIMIT_SECONDS or longer."""
    return {name for name, cases in times(report).items() if max(cases) >= LIMIT_SECONDS}


def main() -> None:
    full, *fast = map(Path, sys.argv[1:])
    files = {file_of(name) for report in fast for name in slow_functions(report)}
    functions = {name for name in slow_functions(full) if file_of(name) not in files}
    seconds = Counter[str]()
    for name, cases in times(full).items():
        for listed in {name, file_of(name)} & (files | functions):
            seconds[listed] += sum(cases)
    lines = (f"{name} {max(1, round(seconds[name]))}\n" for name in sorted(files | functions))
    LIST.write_text("".join(lines), encoding="utf-8")
    print(f"{len(files)} slow files and {len(functions)} slow functions in {LIST.name}")


if __name__ == "__main__":
    main()
