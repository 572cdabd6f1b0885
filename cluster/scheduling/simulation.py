"""A simulation of the scheduler on a large cluster: `python -m cluster.scheduling.simulation`.

The `Scheduler` of real runs gets signals from a queue in virtual time: boots, worker deaths, prompts that kill or hang
their worker, and spot nodes that are lost with all their GPUs, with or without notice, and replaced.
"""

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from cluster.scheduling.executor import LEAVE_SECONDS
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Abort,
    Assign,
    Command,
    End,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Signal,
    Start,
    Succeeded,
    Tick,
)
from cluster.scheduling.scheduler import Scheduler

HOUR = 3600.0
POISON_AT, HANG_AT = 0.3, 0.5  # fraction of an item after which it kills or hangs its worker


@dataclass(frozen=True)
class Cluster:
    """The simulated cluster and its faults; times in seconds."""

    gpus: int = 1000
    gpus_per_node: int = 8
    items: int = 100_000
    item_seconds: float = 32 * 60.0
    boot_seconds: float = 60.0
    evaluators: int = 63
    evaluation_seconds: float = 30.0
    node_mtbf: float = math.inf
    node_replaced_after: float = 300.0
    leave_seconds: float = 0.0  # before the loss, if there is notice, the workers of a node save and leave
    worker_mtbf: float = 500 * HOUR
    poison: float = 0.001  # fraction of prompts that kill their worker
    hang: float = 0.0005  # fraction of prompts that hang their worker
    stall_seconds: float = 60.0  # stall timeout
    checkpoint_seconds: float = math.inf  # interval between checkpoints
    checkpoint_cost: float = 2.0
    seed: int = 0


@dataclass
class Waste:
    """GPU seconds of the generators that were wasted, by cause."""

    boots: float = 0.0
    repeated: float = 0.0
    checkpoints: float = 0.0
    hung: float = 0.0
    failed_items: float = 0.0

    @property
    def total(self) -> float:
        return self.boots + self.repeated + self.checkpoints + self.hung + self.failed_items


@dataclass
class SimulationResult:
    """What a simulated run achieved, and what it wasted; `makespan` in seconds."""

    makespan: float = 0.0
    done: int = 0
    failed: int = 0
    node_losses: int = 0
    waste: Waste = field(default_factory=Waste)
    aborted: bool = False


@dataclass(frozen=True)
class _Work:
    place: Place
    started_at: float
    item: int | None = None  # None while a worker boots
    resumed_seconds: float = 0.0  # of the item, from its checkpoint


class Simulation:
    """One simulated run."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.rng = cluster, random.Random(cluster.seed)
        self.scheduler = Scheduler(["generate", "evaluate"], range(cluster.items))
        self.saved: dict[int, float] = {}  # seconds of each item that its checkpoint covers
        self.future: list[tuple[float, int, Any]] = []
        self.running: dict[int, _Work] = {}
        self.tickets: dict[Place, int] = {}
        self.serial, self.now, self.result = 0, 0.0, SimulationResult()

    def run(self) -> SimulationResult:
        cluster, scheduler = self.cluster, self.scheduler
        for worker in range(cluster.gpus):
            self._handle(Joined(Place(0, worker)))
        for worker in range(cluster.evaluators):
            self._handle(Joined(Place(1, worker)))
        if cluster.node_mtbf < math.inf:
            for node in range(0, cluster.gpus, cluster.gpus_per_node):
                self._schedule_loss(node, 0.0)
        while not scheduler.finished:
            wakes_at = scheduler.wakes_at
            if wakes_at is not None and (not self.future or wakes_at < self.future[0][0]):
                self.now = max(self.now, wakes_at)
                self._handle(Tick())
                continue
            self.now, _, due = heappop(self.future)
            if isinstance(due, int):
                self._lose_node(due)
            else:
                self._handle(due)
        self.result.makespan, self.result.aborted = self.now, scheduler.aborted
        return self.result

    def _handle(self, signal: Signal) -> None:
        if isinstance(signal, Ready | Succeeded | Failed):
            work = self.running.get(signal.ticket)
            self._account(signal)
            if isinstance(signal, Failed) and work and work.item is not None:
                signal = replace(signal, saved=int(self.saved[work.item]))
        for command in self.scheduler.handle(signal, self.now):
            self._execute(command)

    def _execute(self, command: Command) -> None:
        cluster = self.cluster
        if isinstance(command, Start):
            self._track(command.ticket, _Work(command.place, self.now))
            self._schedule(cluster.boot_seconds, Ready(command.ticket))
        elif isinstance(command, Assign) and command.place.stage:
            self._schedule(cluster.evaluation_seconds, Succeeded(command.ticket, None))
        elif isinstance(command, Assign):
            item = command.task.number
            start = self.saved.get(item, 0.0)
            self._track(command.ticket, _Work(command.place, self.now, item, start))
            self._schedule(*self._draw_signal(command.ticket, item, start))
        elif isinstance(command, End):
            self.result.done += command.failure is None
            self.result.failed += command.failure is not None
            if command.failure:
                self.result.waste.failed_items += self.saved.get(command.task.number, 0.0)
            self.saved.pop(command.task.number, None)
        elif isinstance(command, Abort):
            raise RuntimeError(f"the simulated run stopped: {command.failure.message}")

    def _draw_signal(self, ticket: int, item: int, start: float) -> tuple[float, Signal]:
        """The seconds until an attempt ends, and its signal."""
        cluster, whole = self.cluster, self.cluster.item_seconds
        kind = random.Random(item * 7919 + cluster.seed).random()
        death = self.rng.expovariate(1 / cluster.worker_mtbf)
        if kind < cluster.poison:
            death = min(death, self._elapsed(max(0.0, whole * POISON_AT - start)))
        elif kind < cluster.poison + cluster.hang:
            hung = self._elapsed(max(0.0, whole * HANG_AT - start)) + cluster.stall_seconds
            if hung < death:
                return hung, Failed(ticket, Failure("stalled", "it hung"))
        end = self._elapsed(whole - start)
        if death < end:
            return death, Failed(ticket, Failure("died", "its process died"))
        return end, Succeeded(ticket, None)

    def _elapsed(self, seconds: float) -> float:
        """The duration of `seconds` of an item, with its checkpoints."""
        interval = self.cluster.checkpoint_seconds
        return seconds + (seconds // interval * self.cluster.checkpoint_cost if interval < math.inf else 0.0)

    def _account(self, signal: Ready | Succeeded | Failed) -> None:
        work = self.running.pop(signal.ticket, None)
        if work is None or work.place.stage:
            return
        waste, elapsed = self.result.waste, self.now - work.started_at
        if work.item is None:
            waste.boots += elapsed
            return
        if not isinstance(signal, Failed):
            waste.checkpoints += elapsed - (self.cluster.item_seconds - work.resumed_seconds)
            return
        if signal.failure.kind == "stalled":
            waste.hung += self.cluster.stall_seconds
            elapsed -= self.cluster.stall_seconds
        interval, cost = self.cluster.checkpoint_seconds, self.cluster.checkpoint_cost
        count = elapsed // (interval + cost) if interval < math.inf else 0.0
        kept = count * interval if count else 0.0
        if signal.failure.kind == "preempted":  # with notice, so that it ended with a checkpoint
            count += 1
            kept = max(kept, elapsed - count * cost)
        waste.checkpoints += min(elapsed - kept, count * cost)
        waste.repeated += max(0.0, elapsed - kept - count * cost)
        self.saved[work.item] = work.resumed_seconds + kept

    def _lose_node(self, node: int) -> None:
        """Lose all workers of a node at once; a replacement joins, which is lost later in its turn."""
        cluster = self.cluster
        kind = "preempted" if cluster.leave_seconds else "node_lost"
        self.result.node_losses += 1
        for worker in range(node, min(node + cluster.gpus_per_node, cluster.gpus)):
            place = Place(0, worker)
            ticket = self.tickets.get(place)
            if ticket in self.running:
                self._handle(Failed(ticket, Failure(kind, "its node was lost")))
            self._handle(Left(place))
            self._schedule(cluster.leave_seconds + cluster.node_replaced_after, Joined(place))
        self._schedule_loss(node, cluster.leave_seconds + cluster.node_replaced_after)

    def _schedule_loss(self, node: int, joins_after: float) -> None:
        life = max(self.rng.expovariate(1 / self.cluster.node_mtbf), self.cluster.leave_seconds)
        self._schedule(joins_after + life - self.cluster.leave_seconds, node)

    def _track(self, ticket: int, work: _Work) -> None:
        self.running[ticket] = work
        self.tickets[work.place] = ticket

    def _schedule(self, seconds: float, due: Signal | int) -> None:
        """Add a signal, or the loss of a node, after `seconds`."""
        self.serial += 1
        heappush(self.future, (self.now + seconds, self.serial, due))


def table(cluster: Cluster, node_mtbf: float, checkpoints: Sequence[float]) -> str:
    """A Markdown table with a row per kind of node and checkpoint interval."""
    ideal = cluster.items * cluster.item_seconds / cluster.gpus
    lines = [
        f"{cluster.gpus:,} GPUs, {cluster.items:,} prompts; at best {ideal / HOUR:.1f} h",
        "",
        "| nodes | checkpoints | makespan | wasted | repeated | checkpoints | boots | hung | failed prompts | ended |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mtbf in (math.inf, node_mtbf):
        for seconds in checkpoints:
            result = Simulation(replace(cluster, node_mtbf=mtbf, checkpoint_seconds=seconds)).run()
            waste, whole = result.waste, cluster.gpus * result.makespan
            parts = [waste.total, waste.repeated, waste.checkpoints, waste.boots, waste.hung, waste.failed_items]
            cells = [
                "on demand" if mtbf == math.inf else f"spot, lost every {mtbf / HOUR:g} h",
                "none" if seconds == math.inf else f"every {seconds:g} s",
                f"{result.makespan / HOUR:.1f} h",
                *[f"{abs(part) / whole:.2%}" for part in parts],
                f"{result.done:,} done, {result.failed:,} failed",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def market(cluster: Cluster, mean_seconds: float, replaced_after: Sequence[float]) -> str:
    """A Markdown table of a spot market with and without notice, relative to the same GPUs without preemptions.

    "rented": relative to the time between a node's start and its loss, so without the time until its replacement.
    """
    healthy = replace(cluster, poison=0.0, hang=0.0, worker_mtbf=1e12, gpus_per_node=1)
    undisturbed = Simulation(healthy).run()
    lines = [
        f"{cluster.gpus:,} GPUs, {cluster.items:,} prompts; a GPU is lost after {mean_seconds / 60:g} min on average",
        "",
        "| notice | replaced after | throughput | of rented time | repeated | preemptions | ended |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for leave in (0.0, LEAVE_SECONDS):
        for seconds in replaced_after:
            spot = replace(healthy, node_mtbf=mean_seconds, node_replaced_after=seconds, leave_seconds=leave)
            result = Simulation(spot).run()
            rented = undisturbed.makespan / (result.makespan - result.node_losses * seconds / cluster.gpus)
            cells = [
                "two minutes" if leave else "none",
                f"{seconds:g} s",
                f"{undisturbed.makespan / result.makespan:.3f}",
                f"{rented:.3f}",
                f"{result.waste.repeated / result.node_losses:.1f} s each",
                f"{result.node_losses:,}",
                f"{result.done:,} done, {result.failed:,} failed",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.scheduling.simulation", description="Simulate the cost of faults and checkpoints."
    )
    parser.add_argument("--gpus", type=int, default=Cluster.gpus)
    parser.add_argument("--items", type=int, default=Cluster.items)
    parser.add_argument("--minutes", type=float, default=Cluster.item_seconds / 60, help="duration of an item")
    parser.add_argument("--mtbf-hours", type=float, default=5.0, help="mean time between losses of a spot node")
    parser.add_argument("--checkpoints", default="none,60,250,600", help="seconds between checkpoints, or none")
    options = parser.parse_args()
    cluster = Cluster(gpus=options.gpus, items=options.items, item_seconds=60 * options.minutes)
    checkpoints = [math.inf if text == "none" else float(text) for text in options.checkpoints.split(",")]
    started_at = time.perf_counter()
    spot = replace(cluster, gpus=40, items=2000, boot_seconds=45.0, checkpoint_seconds=20.0, checkpoint_cost=0.2)
    print(market(spot, 600.0, [0.0, 30.0, 60.0, 120.0]), end="\n\n")
    print(table(cluster, options.mtbf_hours * HOUR, checkpoints))
    print(f"\n{2 * len(checkpoints)} runs in {time.perf_counter() - started_at:.0f} s")


if __name__ == "__main__":
    main()
