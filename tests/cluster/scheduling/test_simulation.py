"""The simulated cluster: it loses only what is planned, and checkpoints save as much as theory predicts."""

from dataclasses import replace

from cluster.scheduling.simulation import HOUR, Cluster, Simulation, table

SMALL = Cluster(gpus=40, items=2000, evaluators=4, worker_mtbf=50 * HOUR, poison=0.005, hang=0.005)
SPOT = replace(SMALL, node_mtbf=2 * HOUR)


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


def test_the_table_has_a_row_per_case():
    lines = table(replace(SMALL, items=200), 2 * HOUR, [60.0, 250.0]).splitlines()
    assert lines[0] == "40 GPUs, 200 prompts; at best 2.7 h"
    assert len(lines) == 4 + 4
