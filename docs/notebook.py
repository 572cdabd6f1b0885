"""Write docs/distill.ipynb: the cells of examples/distill.py, executed (`make notebook`, two minutes on two cores)."""

import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
SCRIPT, NOTEBOOK = ROOT / "examples" / "distill.py", ROOT / "docs" / "distill.ipynb"


def cells() -> nbformat.NotebookNode:
    """The script as a notebook without outputs. Cells tagged `script` are left out."""
    notebook = jupytext.read(SCRIPT, fmt="py:percent")
    kept = [cell for cell in notebook.cells if "script" not in cell.metadata.get("tags", ())]
    for number, cell in enumerate(kept):
        cell.id = f"cell-{number}"  # instead of a random one
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=kept, metadata={"kernelspec": kernel})


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Add the outputs of all cells, run in `folder`. Raises CellExecutionError."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore:IProgress not found"}  # tqdm.auto asks for ipywidgets
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=900, coalesce_streams=True, record_timing=False, resources=resources)
    client.execute(env=environment)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        output.get("data", {}).pop("image/jpeg", None)  # IPython gives an image as .png and as .jpeg


if __name__ == "__main__":
    written = cells()
    with tempfile.TemporaryDirectory() as folder:
        execute(written, Path(folder))
    nbformat.write(written, NOTEBOOK)
