"""Options and arguments that several commands share, as annotations for typer."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.store.files import place

PAPER_DEFAULT = "on for the paper recipe, except with the bundled models"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunFolder = Annotated[str, typer.Argument(metavar="DIR|URL", help="Run folder.")]
RunFolders = Annotated[list[str], typer.Argument(metavar="DIR|URL...", help="Run folders.")]


def optional_path(text: str | None) -> Path | None:
    """The path or URL of an option; None if it was not passed."""
    return None if text is None else place(text)
