"""Fake workers whose items name their fault. They log to files, because they may run in any process."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

from cluster.scheduling.executor import Stage
from cluster.scheduling.workers import Progress

STEPS, LONG = 6, 1000


def stages(folder: Path, generators: int = 2, pause: float = 0.0, evaluation_pause: float = 0.0) -> list[Stage]:
    return [
        Stage("generate", partial(Generate, folder, pause), workers=generators),
        Stage("evaluate", partial(Evaluate, folder, evaluation_pause), cpus=0),
    ]


def log(folder: Path, line: str) -> None:
    with open(folder / "log", "a") as file:
        file.write(f"{line}\n")


def logged(folder: Path, first: str) -> list[list[str]]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [line.split() for line in lines if line.split()[0] == first]


def save(checkpoint: Path, step: int) -> None:
    beside = checkpoint.with_suffix(".new")
    beside.write_text(str(step))
    beside.replace(checkpoint)


class Generate:
    """Items are `FAULT-NAME`: slow, invalid, crash, full, flaky, oom_once, die_once, held_once, poison, hang, stop, …

    A `long` item runs until the file `released` exists, and saves a checkpoint only when one is requested.
    """

    def __init__(self, folder: Path, pause: float):
        self.folder, self.pause = folder, pause
        log(folder, f"started generate {os.getpid()}")

    def __call__(self, item):
        fault = item.split("-")[0]
        checkpoint = self.folder / f"{item}.checkpoint"
        start = int(checkpoint.read_text()) if checkpoint.exists() else 0
        log(self.folder, f"begin {item} {start} {time.monotonic()}")
        if fault == "invalid":
            raise ValueError("the prompt is empty; write what the object is")
        if fault == "crash":
            raise KeyError("nobody thought of this")
        if fault == "full":
            raise OSError(28, "No space left on device")
        if fault == "flaky" and len(logged(self.folder, "flaked")) < 2:
            log(self.folder, f"flaked {item}")
            raise OSError(5, "Input/output error")
        if fault == "device_once" and not (self.folder / item).exists():
            (self.folder / item).write_text(str(os.getpid()))
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if fault == "oom_once" and not (self.folder / item).exists():
            (self.folder / item).touch()
            raise MemoryError("CUDA out of memory")
        saved = start
        while fault == "long" and start < LONG and not (self.folder / "released").exists():
            time.sleep(0.1)
            start += 1
            if (yield Progress(start, LONG, saved=saved)):
                save(checkpoint, start)
                saved = start
        for step in range(start, STEPS):
            time.sleep(0.3 if fault == "slow" else self.pause)
            yield Progress(step + 1, STEPS)
            save(checkpoint, step + 1)
            if step == 2 and (fault == "poison" or (fault == "die_once" and not (self.folder / item).exists())):
                (self.folder / item).touch()
                save(checkpoint, 2 if fault == "poison" else 3)
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 2 and fault == "held_once" and not (self.folder / item).exists():
                (self.folder / item).touch()
                time.sleep(3600)
            if step == 4 and fault in ("hang", "stop"):
                save(checkpoint, 1)  # so that the next attempt reaches this step, too
            if step == 4 and fault == "hang":
                time.sleep(3600)
            if step == 4 and fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)  # stops its signal handlers and threads as well
        log(self.folder, f"end {item} {os.getpid() if fault == 'device_once' else time.monotonic()}")
        return threading.Lock() if fault == "unpicklable" else f"asset of {item}"


class Count:
    """Logs each of the `steps` of an item. It saves a checkpoint only when one is requested."""

    def __init__(self, folder: Path, steps: int, pause: float):
        self.folder, self.steps, self.pause = folder, steps, pause
        log(folder, f"started count {os.getpid()}")

    def __call__(self, item):
        checkpoint = self.folder / f"{item}.checkpoint"
        saved = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(saved + 1, self.steps + 1):
            time.sleep(self.pause)
            log(self.folder, f"step {item} {step}")
            if (yield Progress(step, self.steps, saved=saved)):
                save(checkpoint, step)
                saved = step
        return f"asset of {item}"


class Evaluate:
    """Scores the assets of `Generate`."""

    def __init__(self, folder: Path, pause: float):
        self.folder, self.pause = folder, pause
        log(folder, f"started evaluate {os.getpid()}")

    def __call__(self, asset):
        log(self.folder, f"score {asset.split()[-1]} {time.monotonic()}")
        time.sleep(self.pause)
        yield Progress(1, 1)
        if "die_scoring" in asset and len(logged(self.folder, "score")) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if "unscorable" in asset:
            raise ValueError("3 colour values are not finite: this asset cannot be scored")
        return f"score of {asset}"


class FailsAtStart:
    def __init__(self, folder: Path):
        log(folder, "started broken 0")
        raise FileNotFoundError("prior/unet is missing; expected a Stable Diffusion folder")


class DiesAtStart:
    def __init__(self, folder: Path):
        log(folder, "started dying 0")
        os.kill(os.getpid(), signal.SIGKILL)


class TerminatedAtStart(Generate):
    """Its first process gets SIGTERM while it is built."""

    def __init__(self, folder: Path):
        super().__init__(folder, 0.0)
        if len(logged(folder, "started")) == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Environment:
    """Returns environment variables of its process."""

    def __call__(self, name):
        yield from ()
        return os.environ.get(name)
