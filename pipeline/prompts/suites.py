"""Prompt suites: files of prompts, bundled here by name or given as a path.

A text file has one prompt per line: `prompt`, or `prompt | short text for the initialization`. Empty lines and lines
that start with # do not count. A .json file is a list of prompts, or a mapping from names to such lists, as
threestudio's prompt library; .jsonl (.ndjson) has a value per line; .csv and .tsv have a column `prompt`. The origin of
each bundled suite: docs/suites.md.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, nearest, shortened
from pipeline.prompts.prompt import Prompt
from sctd.errors import one_line

MAX_CHARACTERS = 1000  # far more than any prior reads; the exact limit is its number of tokens
TEXT_MARKS = "\u00a0\u200c\u200d\u202f\u3000"  # special spaces, and joiners as in emoji and Persian
FORMATS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".html": "HTML", ".htm": "HTML", ".xml": "XML"}
STARTS = {"<!doctype": "HTML", "<html": "HTML", "<?xml": "XML", "<svg": "XML", "---": "YAML"}
NAMELESS = {"Co": "a private-use character", "Cn": "an unassigned character", "Cs": "half of a surrogate pair"}
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
    unique: dict[str, Prompt] = {}
    for prompt in found.values():
        numbered = (f"{prompt.id}-{number}" for number in count(2))
        name = next(name for name in chain([prompt.id], numbered) if name not in unique)
        unique[name] = Prompt(name, prompt.text, prompt.shape_text)
    return list(unique.values())


def suite_name(name_or_path: str) -> str:
    """The name of a suite in run names. A file never has the name of a bundled suite."""
    name = slug(Path(name_or_path).stem) or "suite"
    return f"{name}-file" if name in bundled() and name_or_path != name else name


def slug(text: str, length: int = 40) -> str:
    """The text in lower-case letters, digits and hyphens, for ids and folder names; "é" becomes "e"."""
    plain = "".join(base if (base := unicodedata.normalize("NFKD", letter)[0]).isascii() else letter for letter in text)
    return re.sub(r"[\W_]+", "-", plain.lower()).strip("-")[:length].rstrip("-")


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 text file ({error}); write one prompt per line.") from error
    kind = path.suffix.lower()
    if kind in (".json", ".jsonl", ".ndjson"):
        lines = list(_from_json(path, ["\n".join(lines)] if kind == ".json" else lines))
    elif kind in (".csv", ".tsv"):
        lines = list(_from_table(path, lines))
    else:
        _check_text(path, lines)
        lines = [line for line in lines if not line.startswith("#")]
    lines = [line for line in map(str.strip, lines) if line]
    if not lines:
        raise UserError(f"{path} contains no prompt; write one per line.")
    return prompts(lines)


def _from_json(path: Path, documents: Iterable[str]) -> Iterator[str]:
    """The prompts in JSON documents: texts, objects with a key `prompt`, and lists or mappings of them."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict) and isinstance(value.get("prompt"), str):
            yield value["prompt"]
        elif isinstance(value, list) or (isinstance(value, dict) and all(isinstance(v, list) for v in value.values())):
            for each in value if isinstance(value, list) else value.values():
                yield from texts(each)
        else:
            raise UserError(
                f"{path} contains {shortened(json.dumps(value, ensure_ascii=False))}; expected a list of prompts, or a "
                "mapping from names to lists of prompts."
            )

    for document in documents:
        if document.strip():
            try:
                found = json.loads(document)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} is not valid JSON ({one_line(error)}); correct it, or write one prompt per line."
                ) from error
            yield from texts(found)


def _from_table(path: Path, lines: Sequence[str]) -> Iterator[str]:
    """The column `prompt` of a table with commas, tabs or, as European spreadsheets write, semicolons."""
    rows = csv.DictReader(lines, delimiter=max(",\t;", key=lines[0].count) if lines else ",")
    columns = [name for name in rows.fieldnames or () if name.strip().lower() == "prompt"]
    if not columns:
        found = ", ".join(rows.fieldnames or ()) or "none"
        raise UserError(
            f"{path} has no column 'prompt' (columns: {shortened(found)}); name the column of the prompts so."
        )
    return (row[columns[0]] or "" for row in rows)


def _check_text(path: Path, lines: Sequence[str]) -> None:
    """Raise UserError for a file in another format than one prompt per line."""
    texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    first = texts[0].lower() if texts else ""
    kind = FORMATS.get(path.suffix.lower()) or next(
        (STARTS[start] for start in STARTS if first.startswith(start)), None
    )
    if len(texts) > 1 and any(all(text.startswith(bullet) for text in texts) for bullet in ("- ", "* ")):
        kind = kind or "a list with bullets"
    if re.fullmatch(r"\w+([,;\t]\w+)+", first) and "prompt" in re.split(r"[,;\t]", first):
        kind = "a table"
    if first.startswith(("{", "[")):
        for document in ("\n".join(lines), texts[0]):
            with suppress(ValueError, RecursionError):
                json.loads(document)
                kind = "JSON"
    if kind:
        raise UserError(
            f"{path} looks like {kind}; write one prompt per line, or name it .json, .jsonl, .csv or .tsv if it is one."
        )


def _prompt(line: str) -> Prompt:
    if len(line) > MAX_CHARACTERS:
        raise UserError(
            f"The prompt {shortened(line)!r} has {len(line):,} characters; the limit is {MAX_CHARACTERS:,}. Shorten it."
        )
    text, _, shape_text = (part.strip() for part in line.partition("|"))
    if not text:
        raise UserError('The prompt is empty; describe an object, as in "a red mushroom".')
    if wrong := next((letter for letter in line if not letter.isprintable() and letter not in TEXT_MARKS), None):
        name = unicodedata.name(wrong, NAMELESS.get(unicodedata.category(wrong), "a control character"))
        text = shortened(text, 200)
        raise UserError(
            f"The prompt {text!r} contains {name} (U+{ord(wrong):04X}), which cannot be printed; write it as one line "
            "of text."
        )
    return Prompt(slug(text) or "prompt", text, shape_text or text)
