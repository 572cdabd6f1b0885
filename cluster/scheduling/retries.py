"""The retry policy: how often each kind of failure is retried, and what happens to its worker (see docs/cluster.md)."""

from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """Attempts per item, consecutive boots per slot, and the consequences of one kind of failure."""

    attempts: int
    boots: int = 1
    replace_worker: bool = False
    strikes: bool = False  # counts against the slot, which is removed after `Limits.strikes` in a row
    backs_off: bool = False  # the next attempt is delayed, twice as long each time
    forgives: bool = False  # attempts before the latest checkpoint do not count: not the item's fault


POLICIES = {
    "input": RetryPolicy(1),  # the same prompt fails the same way
    "numeric": RetryPolicy(2),  # the retry uses other random numbers
    "error": RetryPolicy(1),
    "storage": RetryPolicy(6, backs_off=True),
    "out_of_memory": RetryPolicy(2, 3, replace_worker=True),  # usually fragmented memory of a long-lived worker
    "device": RetryPolicy(2, 3, replace_worker=True, strikes=True),  # every later call in the process fails too
    "died": RetryPolicy(3, 3, replace_worker=True, strikes=True),
    "stalled": RetryPolicy(2, 2, replace_worker=True, strikes=True),
    "node_lost": RetryPolicy(10, 10, replace_worker=True, forgives=True),  # the limit only ends endless runs
    "preempted": RetryPolicy(10, 10, replace_worker=True, forgives=True),  # a worker drained, or ended by SIGTERM
}
