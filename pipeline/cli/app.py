"""The command line: options → a checked run → a flow. Only what `--help` needs is imported before a command runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import cluster as cli_cluster
from pipeline.cli import completion as cli_complete
from pipeline.cli import error_handling as cli_guard
from pipeline.cli import examples as cli_examples
from pipeline.cli import report as cli_report
from pipeline.cli import study as cli_study
from pipeline.cli.completion import words_of
from pipeline.cli.error_handling import NOT_ALL_THERE, OK, SOME_FAILED, WORSE, guarded
from pipeline.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_SUITE,
    EXPORTS,
    NIGHTLY_LIMIT,
    AsJson,
    BaselineFolder,
    CheckpointSeconds,
    EvalPlacement,
    ExecutorName,
    Folder,
    Limit,
    Live,
    Log,
    Objective,
    Out,
    Place,
    Prompts,
    RecipeName,
    Report,
    Seed,
    Settings,
    StallSeconds,
    Suite,
    Sweeps,
    Track,
    Views,
    WeightsFolder,
    Workers,
)
from pipeline.store.files import place

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

weights_app = typer.Typer(
    help="Published weights: what there is, fetch it, check it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(weights_app, name="weights")

benchmark_app = typer.Typer(help="How fast this machine is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(benchmark_app, name="benchmark")

nightly_app = typer.Typer(rich_markup_mode=None)
app.add_typer(nightly_app, name="nightly")


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"segmentdreamer {version('segmentdreamer')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks of errors. Also: {cli_guard.DEBUG}=1.")
    ] = False,
) -> None:
    """Text to 3D by score distillation, benchmarked: prompts in, assets and a leaderboard out."""
    if debug:
        os.environ[cli_guard.DEBUG] = "1"


@app.command()
@guarded
def bench(
    suite: Suite = None,
    prompt: Prompts = None,
    limit: Limit = None,
    objective: Objective = "sctd",
    recipe: RecipeName = "embedded",
    weights: WeightsFolder = None,
    seed: Seed = 0,
    views: Views = 120,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    eval_placement: EvalPlacement = "auto",
    stall_seconds: StallSeconds = 180.0,
    checkpoint_seconds: CheckpointSeconds = 20.0,
    log: Log = "auto",
    track: Track = None,
    out: Out = None,
    set_: Settings = None,
    sweep: Sweeps = None,
    report: Report = True,
    live: Live = None,
) -> int:
    """Make an asset for every prompt, judge it from all sides, and rank the objectives, or settings by --sweep.

    The same command again goes on where it stopped, and does nothing twice.
    """
    from pipeline.commands import bench as commands

    name, prompts = commands.prompts(suite, prompt, limit, DEFAULT_SUITE, DEFAULT_LIMIT)
    run = commands.checked_run(name, prompts, objective, recipe, weights, seed, views, set_, sweep)
    means = commands.Means(
        executor, workers, checkpoint_seconds, log, eval_placement, stall_seconds, track, report, live
    )
    return _status(commands.bench(run, _place(out), means))


@app.command()
@guarded
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to make, as 'a red mushroom'.")],
    objective: Objective = "sctd",
    recipe: RecipeName = "embedded",
    weights: WeightsFolder = None,
    seed: Seed = 0,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    stall_seconds: StallSeconds = 180.0,
    checkpoint_seconds: CheckpointSeconds = 20.0,
    log: Log = "auto",
    out: Out = None,
    set_: Settings = None,
    live: Live = None,
) -> int:
    """Make one asset and judge it not: asset.ply, turntable.mp4, contact.png."""
    from pipeline.commands import bench as commands

    name, prompts = commands.prompts(None, [prompt], None, DEFAULT_SUITE, DEFAULT_LIMIT)
    run = commands.checked_run(name, prompts, objective, recipe, weights, seed, 120, set_, judged=False)
    means = commands.Means(executor, workers, checkpoint_seconds, log, stall_seconds=stall_seconds, live=live)
    return _status(commands.generate(run, _place(out), means))


@app.command()
@guarded
def export(
    asset: Annotated[Path, typer.Argument(metavar="ASSET", help="A .ply, an item's folder, or a run folder.")],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="FORMAT",
            autocompletion=words_of("pipeline.assets.export", "FORMATS"),
            help=f"{EXPORTS}. Several: each by its own --to.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Where.", show_default="here, named by the prompt")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Which asset of a run folder.")] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="The same, by a job's id or how it begins.")] = None,
    mesh: Annotated[bool, typer.Option("--mesh", help="A .glb of triangles instead of splats.")] = False,
    up: Annotated[
        str | None, typer.Option(metavar="AXIS", help="What is up: z, y or -y.", show_default="by the format")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of films and views along each side.")] = 512,
    azimuth: Annotated[
        float | None,
        typer.Option(metavar="DEGREES", help="Of a single .png: 0 is the front.", show_default="a contact sheet"),
    ] = None,
) -> int:
    """Write an asset for other programs: splats, a mesh, a turntable, a picture."""
    from pipeline.assets import export as flow

    flow.export(asset, to, out, flow.Options(size, azimuth, up, mesh), prompt, job)
    return OK


@app.command()
@guarded
def evaluate(
    folder: Folder,
    views: Annotated[int | None, typer.Option(help="Views an asset is judged from.", show_default="as before")] = None,
    weights: WeightsFolder = None,
    executor: ExecutorName = "ray",
    log: Log = "auto",
) -> int:
    """Judge the assets of a run folder, again if other views or weights are asked for."""
    from pipeline.commands import bench as commands

    return _status(commands.evaluate(place(folder), views, weights, executor, log))


@app.command()
@guarded
def leaderboard(
    folders: Annotated[list[str], typer.Argument(metavar="DIR|URL...", help="Run folders.")],
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the board of all folders as CSV.")] = None,
    paper: Annotated[
        bool | None,
        typer.Option(
            "--paper/--no-paper",
            help="The paper's Table 2 below, in columns of its own.",
            show_default="for --recipe paper with published weights",
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Rank what runs have found: of one folder, its tables and report made anew; of several, one board."""
    from pipeline.commands import bench as commands

    commands.leaderboard([place(folder) for folder in folders], _place(out), paper, as_json=json)
    return OK


@app.command()
@guarded
def status(folder: Folder, json: AsJson = False) -> int:
    """How a run stands: done, failed, running, where and why, and what to do next. Reads, and touches nothing."""
    from pipeline.commands import bench as commands

    commands.status(place(folder), as_json=json)
    return OK


@nightly_app.callback(invoke_without_command=True)
@guarded
def nightly(
    context: typer.Context,
    baseline: BaselineFolder = None,
    gates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What may be lost: TOML.", show_default="packaged")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=cli_complete.suites,
            help="Prompts.",
            show_default=f"the first {NIGHTLY_LIMIT} of {DEFAULT_SUITE}",
        ),
    ] = None,
    limit: Limit = None,
    objective: Objective = "sctd",
    recipe: RecipeName = "embedded",
    weights: WeightsFolder = None,
    seed: Seed = 0,
    views: Views = 120,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    eval_placement: EvalPlacement = "auto",
    stall_seconds: StallSeconds = 180.0,
    checkpoint_seconds: CheckpointSeconds = 20.0,
    log: Log = "auto",
    out: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="Run folder.", show_default="runs/nightly-DATE-COMMIT")
    ] = None,
    set_: Settings = None,
    report: Report = True,
) -> int | None:
    """Bench tonight's code beside a pinned baseline, prompt by prompt: PASS, INCONCLUSIVE (status 0) or FAIL (5).

    The metric is checked first, on renders that never change. `nightly accept RUN` pins a baseline.
    """
    if context.invoked_subcommand is not None:
        return None
    from pipeline.commands import bench as commands
    from pipeline.commands import nightly as commands_nightly

    baselines = commands_nightly.required(_place(baseline))
    name, prompts = commands.prompts(suite, None, limit, DEFAULT_SUITE, NIGHTLY_LIMIT)
    run = commands.checked_run(name, prompts, objective, recipe, weights, seed, views, set_)
    means = commands.Means(executor, workers, checkpoint_seconds, log, eval_placement, stall_seconds, report=report)
    verdict = commands_nightly.run(run, baselines, gates, _place(out), means)
    return WORSE if verdict == "FAIL" else OK


@nightly_app.command("accept")
@guarded
def accept_baseline(
    folder: Folder,
    baseline: BaselineFolder = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why nights compare with this run from now on.")] = "",
) -> int:
    """Pin a finished run as the baseline. Older ones stay beside it."""
    from pipeline.commands import nightly as commands_nightly

    commands_nightly.accept(place(folder), commands_nightly.required(_place(baseline)), reason)
    return OK


@weights_app.command("list")
@guarded
def list_weights(weights: Place = None, json: AsJson = False) -> int:
    """Each model: role, sources in order of preference, files with sizes and digests, licence, and where it is here."""
    from pipeline.commands import weights as commands_weights

    commands_weights.list_weights(weights, as_json=json)
    return OK


@weights_app.command("fetch")
@guarded
def fetch_weights(
    role: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROLE...",
            help="As prior, scorer.",
            show_default="all",
            autocompletion=words_of("pipeline.weights.catalogue", "FETCHED"),
        ),
    ] = None,
    weights: Place = None,
    offline: Annotated[bool, typer.Option(help="Only from the Hugging Face cache.")] = False,
) -> int:
    """Bring published weights. Goes on where it stopped, checks sizes and SHA-256, and fetches nothing twice."""
    from pipeline.commands import weights as commands_weights

    commands_weights.fetch_weights(role or [], weights, offline=offline)
    return OK


@weights_app.command("check")
@guarded
def check_weights(
    role: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROLE...", show_default="all", autocompletion=words_of("pipeline.weights.catalogue", "ROLES")
        ),
    ] = None,
    weights: Place = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures whose scores are published: see docs/weights.md.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Open each model: digests, names and shapes, published outputs. Status 1 if one is refused or missing."""
    from pipeline.commands import weights as commands_weights

    return OK if commands_weights.check_weights(role or [], weights, golden, as_json=json) else NOT_ALL_THERE


@app.command()
@guarded
def doctor(recipe: RecipeName = "embedded", weights: WeightsFolder = None, json: AsJson = False) -> int:
    """What this machine can run, and what mends what is missing. Status 0 if the recipe can run, 1 if not."""
    from pipeline.commands import weights as commands_weights

    return OK if commands_weights.examine(recipe, weights, as_json=json) else NOT_ALL_THERE


@benchmark_app.command("speed")
@guarded
def speed(
    recipe: RecipeName = "embedded",
    objective: Objective = "sctd",
    weights: WeightsFolder = None,
    gaussians: Annotated[
        int | None,
        typer.Option(help="How many there are.", show_default="150,000; of the embedded recipes 3,000"),
    ] = None,
    iterations: Annotated[int, typer.Option(help="How many to time, after 5 to warm up.")] = 20,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    json: AsJson = False,
) -> int:
    """Time an iteration and its parts: a plain loop and the fast one in one run, beside the floor of the arithmetic."""
    from pipeline.commands import speed as commands_speed

    commands_speed.speed(recipe, objective, weights, gaussians, iterations, set_, out, as_json=json)
    return OK


@app.command()
@guarded
def reference(
    weights: Place = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=cli_complete.suites,
            show_default="dreamfusion40; embedded40 for embedded",
            help="Prompts.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures, equally many of each prompt.")] = 50_000,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What sees them: scorer, inception, inception_tf, dinov2. Several: each by its own --network.",
            show_default="all that are in the weights",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="the weights", help="Where to write reference*.npz.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="reference-cache/ in --out",
            help="Where features, and pictures, are kept. On a cluster every node must see it.",
        ),
    ] = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the pictures, so that a further network needs no sampling.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The prior's: float32, float16, bfloat16.",
            show_default="float16 on a GPU, else and for embedded float32",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Shards made side by side.", show_default="one per GPU or, without, per core")
    ] = None,
    executor: ExecutorName = "ray",
) -> int:
    """Make what the Fréchet distances are taken from: moments of pictures by the prior, for each network.

    The same command again goes on where it stopped, and does nothing twice.
    """
    from pipeline.commands import bench as commands
    from pipeline.commands import weights as commands_weights

    means = commands.Means(executor, workers, 0.0)
    failed = commands_weights.make_reference(
        weights, suite, count, network or [], out, cache, dtype, means, keep_images=keep_images
    )
    return _status(failed)


cli_cluster.add_to(app, guarded)
cli_report.add_to(app, guarded)
cli_study.add_to(app, guarded)
app.command("completion")(guarded(cli_complete.script))
cli_examples.add_to(app)


def _place(text: str | None) -> Path | None:
    return None if text is None else place(text)


def _status(failed: int) -> int:
    return SOME_FAILED if failed else OK


def main() -> None:
    """The console script."""
    cli_guard.hear_signals()
    cli_complete.prepare()
    app(prog_name=cli_complete.PROGRAM)
