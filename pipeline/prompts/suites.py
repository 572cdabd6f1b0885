"""Prompt suites: text files with one prompt per line, bundled here by name or given as a path.

A line is `prompt`, or `prompt | short text for the initialization`. Empty lines and lines that start with # do not
count. The origin of each bundled suite: docs/suites.md.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError, nearest, shortened
from pipeline.prompts.prompt import Prompt

MAX_CHARACTERS = 1000  # far more than any prior reads; the exact limit is its number of tokens
NOTES = {"dreamfusion40": "reconstructed: the authors' list is not public"}  # shown beside the suite's name


def bundled() -> list[str]:
    """The names of the bundled suites."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.txt"))


def with_note(name: str) -> str:
    """The name of a suite, with its note if it has one."""
    return f"{name} ({NOTES[name]})" if name in NOTES else name


def suite(name_or_path: str) -> list[Prompt]:
    """The prompts of a bundled suite or of a file. Raises UserError."""
    if name_or_path in bundled():
        return _read(Path(__file__).parent / f"{name_or_path}.txt")
    path = Path(name_or_path)
    if not path.is_file():
        known = bundled()
        raise UserError(
            f"Unknown prompt suite or file {name_or_path!r}; pass a text file with one prompt per line, or one of "
            f"{', '.join(map(with_note, known))}{nearest(name_or_path, known)}."
        )
    return _read(path)


def prompts(texts: Iterable[str]) -> list[Prompt]:
    """The prompts in lines of text, without duplicates. Raises UserError for an invalid prompt."""
    found = {prompt.text: prompt for prompt in map(_prompt, texts)}
    ids: dict[str, int] = {}
    unique = []
    for prompt in found.values():
        ids[prompt.id] = ids.get(prompt.id, 0) + 1
        number = ids[prompt.id]
        unique.append(prompt if number == 1 else Prompt(f"{prompt.id}-{number}", prompt.text, prompt.shape_text))
    return unique


def suite_name(name_or_path: str) -> str:
    """The name of a suite in run names. A file never has the name of a bundled suite."""
    name = slug(Path(name_or_path).stem) or "suite"
    return f"{name}-file" if name in bundled() and name_or_path != name else name


def slug(text: str, length: int = 40) -> str:
    """The text in lower-case letters, digits and hyphens, for ids and folder names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].rstrip("-")


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 text file ({error}); write one prompt per line.") from error
    lines = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} contains no prompt; write one per line.")
    return prompts(lines)


def _prompt(line: str) -> Prompt:
    if len(line) > MAX_CHARACTERS:
        raise UserError(
            f"The prompt {shortened(line)!r} has {len(line):,} characters; the limit is {MAX_CHARACTERS:,}. Shorten it."
        )
    text, _, shape_text = (part.strip() for part in line.partition("|"))
    if not text:
        raise UserError('The prompt is empty; describe an object, as in "a red mushroom".')
    if not text.isprintable():
        raise UserError(
            f"The prompt {text!r} contains a character that cannot be printed; write it as one line of text."
        )
    return Prompt(slug(text) or "prompt", text, shape_text or text)
