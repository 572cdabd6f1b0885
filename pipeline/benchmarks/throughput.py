"""Throughput of this build beside an earlier one, on the same machine, in one run: the targets of docs/performance.md.

    python -m pipeline.benchmarks.throughput FOLDER --base 939bd2a --rows embedded,readme
    python -m pipeline.benchmarks.throughput FOLDER --base TREE --weights DIR --rows paper,perp-neg --iterations 500

The base is a commit, of which a worktree is made, or a folder with its tree. Each row runs one command in both builds,
in processes of their own with caches of their own, which a first short run has filled. Rows for a GPU need one, and
`--weights` of the published size (`pipeline.benchmarks.full_size`). FOLDER keeps everything; what was measured before
is read from FOLDER/throughput.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CODE = "from pipeline.cli.app import main; main()"
ALL_SIX = "sctd,sctd-official,sds,ism,cds,gcs"
PAPER = ["--suite", "dreamfusion40", "--limit", "8", "--recipe", "paper"]
EMBEDDED = ["--suite", "embedded40", "--objective", ALL_SIX]


@dataclass(frozen=True)
class Build:
    """A tree of the repository, and a folder for its caches and results."""

    name: str
    tree: Path
    folder: Path

    def seconds(self, name: str, *arguments: str) -> float:
        """Run a command of this build in a new run folder; its seconds from start to end. Raises SystemExit."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        started = time.monotonic()
        self.run(*arguments, "--out", str(out), "--log", "lines")
        return time.monotonic() - started

    def run(self, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, [str(self.tree), os.environ.get("PYTHONPATH")]))
        cache = {name: str(self.folder / "compiled") for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
        environment = {**os.environ, **cache, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", CODE, *arguments], cwd=self.tree, env=environment)
        if done.returncode:
            sys.exit(f"{self.name}: {' '.join(arguments)} ended with status {done.returncode}")


Measure = Callable[[Build, argparse.Namespace], dict[str, float]]


@dataclass(frozen=True)
class Row:
    """A measured figure: its target is for the ratio of this build to the base, or for its own value."""

    title: str
    key: str
    target: float
    unit: str
    is_ratio: bool = True
    is_rate: bool = True  # more is better

    def met(self, base: float, new: float) -> bool:
        found = new / base if self.is_ratio else new
        return found >= self.target if self.is_rate else found <= self.target


def bench_rows(name: str, assets: int, arguments: Sequence[str], *, is_paper: bool = False) -> Measure:
    """Assets an hour of a `bench`, everything included, and the memory of all workers of a GPU."""

    def measure(build: Build, options: argparse.Namespace) -> dict[str, float]:
        of_paper = ["--weights", str(options.weights), "--set", f"iterations={options.iterations}"]
        first = [*of_paper[:2], "--limit", "1"] if is_paper else ["--limit", "1"]
        build.seconds(f"{name}-first", "bench", *arguments, *first, "--set", "iterations=20")
        seconds = build.seconds(name, "bench", *arguments, *(of_paper if is_paper else ()))
        facts = [json.loads(path.read_text()) for path in (build.folder / name).glob("items/*/generation.json")]
        if len(facts) != assets:
            sys.exit(f"{build.name}: {len(facts)} of {assets} assets were generated; see {build.folder / name}")
        at_once = max(each.get("assets_per_gpu", 1) for each in facts)
        peak = max(each["peak_bytes"] for each in facts) / 2**30
        return {name: 3600 * assets / seconds, f"{name}-gib": at_once * peak}

    return measure


def iteration(build: Build, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of an iteration of one asset alone, and its gradient's error, by CFG and Perp-Neg."""
    found = {}
    for name, more in (("cfg", []), ("perp-neg", ["--set", "guidance.perp_neg=true"])):
        out = build.folder / f"speed-{name}.json"
        arguments = ["--recipe", "paper", "--weights", str(options.weights), "--iterations", "30", "--out", str(out)]
        build.run("benchmark", "speed", *arguments, *more)
        speed = json.loads(out.read_text())
        found[f"ms-{name}"] = speed["fast"]["iteration_ms"]
        found[f"error-{name}"] = 100 * speed["gradient_error"]
        found[f"gib-{name}"] = speed["fast"]["peak_gib"]
    return found


MEASURES: Mapping[str, tuple[Measure, list[Row]]] = {
    "paper": (
        bench_rows("paper", 8, PAPER, is_paper=True),
        [
            Row("paper recipe, CFG: assets an hour, a queue of 8", "paper", 1.30, "/h"),
            Row("its peak GPU memory, all workers", "paper-gib", 40.0, "GiB", is_ratio=False, is_rate=False),
        ],
    ),
    "perp-neg": (
        bench_rows("perp-neg", 8, [*PAPER, "--set", "guidance.perp_neg=true"], is_paper=True),
        [Row("the same, Perp-Neg", "perp-neg", 1.25, "/h")],
    ),
    "iteration": (
        iteration,
        [
            Row("one iteration alone, CFG", "ms-cfg", 0.93, "ms", is_rate=False),
            Row("one iteration alone, Perp-Neg", "ms-perp-neg", 0.93, "ms", is_rate=False),
            Row("gradient error, CFG", "error-cfg", 0.46, "%", is_ratio=False, is_rate=False),
            Row("gradient error, Perp-Neg", "error-perp-neg", 1.0, "%", is_ratio=False, is_rate=False),
            Row("peak GPU memory alone, CFG", "gib-cfg", 1.0, "GiB", is_rate=False),
        ],
    ),
    "embedded": (
        bench_rows("embedded", 240, EMBEDDED),
        [Row("embedded40 × 6 objectives on a GPU", "embedded", 5.0, "/h")],
    ),
    "readme": (
        bench_rows("readme", 4, []),
        [Row("README's first command on a CPU", "readme", 1.6, "/h")],
    ),
}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The rows that were measured in both builds, as Markdown."""
    lines = ["| | base | new | ratio | target | |", "|---|---|---|---|---|---|"]
    for _, rows in MEASURES.values():
        for row in rows:
            if row.key not in found["base"] or row.key not in found["new"]:
                continue
            base, new = found["base"][row.key], found["new"][row.key]
            sign, unit = "≥" if row.is_rate else "≤", "" if row.is_ratio else f" {row.unit}"
            cells = [
                row.title,
                f"{base:.3g} {row.unit}",
                f"{new:.3g} {row.unit}",
                f"{new / base:.2f}",
                f"{sign} {row.target:g}{unit}",
                "met" if row.met(base, new) else "missed",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tree_of(base: str, folder: Path) -> Path:
    """The tree of the base: a folder as it is, or a worktree of a commit."""
    if Path(base).is_dir():
        return Path(base).resolve()
    tree = folder / "base-tree"
    if not tree.exists():
        repository = Path(__file__).parents[2]
        subprocess.run(["git", "-C", repository, "worktree", "add", "--detach", tree, base], check=True)
    return tree


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for trees, caches and run folders")
    parser.add_argument("--base", required=True, help="commit or folder of the earlier build")
    parser.add_argument("--rows", default="readme", help=f"rows to measure: {','.join(MEASURES)}")
    parser.add_argument("--weights", type=Path, help="weights of the published size")
    parser.add_argument("--iterations", type=int, default=5000, help="of each asset of the paper recipe")
    options = parser.parse_args(arguments)
    names = options.rows.split(",")
    if unknown := set(names) - set(MEASURES):
        parser.error(f"unknown row {min(unknown)!r}; choose from {', '.join(MEASURES)}")
    if {"paper", "perp-neg", "iteration"} & set(names) and options.weights is None:
        parser.error("rows of the paper recipe need --weights")
    folder = options.folder.resolve()
    for kind in "base", "new":
        (folder / kind).mkdir(parents=True, exist_ok=True)
    trees = {"base": tree_of(options.base, folder), "new": Path(__file__).parents[2]}
    file = folder / "throughput.json"
    found = json.loads(file.read_text()) if file.exists() else {name: {} for name in trees}
    for name in names:
        measure, rows = MEASURES[name]
        for kind, tree in trees.items():
            if rows[0].key not in found[kind]:
                found[kind] |= measure(Build(kind, tree, folder / kind), options)
                file.write_text(json.dumps(found, indent=2))
    print(table(found), end="")


if __name__ == "__main__":
    main()
