"""The simulated cluster: it loses only what is planned, and checkpoints save as much as theory predicts."""

from dataclasses import replace

import pytest

from cluster.scheduling.executor import LEAVE_SECONDS
from cluster.scheduling.simulation import HOUR, Cluster, Simulation, market, table

SMALL = Cluster(gpus=40, items=2000, evaluators=4, worker_mtbf=50 * HOUR, poison=0.005, hang=0.005)
SPOT = replace(SMALL, node_mtbf=2 * HOUR)
HEALTHY = replace(SMALL, gpus=8, gpus_per_node=1, items=800, poison=0.0, hang=0.0, worker_mtbf=1e12, boot_seconds=45.0)
MARKET = replace(HEALTHY, node_mtbf=600.0, node_replaced_after=20.0, checkpoint_seconds=20.0, checkpoint_cost=0.2)


def test_every_prompt_ends_and_only_planned_failures_occur():
    harmless = Simulation(replace(SPOT, poison=0.0, hang=0.0, worker_mtbf=1e12, checkpoint_seconds=250.0)).run()
    assert (harmless.done, harmless.failed) == (2000, 0)
    assert harmless.node_losses > 20
    harmful = Simulation(replace(SPOT, checkpoint_seconds=250.0)).run()
    assert harmful.done + harmful.failed == 2000
    assert 5 <= harmful.failed <= 40


def test_without_faults_only_boots_are_wasted_and_the_makespan_is_nearly_ideal():
    result = Simulation(replace(SMALL, poison=0.0, hang=0.0, worker_mtbf=1e12)).run()
    ideal = SMALL.items * SMALL.item_seconds / SMALL.gpus
    assert result.waste.total == 40 * SMALL.boot_seconds
    assert ideal <= result.makespan < 1.02 * ideal


def test_every_second_of_a_gpu_is_accounted_for():
    cluster = replace(SMALL, poison=0.0, hang=0.0, worker_mtbf=20 * HOUR, checkpoint_seconds=100.0)
    result = Simulation(cluster).run()
    useful = result.done * cluster.item_seconds
    assert useful + result.waste.total <= cluster.gpus * result.makespan
    assert result.waste.repeated > 0


def test_checkpoints_save_repeated_work_on_spot_nodes_and_cost_some():
    never, rarely, often = (Simulation(replace(SPOT, checkpoint_seconds=s)).run() for s in (float("inf"), 250.0, 20.0))
    assert never.waste.repeated > rarely.waste.repeated > often.waste.repeated
    assert never.waste.checkpoints < rarely.waste.checkpoints < often.waste.checkpoints
    assert rarely.waste.total < min(never.waste.total, often.waste.total)
    assert rarely.makespan < never.makespan


@pytest.mark.parametrize("leave_seconds", [0.0, LEAVE_SECONDS], ids=["without notice", "with notice"])
def test_fault_26_a_spot_market_loses_no_item_and_little_time(leave_seconds):
    """Items of 32 minutes on GPUs that are lost every 10: each item is interrupted three times on average."""
    undisturbed, spot = (Simulation(replace(case, leave_seconds=leave_seconds)).run() for case in (HEALTHY, MARKET))
    assert (undisturbed.done, undisturbed.node_losses) == (800, 0)
    assert (spot.done, spot.failed) == (800, 0)
    assert spot.node_losses > 2400
    assert undisturbed.makespan / spot.makespan >= 0.85
    assert spot.waste.repeated / spot.node_losses < (0.001 if leave_seconds else MARKET.checkpoint_seconds / 2)


def test_fault_26_leaving_at_the_notice_would_waste_its_two_minutes():
    late, early = (Simulation(replace(MARKET, leave_seconds=seconds)).run() for seconds in (LEAVE_SECONDS, 120.0))
    assert early.makespan > 1.1 * late.makespan


def test_the_table_of_a_market_has_a_row_per_case():
    lines = market(replace(MARKET, items=80), 600.0, [0.0, 60.0]).splitlines()
    assert lines[0] == "8 GPUs, 80 prompts; a GPU is lost after 10 min on average"
    assert len(lines) == 4 + 4


def test_the_table_has_a_row_per_case():
    lines = table(replace(SMALL, items=200), 2 * HOUR, [60.0, 250.0]).splitlines()
    assert lines[0] == "40 GPUs, 200 prompts; at best 2.7 h"
    assert len(lines) == 4 + 4


def test_a_day_with_faults_takes_at_most_a_twentieth_longer_than_the_ideal():
    day = Cluster(gpus=100, items=10_000, item_seconds=14 * 60.0, evaluators=7, checkpoint_seconds=250.0)
    ideal = day.items * day.item_seconds / day.gpus
    for cluster in (day, replace(day, node_mtbf=5 * HOUR)):
        result = Simulation(cluster).run()
        assert result.done + result.failed == day.items
        assert ideal <= result.makespan < 1.05 * ideal
