"""Assets of custom representations, as far as other commands meet them."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.store.run_folder import CONTACT, TENSORS, TURNTABLE, VIEWS


def check_exportable(path: Path) -> None:
    """Raise UserError for a file, or an item's folder, of a custom representation."""
    folder = path if path.is_dir() else path.parent
    if (path.is_dir() or path.name in (TENSORS, VIEWS)) and (folder / TENSORS).is_file():
        raise UserError(
            f"{folder} has an asset of a custom representation, which cannot be exported or viewed; {TURNTABLE} and "
            f"{CONTACT} in it show the asset."
        )
