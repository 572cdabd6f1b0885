"""Experiment tracking with MLflow or Weights & Biases: settings, training curves, job counts, scores and tables.

Only the command connects to the service, never a worker. The service's library reads addresses and keys from the
environment; no file of the run contains them. If the service fails, the run reports it once and continues without it.
"""

import csv
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError, nearest
from pipeline.events.log import Sink
from pipeline.store.manifest import Manifest
from pipeline.store.run_folder import Store

logger = logging.getLogger(__name__)

PROJECT = "segmentdreamer"
MODULES = {"mlflow": "mlflow", "wandb": "wandb"}
TABLES = "leaderboard.csv", "per_object.csv"
SETTINGS = "suite", "seed", "views", "protocol", "metric_version", "evaluation"
CURVES = "loss", "gaussians", "seconds"  # of each job over its iterations, from its progress records
ENDED, ITERATION = "jobs/ended", "iteration"  # the axes of the plots
SEND_SECONDS = 5.0  # between two requests to MLflow, which block the run
MAX_METRICS_PER_REQUEST = 1000  # MLflow refuses more


class Service(Protocol):
    """One run of a tracking service."""

    def metrics(self, values: dict[str, float], step: int | None, axis: str = "") -> None:
        """Log numbers by name at a step of `axis`, or as a summary of the whole run if `step` is None."""
        ...

    def file(self, path: Path) -> None: ...

    def end(self) -> None: ...


class Mlflow:
    """A run of MLflow at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME (default: segmentdreamer)."""

    def __init__(self, name: str, settings: dict[str, Any]):
        import mlflow

        if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
            mlflow.set_experiment(PROJECT)
        self.mlflow, self.client = mlflow, mlflow.MlflowClient()
        self.run_id = mlflow.start_run(run_name=name).info.run_id
        self.waiting, self.sent_at = list[Any](), time.monotonic()
        mlflow.log_params({_allowed(key): value for key, value in settings.items()})

    def metrics(self, values: dict[str, float], step: int | None, axis: str = "") -> None:
        milliseconds = int(time.time() * 1000)
        entity = self.mlflow.entities.Metric
        self.waiting += [entity(_allowed(key), value, milliseconds, step or 0) for key, value in values.items()]
        if time.monotonic() - self.sent_at >= SEND_SECONDS:
            self._send()

    def _send(self) -> None:
        waiting, self.waiting, self.sent_at = self.waiting, [], time.monotonic()
        for at in range(0, len(waiting), MAX_METRICS_PER_REQUEST):
            self.client.log_batch(self.run_id, metrics=waiting[at : at + MAX_METRICS_PER_REQUEST])

    def file(self, path: Path) -> None:
        self.mlflow.log_artifact(str(path))

    def end(self) -> None:
        self._send()
        self.mlflow.end_run()


def _allowed(name: str) -> str:
    """A name without characters that MLflow refuses, such as the `=` in a sweep's method label."""
    return re.sub(r"[^\w\-. :/]", "-", name)


class Wandb:
    """A run of Weights & Biases, configured by WANDB_PROJECT, WANDB_MODE and its other environment variables."""

    def __init__(self, name: str, settings: dict[str, Any]):
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
        self.run = wandb.init(project=project, name=name, config=settings, settings=quiet)
        self.defined = set[str]()

    def metrics(self, values: dict[str, float], step: int | None, axis: str = "") -> None:
        if step is None:
            self.run.summary.update(values)
            return
        for name in values.keys() - self.defined:  # an axis per job, because W&B's global step can only increase
            self.run.define_metric(name, step_metric=axis)
            self.defined.add(name)
        self.run.log(values | {axis: step})

    def file(self, path: Path) -> None:
        self.run.save(str(path), base_path=str(path.parent), policy="now")

    def end(self) -> None:
        self.run.finish()


SERVICES: dict[str, Callable[[str, dict[str, Any]], Service]] = {"mlflow": Mlflow, "wandb": Wandb}


def check(name: str | None) -> None:
    """Raise UserError for an unknown service or one whose library is not installed."""
    if name is None:
        return
    if name not in SERVICES:
        raise UserError(
            f"Unknown value {name!r} for --track; choose from {', '.join(SERVICES)}{nearest(name, SERVICES)}."
        )
    if importlib.util.find_spec(MODULES[name]) is None:
        raise UserError(
            f"--track {name} needs a package that is not installed; install it with pip install "
            f"'segmentdreamer[{name}]'."
        )


class Tracker(Sink):
    """A sink that sends records to a tracking service, and the run's tables at the end."""

    def __init__(self, name: str, store: Store, settings: Manifest, last_stage: str = "evaluate"):
        self.name, self.store, self.last_stage = name, store, last_stage
        self.ends = {"jobs/done": 0.0, "jobs/failed": 0.0}
        self.service: Service | None = None  # None after its first error
        with self._reporting_errors():
            self.service = SERVICES[name](store.root.resolve().name, _plain(settings))

    def take(self, record: dict[str, Any]) -> None:
        is_done = record["kind"] == "finished" and record["stage"] == self.last_stage
        if is_done or record["kind"] == "failed":
            self.ends["jobs/done" if is_done else "jobs/failed"] += 1
            self._send(dict(self.ends), int(sum(self.ends.values())), ENDED)
        elif record["kind"] == "progress" and "loss" in record:
            job = f"{record['method']}/{record['prompt_id']}"
            values = {f"{job}/{name}": record[name] for name in CURVES if name in record}
            self._send(values, record["iteration"], f"{job}/{ITERATION}")

    def _send(self, values: dict[str, float], step: int, axis: str) -> None:
        if self.service is not None:
            with self._reporting_errors():
                self.service.metrics(values, step, axis)

    def finish(self) -> None:
        """Send the scores in the run folder's tables and the tables themselves, then end the service's run."""
        tables = {path: dict(_scores(path)) for name in TABLES if (path := self.store.root / name).exists()}
        if self.service is not None:
            with self._reporting_errors():
                for path, values in tables.items():
                    self.service.metrics(values, None)
                    self.service.file(path)
                self.service.end()

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Report an error of the service and stop using it: it never stops the run."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            logger.warning("--track %s: %s; the run continues without tracking", self.name, text)
            self.service = None


def _plain(settings: Manifest) -> dict[str, Any]:
    """The settings that fit into a table of parameters; run.json has all of them."""
    chosen = {key: getattr(settings, key) for key in SETTINGS}
    recipes = {f"recipe/{label}": json.dumps(recipe, sort_keys=True) for label, recipe in settings.recipes.items()}
    return chosen | {"weights": settings.weights.name, "jobs": len(settings.jobs)} | recipes


def _scores(path: Path) -> Iterator[tuple[str, float]]:
    """Each number of a table, named by its row's method (and prompt) and its column."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            names = [row[key] for key in ("method", "prompt_id") if row.get(key)]
            for column, text in row.items():
                try:
                    yield "/".join([*names, column]), float(text)
                except (TypeError, ValueError):
                    continue
