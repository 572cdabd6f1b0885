"""The layout: rooms, their order, and the diagram of them (docs/rooms.py). import-linter holds the order itself."""

import importlib.util
import subprocess
import sys

from tests.support.paths import DOCS, ROOT

spec = importlib.util.spec_from_file_location("rooms", DOCS / "rooms.py")
rooms = importlib.util.module_from_spec(spec)
sys.modules["rooms"] = rooms
spec.loader.exec_module(rooms)


def test_no_file_imports_itself_through_others_and_the_diagram_has_at_most_22_rooms():
    found = rooms.layout()
    assert rooms.cycle(found.imports) == []
    assert len(found.files) <= 22


def test_every_room_is_in_the_diagram_once():
    found = rooms.layout()
    assert sorted(room for row in found.rows for room in row) == sorted(found.files)


def test_the_diagram_is_current():
    command = [sys.executable, DOCS / "rooms.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cycle_is_found():
    assert set(rooms.cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert rooms.cycle({"a": {"b"}, "b": {"c"}}) == []
    assert rooms.depth_of({"a": {"b"}, "b": {"c"}}) == 3


def test_no_source_file_is_longer_than_400_lines():
    files = [path for package in rooms.PACKAGES for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_room_says_what_it_is_for():
    folders = [path.parent for package in rooms.PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not rooms.docstring(folder)]
