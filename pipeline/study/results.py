"""Evaluates the votes: tables, tests, and average ranks for the leaderboards of the compared runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ranking import Summary, summarise
from pipeline.errors import UserError
from pipeline.leaderboard import table, user_study
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.study.database import Ballot
from pipeline.study.plan import MEANINGS, StudyPlan


def found(plan: StudyPlan, ballots: Sequence[Ballot], seed: int) -> list[Summary]:
    """A summary per question. Raises UserError if a question has no votes, EvaluationError for an invalid ranking."""
    questions = [[ballot for ballot in ballots if ballot.question == q] for q in range(len(MEANINGS))]
    if not all(questions):
        raise UserError("Some questions have no votes yet; wait for more responses.")
    return [
        summarise(
            np.array([ballot.ranks for ballot in answers]),
            [ballot.voter for ballot in answers],
            np.random.default_rng(seed),
        )
        for answers in questions
    ]


def write(store: Store, plan: StudyPlan, found: Sequence[Summary], ballots: Sequence[Ballot]) -> None:
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
    for name, lines in rows.items():
        store.write(store.root / name, table.csv(table.from_rows(lines)))


def as_values(plan: StudyPlan, found: Sequence[Summary]) -> dict[str, list[dict[str, Any]]]:
    """Plain rows: `ranks` by question and method, `tests` by question, `pairs` by question and pair."""
    labels, k = plan.labels, len(plan.labels)
    numbered = [(f"q{number}", summary) for number, summary in enumerate(found, 1)]
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
            for question, summary in numbered
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
            for (question, summary), meaning in zip(numbered, MEANINGS, strict=True)
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
            for question, summary in numbered
            for i in range(k)
            for j in range(i + 1, k)
        ],
    }


def markdown(plan: StudyPlan, found: Sequence[Summary], invited: int) -> str:
    """Average ranks with intervals as Markdown (1 is best), followed by the tests."""
    heads = [f"{meaning} ↓" for meaning in MEANINGS]
    lines = [["method", *heads]]
    for c, label in enumerate(plan.labels):
        means = [summary.means[c] for summary in found]
        lines.append([label, *(f"{m.value:.2f}" + (f" [{m.low:.2f}, {m.high:.2f}]" if m.low else "") for m in means)])
    notes = [f"{found[0].voters} of {invited} invited volunteers have voted. The 95 % intervals are over volunteers."]
    for meaning, summary in zip(MEANINGS, found, strict=True):
        test = summary.friedman
        agreement = f"W = {test.kendall_w:.2f}, p = {test.p:.2g}" if test else "no test (too few votes, or all tied)"
        notes.append(
            f"{meaning}: {agreement}; ranks closer than {summary.critical_distance:.2f} do not differ significantly "
            "(Nemenyi)."
        )
    return table.aligned(lines) + "\n" + "\n".join(notes)


def to_leaderboards(plan: StudyPlan, found: Sequence[Summary]) -> list[Path]:
    """Write the average ranks to the compared run folders and republish these; returns their leaderboards."""
    from pipeline.report.publish import publish

    ranks: dict[str, dict[str, Any]] = {}
    for c, competitor in enumerate(plan.competitors):
        row = {f"q{number}_rank": summary.means[c].value for number, summary in enumerate(found, 1)}
        row |= {"n_voters": found[0].voters}
        ranks.setdefault(competitor.run, {})[competitor.method] = row
    for run, rows in ranks.items():
        user_study.write(Store(Path(run)), plan.id, rows)
        publish(RunResults.read(Store(Path(run))))
    return [Path(run) / "leaderboard.csv" for run in ranks]
