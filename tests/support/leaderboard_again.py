"""Compute a run's metrics again with the torchmetrics classes: `python -m tests.support.leaderboard_again RUN`.

Renders every scored asset of a run folder (items/*/asset.ply) with the views of its run, and compares CLIP score,
ImageReward, R-precision, Fréchet and kernel distance, and their standard errors as far as the classes have them, with
leaderboard.csv. `--processes 2` divides the assets among processes that reduce by torch.distributed (gloo). Exits with
1 if a value differs by more than a millionth. Files are read as plain JSON and CSV, without the product's readers.
"""

import argparse
import csv
import io
import json
import sys
import tempfile
from pathlib import Path

from torch import distributed, multiprocessing

from evaluation.clip_score import ClipScorer
from evaluation.distance_metrics import FrechetDistance, KernelDistance
from evaluation.features import ClipTower
from evaluation.image_reward import ImageReward
from evaluation.metrics import CLIPRPrecision, CLIPScore, ImageRewardScore
from evaluation.references import from_bytes
from pipeline.assets import images
from pipeline.plan.protocol import Protocol
from sctd.formats import ply

TOLERANCE = 1e-6  # relative; absolute for values below 1


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def scored_items(run: Path, method: str):
    """Prompt, asset and image size of the method's scored assets, in the order of the manifest."""
    for job in read(run / "run.json")["jobs"]:
        folder = run / "items" / job["job_id"]
        record = read(folder / "record.json") if (folder / "record.json").is_file() else {}
        if job.get("method", job["objective"]) == method and record.get("status") == "done":
            yield job["prompt"], folder / "asset.ply", record["generation"]["image_size"]


def measure(run: Path, method: str, rank: int = 0, world: int = 1) -> dict[str, float]:
    """Every metric of the assets of a method, of which this process adds each `world`-th."""
    about = read(run / "run.json")
    weights, protocol = Path(about["weights"]["folder"]), Protocol(about["views"])
    scorer = ClipScorer.load(weights / "scorer")
    reference, tower = from_bytes((weights / "reference.npz").read_bytes()), ClipTower(scorer)
    metrics = {
        "clip": CLIPScore(scorer),
        "ir": ImageRewardScore(ImageReward.load(weights / "reward")),
        "clip_rprec": CLIPRPrecision(scorer, list(dict.fromkeys(job["prompt"] for job in about["jobs"]))),
        "fd": FrechetDistance(reference, tower, with_error=True),
        "kid_cl": KernelDistance(reference, tower, with_error=True),
    }
    for prompt, asset, image_size in list(scored_items(run, method))[rank::world]:
        views = images.on_white(ply.from_ply(asset.read_bytes()), protocol.cameras(image_size))
        scorer.keep(views=views)
        for metric in metrics.values():
            metric.update(views, prompt)
    found = {name: metric.compute() for name, metric in metrics.items()}
    errors = {f"{name}_se": value[1] for name, value in found.items() if isinstance(value, tuple)}
    return {name: float(value[0] if isinstance(value, tuple) else value) for name, value in {**found, **errors}.items()}


def process(rank: int, world: int, run: Path, methods: list[str], folder: str) -> None:
    """One of several processes; the first writes the values of each method."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    found = {method: measure(run, method, rank, world) for method in methods}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def measured(run: Path, methods: list[str], processes: int) -> dict[str, dict[str, float]]:
    """Every metric of each method, by one process or several."""
    if processes == 1:
        return {method: measure(run, method) for method in methods}
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(process, (processes, run, methods, folder), nprocs=processes)
        return read(Path(folder, "found.json"))


def differences(run: Path, processes: int = 1):
    """A line per method and metric: its names, the leaderboard's value, ours, and whether they agree."""
    about = read(run / "run.json")
    rows = csv.DictReader(io.StringIO((run / "leaderboard.csv").read_text(encoding="utf-8")))
    of_run = {row["method"]: row for row in rows if row["source"] == "run"}
    for method, found in measured(run, list(of_run), processes).items():
        row = of_run[method]
        for name, value in found.items():
            metric, _, error = name.partition("_se") if name.endswith("_se") else (name, "", None)
            column = f"{metric}@{about['weights']['name']}" + ("" if error is None else "_se")
            if not row.get(column):  # an average or error of too few objects
                continue
            expected = float(row[column])
            agrees = abs(value - expected) <= TOLERANCE * max(1, abs(expected))
            yield method, column, expected, value, agrees


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    lines = list(differences(options.run, options.processes))
    for method, column, expected, value, agrees in lines:
        print(f"{method:20} {column:28} {expected:<22} {value:<22} {'same' if agrees else 'DIFFERENT'}")
    return 0 if lines and all(line[-1] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
