"""The commands `nightly` and `nightly accept`."""

import getpass
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.error_handling import OK, REGRESSION
from pipeline.cli.options import RunFolder, optional_path
from pipeline.cli.values import with_options
from pipeline.commands.bench import finish
from pipeline.errors import UserError
from pipeline.plan.options import DEFAULT_SUITE, RunOptions
from pipeline.store import manifest
from pipeline.store.files import place
from pipeline.store.records import Generated, Unfinished
from pipeline.store.results import RunResults
from pipeline.store.run_folder import TREND, VERDICT, Store
from pipeline.work import precision
from pipeline.work.execution import AUTO, ExecutionOptions

REPORT, JUNIT = "verdict.md", "junit.xml"
NIGHTLY_LIMIT = 8
BaselineFolder = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="DIR|URL",
        help="Folder with the baselines and the history of nightly runs.  [required]",  # the command checks it
    ),
]

group = typer.Typer()


@group.callback(invoke_without_command=True)
@with_options(
    *(
        "context",
        "baseline",
        "gates",
        "suite",
        "limit",
        "objective",
        "recipe",
        "representation",
        "weights",
        "seed",
        "views",
    ),
    *("workers", "executor", "eval_placement", "stall_seconds", "checkpoint_seconds", "log", "out", "set_", "report"),
    suite={"help": "Prompt suite."},
    limit={"show_default": f"all; without --suite, {NIGHTLY_LIMIT} of {DEFAULT_SUITE}"},
    out={"help": "Run folder.", "show_default": "runs/nightly-DATE-COMMIT"},
)
def nightly(
    context: typer.Context,
    options: RunOptions,
    execution: ExecutionOptions,
    baseline: BaselineFolder = None,
    gates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the regression tolerance (gate) of each metric.",
            show_default="bundled gates",
        ),
    ] = None,
) -> int | None:
    """Run a regression benchmark of this commit against a baseline.

    First, the metrics are verified on stored reference renders. Then assets are compared prompt by prompt. Exit status:
    0 if the verdict is PASS or INCONCLUSIVE, 5 if it is FAIL. `nightly accept RUN` sets the baseline.
    """
    if context.invoked_subcommand is not None:
        return None
    folder = _required(baseline)
    run = options.run(NIGHTLY_LIMIT)
    from pipeline.embedded import frozen
    from pipeline.nightly import baseline as baselines
    from pipeline.nightly import gates as gates_of
    from pipeline.nightly import report
    from pipeline.nightly.candidate import nightly_run, references
    from pipeline.nightly.trend import draw
    from pipeline.nightly.verdict import overall_verdict
    from pipeline.report.publish import publish

    limits, pinned = gates_of.read(gates), baselines.read(folder)
    precision.check_engine(run, execution)
    is_set = options.sets(precision.KEY)
    run, note = precision.Choice(run) if is_set else precision.like(run, pinned.nightly_run.recipes)
    store = Store(optional_path(options.out) or _default_folder())
    _check_commit(store)
    metric_changes = [
        f"{item.name} of the frozen renders is {item.found:.6g}, was {item.expected:.6g} ± {item.tolerance:.2g}"
        for item in frozen.check()
    ]
    alone = "1" if execution.workers is None else AUTO  # times are compared
    execution = replace(execution, assets_per_gpu=alone)
    finish(run, store.root, replace(execution, report=False), note)  # the pages need the verdict, see below
    finished = RunResults.read(store)
    candidate, history = nightly_run(finished), _past(folder, pinned.number, finished.manifest.run_id)
    verdict = overall_verdict(
        pinned.nightly_run, candidate, limits, references(finished), metric_changes=metric_changes, history=history
    )
    line = report.line(verdict, pinned, candidate)
    store.write_json(store.root / VERDICT, report.document(verdict, pinned, candidate))
    store.write(store.root / REPORT, report.markdown(verdict, pinned, candidate).encode())
    store.write(store.root / JUNIT, report.junit(verdict, candidate))
    store.write(store.root / TREND, draw([*history, line], pinned.number))
    baselines.append(folder, line)
    if execution.report:
        publish(finished, pages=True)
    print(f"\n{report.table(verdict.gates)}", end="")
    print("".join(f"{note}\n" for note in verdict.notes), end="")
    print(f"{verdict.verdict}: {verdict.reason}\n{store.root / REPORT}")
    return REGRESSION if verdict.verdict == "FAIL" else OK


@group.command()
def accept(
    folder: RunFolder,
    baseline: BaselineFolder = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason for setting this baseline.  [required]")] = "",
) -> None:
    """Set a finished run as the baseline.

    Older baselines are kept.
    """
    pinned_to = _required(baseline)
    from pipeline.nightly import baseline as baselines
    from pipeline.nightly.candidate import nightly_run

    if not reason.strip():
        raise UserError("--reason is empty; say why later runs are compared with this one.")
    finished = RunResults.read(Store(place(folder)))
    candidate = nightly_run(finished)
    if unfinished := [each for each in finished.records.values() if isinstance(each, Unfinished | Generated)]:
        raise UserError(
            f"{place(folder)} is not finished: {len(unfinished)} of its {len(finished.records)} assets are not "
            "scored; run its command again first."
        )
    accepted = {"by": _user(), "date_utc": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason.strip()}
    pinned = baselines.pin(pinned_to, candidate, accepted)
    print(f"Baseline {pinned.number} in {pinned_to}: {candidate.run_id}, {len(candidate.objects)} assets")


def _required(text: str | None) -> Path:
    """The option --baseline. Raises UserError if it was not passed."""
    if text is None:
        raise UserError("--baseline is missing; pass the folder of the baselines: --baseline baselines.")
    return place(text)


def _past(folder: Path, number: int, run_id: str) -> list[dict[str, Any]]:
    """Earlier nightly runs whose metrics are comparable with the baseline's."""
    from pipeline.nightly.baseline import history
    from pipeline.nightly.verdict import METRIC_CHANGED

    lines = history(folder, number)
    return [line for line in lines if line["run"] != run_id and not line["reason"].startswith(METRIC_CHANGED)]


def _default_folder() -> Path:
    """A folder named after the day and the commit, so that nightly runs do not share assets."""
    commit = manifest.commit()
    name = f"nightly-{datetime.now(UTC):%Y-%m-%d}" + (
        f"-{commit[:8]}{'+' if commit.endswith('+') else ''}" if commit else ""
    )
    return Path("runs") / name


def _check_commit(store: Store) -> None:
    """Raise UserError if the folder has assets of another commit."""
    before = manifest.find(store)
    commit = manifest.commit()
    for session in before.sessions if before else ():
        if session.commit != commit:
            raise UserError(
                f"{store.root} was generated by commit {session.commit or 'unknown'}, and this is "
                f"{commit or 'unknown'}; choose another --out, or omit it to use a new folder."
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # some containers have no name for the user id
        return "unknown"
