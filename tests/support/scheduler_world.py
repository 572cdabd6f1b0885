"""A world for tests of the scheduler: it executes commands like an executor, and the test chooses the events."""

from collections import Counter

from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import Assign, End, Failed, Joined, Place, Ready, Retry, Start, Stop, Succeeded, Tick
from cluster.scheduling.retries import POLICIES
from cluster.scheduling.scheduler import Scheduler

STAGES = ["generate", "evaluate"]


class World:
    """Executes commands like an executor; the test chooses the next event and the time."""

    def __init__(self, items, slots=(1, 1), **options):
        self.scheduler = Scheduler(STAGES, items, **options)
        self.now = 0.0
        self.running = {}  # place → command
        self.idle, self.present = set(), set()
        self.ended, self.failures, self.attempts, self.log = Counter(), Counter(), Counter(), []
        self.ends = {}
        for stage, count in enumerate(slots):
            for worker in range(count):
                self.handle(Joined(Place(stage, worker)))
                self.present.add(Place(stage, worker))

    def handle(self, event):
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            self.execute(command)
        return commands

    def execute(self, command):
        self.log.append(command)
        if isinstance(command, Start):
            assert command.place not in self.running
            assert command.place not in self.idle
            self.running[command.place] = command
        elif isinstance(command, Assign):
            self.idle.remove(command.place)  # only a worker that is ready and idle
            self.running[command.place] = command
            self.attempts[command.task.item] += 1
        elif isinstance(command, Stop):
            self.running.pop(command.place, None)
            self.idle.discard(command.place)
            if command.removes_slot:
                self.present.discard(command.place)
        elif isinstance(command, End):
            self.ended[command.task.item] += 1
            self.ends[command.task.item] = command
        if isinstance(command, Retry) or (isinstance(command, End) and command.failure):
            self.failures[command.task.item, command.task.stage, command.failure.kind] += 1

    def answer(self, place, failure=None, result=None, saved=0):
        """The worker at `place` becomes ready, succeeds or fails after a checkpoint of step `saved`."""
        command = self.running.pop(place)
        if failure is None or not POLICIES[failure].replace_worker:
            self.idle.add(place)
        if isinstance(command, Start) and failure:
            self.idle.discard(place)
        if failure:
            return self.handle(Failed(command.ticket, Failure(failure, "planned"), saved))
        if isinstance(command, Start):
            return self.handle(Ready(command.ticket))
        return self.handle(Succeeded(command.ticket, result or f"{command.task.payload}."))

    def sleep(self):
        self.now = self.scheduler.wakes_at
        return self.handle(Tick())


def ready(items, slots=(1, 1), **options):
    """A world in which the first workers of every stage are built."""
    world = World(items, slots, **options)
    for _ in range(sum(slots)):
        for place, command in list(world.running.items()):
            if isinstance(command, Start):
                world.answer(place)
    return world


def finish(world):
    for _ in range(1000):
        if world.scheduler.finished:
            return
        world.answer(next(iter(world.running)))
    raise AssertionError("a thousand successes did not end the run")
