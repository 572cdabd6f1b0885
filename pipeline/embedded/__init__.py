"""The synthetic world: procedural objects with captions, and the small models trained on them (docs/models.md)."""

from pathlib import Path


def weights_folder() -> Path:
    """The bundled models: `prior/ scorer/ reward/ shape/ judge/ reference.npz`, each in its published format."""
    return Path(__file__).parent / "weights"
