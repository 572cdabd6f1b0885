"""Workers whose items say what shall happen to them. They log to a folder, because they may live anywhere."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

from cluster.scheduling.executor import Progress, Stage

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
    """`<what>-<name>`: ok, slow, invalid, crash, full, flaky, oom_once, die_once, held_once, poison, hang, stop, …

    A `long` one goes on until there is a file `released`, and saves its state when it is asked to, and only then.
    """

    def __init__(self, folder: Path, pause: float):
        self.folder, self.pause = folder, pause
        log(folder, f"born generate {os.getpid()}")

    def __call__(self, item):
        what = item.split("-")[0]
        checkpoint = self.folder / f"{item}.checkpoint"
        start = int(checkpoint.read_text()) if checkpoint.exists() else 0
        log(self.folder, f"begin {item} {start} {time.monotonic()}")
        if what == "invalid":
            raise ValueError("the prompt is empty; write what the object is")
        if what == "crash":
            raise KeyError("nobody thought of this")
        if what == "full":
            raise OSError(28, "No space left on device")
        if what == "flaky" and len(logged(self.folder, "flaked")) < 2:
            log(self.folder, f"flaked {item}")
            raise OSError(5, "Input/output error")
        if what == "device_once" and not (self.folder / item).exists():
            (self.folder / item).write_text(str(os.getpid()))
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if what == "oom_once" and not (self.folder / item).exists():
            (self.folder / item).touch()
            raise MemoryError("CUDA out of memory")
        saved = start
        while what == "long" and start < LONG and not (self.folder / "released").exists():
            time.sleep(0.1)
            start += 1
            if (yield Progress(start, LONG, saved=saved)):
                save(checkpoint, start)
                saved = start
        for step in range(start, STEPS):
            time.sleep(0.3 if what == "slow" else self.pause)
            yield Progress(step + 1, STEPS)
            save(checkpoint, step + 1)
            if step == 2 and (what == "poison" or (what == "die_once" and not (self.folder / item).exists())):
                (self.folder / item).touch()
                save(checkpoint, 2 if what == "poison" else 3)
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 2 and what == "held_once" and not (self.folder / item).exists():
                (self.folder / item).touch()
                time.sleep(3600)
            if step == 4 and what in ("hang", "stop"):
                save(checkpoint, 1)  # so that the next attempt comes here, too
            if step == 4 and what == "hang":
                time.sleep(3600)
            if step == 4 and what == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)  # even its signal handlers and threads stand still
        log(self.folder, f"end {item} {os.getpid() if what == 'device_once' else time.monotonic()}")
        return threading.Lock() if what == "unpicklable" else f"asset of {item}"


class Evaluate:
    """Judges what `Generate` made."""

    def __init__(self, folder: Path, pause: float):
        self.folder, self.pause = folder, pause
        log(folder, f"born evaluate {os.getpid()}")

    def __call__(self, asset):
        log(self.folder, f"judge {asset.split()[-1]} {time.monotonic()}")
        time.sleep(self.pause)
        yield Progress(1, 1)
        if "die_judged" in asset and len(logged(self.folder, "judge")) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if "unscorable" in asset:
            raise ValueError("3 colour values are not finite: this asset cannot be judged")
        return f"score of {asset}"


class Stillborn:
    def __init__(self, folder: Path):
        log(folder, "born stillborn 0")
        raise FileNotFoundError("prior/unet is missing; expected a Stable Diffusion folder")


class DiesAtBirth:
    def __init__(self, folder: Path):
        log(folder, "born dying 0")
        os.kill(os.getpid(), signal.SIGKILL)


class Environment:
    """Reads environment variables of the process it lives in."""

    def __call__(self, name):
        yield from ()
        return os.environ.get(name)
