"""Scaling over workers: run the same `bench` with 1, 2, … workers and measure assets per minute from its events.

    python -m pipeline.benchmarks.scaling FOLDER --workers 1,2,4 -- --recipe paper

Every worker generates `--each` assets, so that the load is even. Loading is not measured. If kernels are compiled, run
the same `bench` once before with `--limit 1` to fill the cache. A number of workers that was measured before is read
from its events.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """The events of a run folder, ordered by time."""
    lines = [line for part in folder.glob("events/*.jsonl") for line in part.read_text(encoding="utf-8").splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["time"])


def assets_per_minute(events: Sequence[dict[str, Any]]) -> float:
    """Generated assets per minute, from the first start to the last end. Raises ValueError if nothing was generated."""
    times = {
        kind: [datetime.fromisoformat(e["time"]) for e in events if (e["kind"], e["stage"]) == (kind, "generate")]
        for kind in ("started", "finished")
    }
    if not times["finished"]:
        raise ValueError("no asset was generated; give a folder without finished runs")
    return 60 * len(times["finished"]) / (max(times["finished"]) - min(times["started"])).total_seconds()


def table(rates: dict[int, float]) -> str:
    """Assets per minute, speed-up over the fewest workers, and its ratio to a linear speed-up."""
    fewest = min(rates)
    rows = [("workers", "assets/min", "speed-up", "of linear")]
    for workers, rate in rates.items():
        speed_up, linear = rate / rates[fewest], workers / fewest
        rows.append((str(workers), f"{rate:.2f}", f"{speed_up:.2f}", f"{speed_up / linear:.2f}"))
    return "\n".join("  ".join(cell.rjust(10) for cell in row) for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="parent of the run folders, one per number of workers")
    parser.add_argument("--workers", default="1,2", help="numbers of workers, such as 1,2,4")
    parser.add_argument("--each", type=int, default=3, help="assets per worker")
    parser.add_argument("bench", nargs="*", help="options of segmentdreamer bench, after --")
    options = parser.parse_intermixed_args(arguments)
    rates = {}
    for workers in map(int, options.workers.split(",")):
        out = options.folder / f"workers-{workers}"
        code = "from pipeline.cli.app import main; main()"
        limits = ["--limit", str(workers * options.each), "--workers", str(workers), "--out", str(out)]
        bench = subprocess.run([sys.executable, "-c", code, "bench", *options.bench, *limits], check=False)
        if bench.returncode:
            sys.exit(bench.returncode)  # bench has reported the reason
        rates[workers] = assets_per_minute(records(out))
    print(table(rates))


if __name__ == "__main__":
    main()
