"""Ballots → tables, and average ranks on the leaderboards of the runs that took part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ranking import Summary, summarise
from pipeline.errors import UserError
from pipeline.leaderboard import table as leaderboard
from pipeline.leaderboard import user_study
from pipeline.store.run_folder import Store
from pipeline.study.database import Ballot
from pipeline.study.plan import MEANINGS, Plan


def found(plan: Plan, ballots: Sequence[Ballot], seed: int) -> list[Summary]:
    """Of each question. Raises UserError until every question has a vote, EvaluationError for what is no ranking."""
    questions = [[ballot for ballot in ballots if ballot.question == q] for q in range(len(MEANINGS))]
    if not all(questions):
        raise UserError("Nobody has answered all questions yet; send the invitation links, and serve the study.")
    return [
        summarise(
            np.array([ballot.ranks for ballot in given]),
            [ballot.voter for ballot in given],
            np.random.default_rng(seed),
        )
        for given in questions
    ]


def write(store: Store, plan: Plan, found: Sequence[Summary], ballots: Sequence[Ballot]) -> None:
    """results.csv, tests.csv, pairs.csv, and votes.csv with a row for each (voter, group, question, method)."""
    values = as_values(plan, found)
    rows = {
        "results.csv": values["ranks"],
        "tests.csv": values["tests"],
        "pairs.csv": values["pairs"],
        "votes.csv": [
            {
                "voter": ballot.voter,
                "group": ballot.group,
                "prompt": plan.prompts[ballot.group],
                "question": f"q{ballot.question + 1}",
                "method": label,
                "rank": rank,
            }
            for ballot in ballots
            for label, rank in zip(plan.labels, ballot.ranks, strict=True)
        ],
    }
    for name, table in rows.items():
        store.write(store.root / name, leaderboard.csv(leaderboard.table(table)))


def as_values(plan: Plan, found: Sequence[Summary]) -> dict[str, list[dict[str, Any]]]:
    """Plain rows: `ranks` by question and method, `tests` by question, `pairs` by question and pair."""
    labels, k = plan.labels, len(plan.labels)
    asked = [(f"q{number}", summary) for number, summary in enumerate(found, 1)]
    return {
        "ranks": [
            {
                "question": question,
                "method": label,
                "mean_rank": mean.value,
                "lo": mean.low,
                "hi": mean.high,
                "rankings": summary.rankings,
                "voters": summary.voters,
            }
            for question, summary in asked
            for label, mean in zip(labels, summary.means, strict=True)
        ],
        "tests": [
            {
                "question": question,
                "meaning": meaning,
                "voters": summary.voters,
                "friedman_chi2": summary.friedman and summary.friedman.chi_squared,
                "degrees_of_freedom": k - 1,
                "p": summary.friedman and summary.friedman.p,
                "kendall_w": summary.friedman and summary.friedman.kendall_w,
                "nemenyi_distance": summary.critical_distance,
            }
            for (question, summary), meaning in zip(asked, MEANINGS, strict=True)
        ],
        "pairs": [
            {
                "question": question,
                "method": labels[i],
                "other": labels[j],
                "difference": summary.means[i].value - summary.means[j].value,
                "p": summary.p[i][j],
                "differs": summary.p[i][j] < 0.05,
            }
            for question, summary in asked
            for i in range(k)
            for j in range(i + 1, k)
        ],
    }


def markdown(plan: Plan, found: Sequence[Summary], invited: int) -> str:
    """For people: average ranks with intervals, 1 is best; what the tests say below."""
    heads = [f"{meaning} ↓" for meaning in MEANINGS]
    lines = [["method", *heads]]
    for c, label in enumerate(plan.labels):
        means = [summary.means[c] for summary in found]
        lines.append([label, *(f"{m.value:.2f}" + (f" [{m.low:.2f}, {m.high:.2f}]" if m.low else "") for m in means)])
    told = [f"{found[0].voters} of {invited} invited volunteers have voted. 95 % intervals are over volunteers."]
    for meaning, summary in zip(MEANINGS, found, strict=True):
        test = summary.friedman
        preferred = f"W = {test.kendall_w:.2f}, p = {test.p:.2g}" if test else "no test (too few, or all tied)"
        told.append(
            f"{meaning}: {preferred}; ranks closer than {summary.critical_distance:.2f} cannot be told apart (Nemenyi)."
        )
    return leaderboard.aligned(lines) + "\n" + "\n".join(told)


def to_boards(plan: Plan, found: Sequence[Summary]) -> list[Path]:
    """Average ranks into each run folder that took part, and its tables made anew; where they are."""
    from pipeline.report.publish import publish

    ranks: dict[str, dict[str, Any]] = {}
    for c, competitor in enumerate(plan.competitors):
        row = {f"q{number}_rank": summary.means[c].value for number, summary in enumerate(found, 1)}
        row |= {"n_voters": found[0].voters}
        ranks.setdefault(competitor.run, {})[competitor.method] = row
    for run, rows in ranks.items():
        user_study.write(Store(Path(run)), plan.id, rows)
        publish(Store(Path(run)))
    return [Path(run) / "leaderboard.csv" for run in ranks]
