"""`kill -9` of a generation worker and of the whole command, with real processes and Ray."""

import json
import os
import re
import signal

import pandas as pd

from tests.support.processes import ITERATIONS, PROMPTS, SMALL, Command, iteration


def test_killed_workers_and_commands_resume_to_the_same_bits(tiny_weights, undisturbed, tmp_path):
    out = tmp_path / "run"
    arguments = [*PROMPTS, *SMALL, "--weights", str(tiny_weights), "--workers", "1", "--out", str(out)]

    first = Command("bench", *arguments)
    first.until(lambda: iteration(out) >= 5)
    os.kill(first.pids()[0], signal.SIGKILL)
    first.until(lambda: len(first.pids()) == 2)
    after_worker = iteration(out)
    first.until(lambda: iteration(out) >= after_worker + 5)
    first.process.kill()
    os.kill(first.pids()[1], signal.SIGKILL)  # else it may finish the asset before the second command starts
    assert first.end() == -signal.SIGKILL
    assert any("its process died" in line and line.endswith("; retrying\n") for line in first.lines)
    after_command = iteration(out)
    assert after_command >= after_worker + 5

    second = Command("bench", *arguments)
    assert second.end() == 0, "".join(second.lines)
    plain = re.compile(
        r"(\d of 2 assets to generate and score in "
        r"|\[[\d a-z]+\] (waiting for |\d of \d finished|(generate|evaluate) \d+: ))"
    )
    assert all(plain.match(line) for line in [*first.lines, *second.lines]), "no lines but those of the command itself"

    leaderboard = pd.read_csv(out / "leaderboard.csv").to_dict("records")[0]
    assert (leaderboard["n_prompts"], leaderboard["n_failed"]) == (2, 0)
    resumed = pd.read_csv(out / "per_object.csv")["resumed_from"].max()
    assert after_command <= resumed < ITERATIONS
    for path in undisturbed.glob("items/*/asset*.ply"):
        assert (out / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
    for path in undisturbed.glob("items/*/record.json"):
        there, here = (json.loads((root / path.relative_to(undisturbed)).read_text()) for root in (undisturbed, out))
        assert there["scores"] == here["scores"], "both executors give the same record"
        assert [snapshot["iteration"] for snapshot in there["snapshots"]] == [4, 20]
        assert there["snapshots"] == here["snapshots"]
    there, here = (pd.read_csv(root / "curves.csv").drop(columns=["run_id", "seconds"]) for root in (undisturbed, out))
    pd.testing.assert_frame_equal(there, here)
