"""`weights fetch` does not write into the installed package."""

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.commands import weights
from pipeline.embedded import weights_folder

FOLDER = weights_folder()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["weights", "fetch", "--weights", "embedded"], "--weights"),
        (["weights", "fetch", "prior", "--weights", str(FOLDER)], "--weights"),
        (["weights", "fetch", "prior", "--weights", str(FOLDER / ".." / FOLDER.name)], "--weights"),
    ],
)
def test_folder_of_the_bundled_models_is_refused(words, option, monkeypatch):
    monkeypatch.setattr(weights, "fetch", lambda *_: pytest.fail("a download was started"))
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith(
        f"{FOLDER.name} belongs to the bundled models, which are part of the package; set {option} to another folder.\n"
    )
