"""Suites of prompts: text files, one prompt a line, packaged here by name or given as a path.

A line is `prompt`, or `prompt | short text for the seed shape`. Empty lines and lines that begin with # do not count.
Where each packaged suite comes from: docs/suites.md.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError, nearest, shortened
from pipeline.prompts.prompt import Prompt

MAX_CHARACTERS = 1000  # far beyond what any prior reads; the exact limit is its number of tokens
NOTES = {"dreamfusion40": "reconstructed: the authors' list is not public"}  # said wherever the suite's name is shown


def packaged() -> list[str]:
    """The names of the suites that come with the program."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.txt"))


def with_note(name: str) -> str:
    """The name of a suite, and what a reader of a table must know of it."""
    return f"{name} ({NOTES[name]})" if name in NOTES else name


def suite(name_or_path: str) -> list[Prompt]:
    """The prompts of a packaged suite or of a file. Raises UserError."""
    if name_or_path in packaged():
        return _read(Path(__file__).parent / f"{name_or_path}.txt")
    path = Path(name_or_path)
    if not path.is_file():
        known = packaged()
        raise UserError(
            f"There is no suite and no file {name_or_path!r}; give a text file with one prompt a line, or one of "
            f"{', '.join(map(with_note, known))}{nearest(name_or_path, known)}."
        )
    return _read(path)


def prompts(texts: Iterable[str]) -> list[Prompt]:
    """Prompts of lines of text; one that comes twice counts once. Raises UserError for one that cannot be used."""
    found = {prompt.text: prompt for prompt in map(_prompt, texts)}
    ids: dict[str, int] = {}
    unique = []
    for prompt in found.values():
        ids[prompt.id] = ids.get(prompt.id, 0) + 1
        number = ids[prompt.id]
        unique.append(prompt if number == 1 else Prompt(f"{prompt.id}-{number}", prompt.text, prompt.shape_text))
    return unique


def suite_name(name_or_path: str) -> str:
    """What a run over this suite is called; a file is never called as a packaged suite is."""
    name = slug(Path(name_or_path).stem) or "suite"
    return f"{name}-file" if name in packaged() and name_or_path != name else name


def slug(text: str, length: int = 40) -> str:
    """Lower-case letters, digits and hyphens: for ids and folder names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].rstrip("-")


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 text file ({error}); give one prompt a line.") from error
    lines = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} holds no prompt; write one a line.")
    return prompts(lines)


def _prompt(line: str) -> Prompt:
    if len(line) > MAX_CHARACTERS:
        raise UserError(
            f"The prompt {shortened(line)!r} has {len(line):,} characters; the most is {MAX_CHARACTERS:,}: shorten it."
        )
    text, _, shape_text = (part.strip() for part in line.partition("|"))
    if not text:
        raise UserError('The prompt is empty; say what the object is, as in "a red mushroom".')
    if not text.isprintable():
        raise UserError(f"The prompt {text!r} holds a character that cannot be printed; write it on one line as text.")
    return Prompt(slug(text) or "prompt", text, shape_text or text)
