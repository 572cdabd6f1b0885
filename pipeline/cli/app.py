"""The command `segmentdreamer`: global options, and the commands of the other modules."""

import os
from typing import Annotated

import typer

from pipeline.cli import (
    benchmark,
    cluster,
    completion,
    error_handling,
    examples,
    export,
    help_format,
    nightly,
    report,
    runs,
    study,
    weights,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from importlib.metadata import version

        print(f"segmentdreamer {version('segmentdreamer')}")
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
    if debug:
        os.environ[error_handling.DEBUG] = "1"


for module in (runs, export, weights, benchmark, nightly, cluster, report, study):
    module.add_to(app)
app.command("completion")(error_handling.handle_errors(completion.script))
examples.add_to(app)
help_format.add_to(app)


def main() -> None:
    """The console script."""
    error_handling.install_signal_handlers()
    completion.prepare()
    app(prog_name=completion.PROGRAM)
