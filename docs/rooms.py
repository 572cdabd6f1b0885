"""The rooms of the code: counted, checked for cycles, and drawn as a diagram of their imports.

`python docs/rooms.py` writes docs/images/architecture.svg and prints the counts; with `--check` it writes nothing and
exits with status 1 if the diagram is out of date or files import one another in a cycle. A room is a folder directly in
`pipeline`; `sctd`, `evaluation` and `cluster` count as one room each, and so do the files directly in `pipeline`
(`BASE`). The order of rooms from top to bottom is that of the layer contracts in pyproject.toml.
"""

import argparse
import ast
import sys
import tomllib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
DIAGRAM = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = "pipeline", "sctd", "evaluation", "cluster"
BASE = "pipeline.errors", "pipeline.digests", "pipeline.option"
WIDTH, LEFT, GAP, HEAD, LINE = 940, 16, 10, 28, 15
STYLE = (
    "text{font-family:ui-sans-serif,system-ui,sans-serif;fill:#1f2933}.n{font-size:15px;font-weight:600}"
    ".d{font-size:12px;fill:#52606d}rect{fill:#f5f7fa;stroke:#9aa5b1}.g rect{fill:#e3f8ff;stroke:#40c3f7}"
    ".background{fill:#fff;stroke:none}"
)


class Layout(NamedTuple):
    """What the imports say: files by room, which file imports which, and the rows of rooms from top to bottom."""

    files: dict[str, list[str]]
    imports: dict[str, set[str]]
    rows: list[list[str]]


def layout() -> Layout:
    """Read the imports of all four packages, those inside functions too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = sorted(m for m in graph.modules if _path(m).is_file())
    imports = {m: graph.find_modules_directly_imported_by(m) for m in modules}
    files: dict[str, list[str]] = {}
    for module in modules:
        if module != "pipeline":
            files.setdefault(room_of(module), []).append(module)
    return Layout(files, imports, [*layers(), ["base"]])


def layers(package: str = "pipeline") -> list[list[str]]:
    """The rows of rooms in a package, from its layer contract; of `pipeline` with the packages below it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    found = next((c["layers"] for c in contracts if package in c.get("containers", ["pipeline"])), [])
    return [[name.strip().removeprefix("pipeline.") for name in layer.split("|")] for layer in found]


def room_of(module: str) -> str:
    """The room of a file: the folder in `pipeline`, the package otherwise."""
    if module in BASE:
        return "base"
    parts = module.split(".")
    return parts[1] if parts[0] == "pipeline" else parts[0]


def cycle(imports: Mapping[str, set[str]]) -> list[str]:
    """Files that import one another in a ring; empty if there are none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def depth_of(imports: Mapping[str, set[str]]) -> int:
    """Length of the longest chain of imports, in files."""
    depth: dict[str, int] = {}
    for module in TopologicalSorter(imports).static_order():
        depth[module] = 1 + max((depth[other] for other in imports.get(module, ())), default=0)
    return max(depth.values())


def purpose(room: str) -> str:
    """The first line of the room's docstring, without its full stop."""
    if room == "base":
        return "Errors for users; digests of plain values"
    folder = ROOT / room if room in PACKAGES else ROOT / "pipeline" / room
    return docstring(folder).split("\n")[0].rstrip(".")


def docstring(folder: Path) -> str:
    """The docstring of a folder's `__init__.py`; empty if there is none."""
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""


def drawn(found: Layout) -> str:
    """The rooms as SVG, a row per layer of the contract: what each room is for, its files, the rooms it imports."""
    parts, y = [], GAP
    for row in found.rows:
        width = (WIDTH - 2 * LEFT - GAP * (len(row) - 1)) // len(row)
        texts = {room: _lines(found, room, (width - 24) // 7) for room in row}
        height = HEAD + LINE * max(map(len, texts.values()))
        for place, (room, lines) in enumerate(texts.items()):
            x = LEFT + place * (width + GAP)
            parts += [
                '<g class="g">' if room in PACKAGES else "<g>",
                f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>',
                f'<text class="n" x="{x + 12}" y="{y + 18}">{_title(room)}</text>',
                *(
                    f'<text class="d" x="{x + 12}" y="{y + HEAD + 8 + LINE * line}">{escape(text)}</text>'
                    for line, text in enumerate(lines)
                ),
                "</g>",
            ]
        y += height + GAP
    label = "Rooms of the code; a room imports only rooms below it"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{label}">'
    background = f'<rect class="background" width="{WIDTH}" height="{y}"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", background, *parts, "</svg>", ""])


def _title(room: str) -> str:
    if room == "base":
        return ", ".join(f"{module.replace('.', '/')}.py" for module in BASE)
    return f"{room}/" if room in PACKAGES else f"pipeline/{room}/"


def _lines(found: Layout, room: str, length: int) -> list[str]:
    whole = [f"{purpose(room)} · {len(found.files[room])} files"]
    if room in PACKAGES and (inner := [name for row in layers(room) for name in row]):
        whole.append(f"rooms: {', '.join(inner)}")
    elif room not in PACKAGES and room != "base":
        whole.append(f"imports {_below(found, room)}")
    return [line for text in whole for line in wrap(text, length)]


def _below(found: Layout, room: str) -> str:
    used = {room_of(other) for module in found.files[room] for other in found.imports[module] if other != "pipeline"}
    return ", ".join(sorted(used - {room})) or "nothing"


def _path(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python docs/rooms.py", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if out of date or cyclic")
    check = parser.parse_args().check
    found = layout()
    if ring := cycle(found.imports):
        print(f"Files import one another: {' -> '.join(ring)}.", file=sys.stderr)
        return 1
    print(f"{len(found.files)} rooms on {len(found.rows)} layers, {depth_of(found.imports)} files deep; no cycle")
    content = drawn(found)
    if not check:
        DIAGRAM.write_text(content, encoding="utf-8")
    elif DIAGRAM.read_text(encoding="utf-8") != content:
        print("docs/images/architecture.svg is out of date; run: make rooms", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
