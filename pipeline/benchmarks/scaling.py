"""How much faster several workers generate than one: the same `bench` on 1, 2, … of them, told from its events.

    python -m pipeline.benchmarks.scaling FOLDER --workers 1,2,4 -- --recipe paper

Every worker makes `--each` assets, so that all have as much to do. Loading lies before the first of them; where kernels
are compiled, run the same `bench` once before, with `--limit 1`, so that all find them compiled. A number that
was measured before is told again from its events.
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
    """The events of a run folder, in the order of their time."""
    lines = [line for part in folder.glob("events/*.jsonl") for line in part.read_text(encoding="utf-8").splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["time"])


def assets_per_minute(events: Sequence[dict[str, Any]]) -> float:
    """From the first start of a generation to the last end. Raises ValueError where nothing was generated."""
    times = {
        kind: [datetime.fromisoformat(e["time"]) for e in events if (e["kind"], e["stage"]) == (kind, "generate")]
        for kind in ("started", "finished")
    }
    if not times["finished"]:
        raise ValueError("no asset was generated; give a folder that holds no finished run")
    return 60 * len(times["finished"]) / (max(times["finished"]) - min(times["started"])).total_seconds()


def table(paces: dict[int, float]) -> str:
    """Pace, speed-up over the fewest workers, and its share of what is linear."""
    fewest = min(paces)
    rows = [("workers", "assets/min", "speed-up", "of linear")]
    for workers, pace in paces.items():
        speed_up, linear = pace / paces[fewest], workers / fewest
        rows.append((str(workers), f"{pace:.2f}", f"{speed_up:.2f}", f"{speed_up / linear:.2f}"))
    return "\n".join("  ".join(cell.rjust(10) for cell in row) for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path, help="one run folder per number of workers is made in it")
    asked.add_argument("--workers", default="1,2", help="numbers of workers, as 1,2,4")
    asked.add_argument("--each", type=int, default=3, help="assets a worker")
    asked.add_argument("bench", nargs="*", help="options of segmentdreamer bench, after --")
    given = asked.parse_intermixed_args(arguments)
    paces = {}
    for workers in map(int, given.workers.split(",")):
        out = given.folder / f"workers-{workers}"
        code = "from pipeline.cli.app import main; main()"
        limits = ["--limit", str(workers * given.each), "--workers", str(workers), "--out", str(out)]
        bench = subprocess.run([sys.executable, "-c", code, "bench", *given.bench, *limits], check=False)
        if bench.returncode:
            sys.exit(bench.returncode)  # bench has said why
        paces[workers] = assets_per_minute(records(out))
    print(table(paces))


if __name__ == "__main__":
    main()
