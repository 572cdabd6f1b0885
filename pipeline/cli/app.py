"""The command `segmentdreamer`: global options, and the table of commands."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli import completion, error_handling
from pipeline.cli.examples import epilog
from pipeline.cli.lazy import LazyCommand
from pipeline.cli.messages import show_logs

COMMANDS = (
    LazyCommand("bench", "commands.bench:bench", "Generate, score and rank assets for a set of prompts."),
    LazyCommand("generate", "commands.bench:generate", "Generate an asset without scoring it."),
    LazyCommand(
        "evaluate", "commands.evaluate:evaluate", "Score the assets of a run folder, or assets of other programs."
    ),
    LazyCommand("leaderboard", "commands.bench:leaderboard", "Rank the methods of one or more run folders."),
    LazyCommand("agreement", "commands.agreement:agreement", "Compare the metrics of a run with people's opinions."),
    LazyCommand("status", "commands.bench:status", "Show the progress and failures of a run."),
    LazyCommand("export", "commands.export:export", "Export an asset as splats, mesh, turntable video or image."),
    LazyCommand("doctor", "commands.weights:doctor", "Check whether this machine can run a recipe."),
    LazyCommand(
        "reference", "commands.weights:reference", "Compute the reference statistics of the Fréchet distances."
    ),
    LazyCommand("report", "commands.report:report", "Write an HTML report of one or more run folders."),
    LazyCommand("view", "commands.report:view", "Show an asset in the browser, with a server on this machine."),
    LazyCommand("completion", "cli.completion:script", "Print the shell completion script."),
    LazyCommand(
        "encoded",
        "commands.cluster:encoded",
        "Run a command that `cluster.jobs.description.encoded` encoded.",
        hidden=True,
        context_settings={"ignore_unknown_options": True},
    ),
    LazyCommand("weights", "commands.weights:weights", "List, download and check published weights."),
    LazyCommand("benchmark", "commands.speed:benchmark", "Measure the iteration time on this machine."),
    LazyCommand("warmup", "commands.warm_up:warmup", "Compile the kernels of a recipe ahead of a run."),
    LazyCommand("nightly", "commands.nightly:group", "Run a regression benchmark of this commit against a baseline."),
    LazyCommand("manifest", "commands.cluster:manifest", "Print Kubernetes manifests for kubectl apply -f -."),
    LazyCommand("submit", "commands.cluster:submit", "Submit a command to this machine, Ray, KubeRay or Kubeflow."),
    LazyCommand(
        "schedule",
        "commands.cluster:schedule",
        "Run a command on a schedule. The same name updates the existing schedule.",
    ),
    LazyCommand("job", "commands.cluster:job", "Show the status and logs of a submitted job, or cancel it."),
    LazyCommand("viewer", "commands.report:viewer_group", "Install the asset viewer."),
    LazyCommand("study", "commands.study:study", "Run a blind user study that ranks the methods."),
)


class Program(TyperGroup):
    """All commands, none of them loaded."""

    def __init__(self, **attributes: Any):
        super().__init__(**attributes)
        self.commands = {str(command.name): command for command in COMMANDS}


app = typer.Typer(
    cls=Program,
    epilog=epilog(""),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from pipeline import __version__

        print(f"segmentdreamer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Print the traceback of an error (env var: {error_handling.DEBUG}).")
    ] = False,
) -> None:
    """Generate 3D assets from text by score distillation, score them and rank the methods."""
    show_logs()
    if debug:
        os.environ[error_handling.DEBUG] = "1"


def loaded() -> Any:
    """The whole command line with every command loaded, for documentation and tests."""
    program: Any = get_command(app)
    program.commands = {command.name: command.loaded for command in COMMANDS}
    return program


def main() -> None:
    """The console script."""
    error_handling.install_signal_handlers()
    completion.prepare()
    app(prog_name=completion.PROGRAM)
