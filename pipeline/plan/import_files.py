"""The files of an import: which file of a folder is for which prompt, and the digests of the files."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError, nearest, shortened
from pipeline.plan.imports import Entry, ImportJob, Source
from pipeline.prompts import bundled, slug, suite
from pipeline.prompts import prompts as prompts_of
from pipeline.prompts.prompt import Prompt

SPLATS = ".splat", ".spz", ".sog", ".usda", ".usdc", ".usdz"
MESHES = ".gltf", ".obj", ".stl", ".off"
SUFFIXES = (".ply", ".glb", *SPLATS, *MESHES)  # the first two may be either
IMAGES, IMAGE_FOLDER = (".png", ".jpg", ".jpeg", ".webp"), "images"
BESIDE = ".mtl", ".bin", ".tga", ".bmp", *IMAGES  # files that a mesh may refer to
LISTED, HEADER_BYTES = 5, 4096


class Matched(NamedTuple):
    """The files of a folder by prompt, and sentences about what is left out."""

    entries: list[tuple[Prompt, Entry]]
    notes: list[str]


def jobs_of(source: Source, matched: Matched, size: int, seed: int, scorer: str | None) -> list[ImportJob]:
    """The jobs of a folder. Reads every file once, for its digest."""
    return [
        ImportJob(prompt, source.method, entry, digest_of(entry), source.placing, size, seed, scorer)
        for prompt, entry in matched.entries
    ]


def digest_of(entry: Entry) -> str:
    """SHA-256 of a file, of a mesh with all files beside it that it may refer to, or of the views of a folder."""
    if entry.path is None:
        return f"missing {entry.name}"
    if entry.path.is_dir():
        paths = views_in(entry.path)
    elif _refers_to_files(entry.path):
        paths = [entry.path, *(p for p in sorted(entry.path.parent.iterdir()) if p.suffix.lower() in BESIDE)]
    else:
        return _sha256(entry.path)
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.name} {_sha256(path)}\n".encode())
    return whole.hexdigest()


def _refers_to_files(path: Path) -> bool:
    if path.suffix.lower() != ".ply":
        return path.suffix.lower() in (".obj", ".gltf")
    with open(path, "rb") as file:
        return b"TextureFile" in file.read(HEADER_BYTES)


def match(source: Source, known: Sequence[Prompt] | None) -> Matched:
    """The files of a folder by prompt: by a table of files, or by names that are the prompts' ids or slugs.

    `known`: the prompts of a run that cannot take others; None in a folder that can. Raises UserError if no file has a
    prompt, or if two have the same.
    """
    if not source.folder.is_dir():
        raise UserError(f"{source.folder} is not a folder; pass the folder of a method's files with --assets.")
    if (rows := _table(source)) is not None:
        return _by_table(source, rows, known)
    names = {prompt.text: prompt for name in bundled() for prompt in suite(name)}.values()
    among = suite(source.prompts) if source.prompts is not None else known if known is not None else list(names)
    found, unmatched = _by_name(source, list(among))
    notes = [f"{_listed(unmatched)} in {source.folder} match no prompt and are left out."] if unmatched else []
    if not found:
        raise UserError(
            f"No file of {source.folder} has a name that matches a prompt ({_listed(unmatched) or 'it has no asset'}); "
            "pass --prompts FILE.csv with columns file and prompt."
        )
    return _kept(source, found, among if source.prompts is not None else known, known, notes)


def views_in(folder: Path) -> list[Path]:
    """The ready-made views of a folder in the order of their names: those in images/, or else in the folder itself."""
    inner = folder / IMAGE_FOLDER
    where = inner if inner.is_dir() else folder
    return sorted(path for path in where.iterdir() if path.suffix.lower() in IMAGES and path.is_file())


def _by_name(source: Source, among: Sequence[Prompt]) -> tuple[list[tuple[Prompt, Entry]], list[str]]:
    """The entries whose name is that of a prompt, and the names of the others."""
    by_name: dict[str, set[Prompt]] = {}
    for prompt in among:
        for name in {prompt.id, file_slug(prompt.text), slug(prompt.text)}:
            by_name.setdefault(name, set()).add(prompt)
    found: list[tuple[Prompt, Entry]] = []
    unmatched = []
    for entry in _entries(source.folder):
        stem = _stem(entry.name)
        prompts = by_name.get(stem) or by_name.get(file_slug(stem)) or set()
        if len(prompts) == 1:
            found.append((next(iter(prompts)), entry))
        else:
            unmatched.append(entry.name)
    return found, unmatched


def _by_table(source: Source, rows: Iterable[tuple[str, str]], known: Sequence[Prompt] | None) -> Matched:
    """The entries of a table. A file that it names and that does not exist stays, and fails when it is imported."""
    files = list(rows)
    prompts = {prompt.text: prompt for prompt in prompts_of(text for _, text in files)}
    found = []
    for file, text in files:
        prompt = prompts[text.partition("|")[0].strip()]
        path = source.folder / file
        if path.is_dir() and not views_in(path):
            path = _only_asset(path) or path
        found.append((prompt, Entry(file, path if path.exists() else None)))
    named = {entry.path for _, entry in found}
    others = [entry.name for entry in _entries(source.folder) if entry.path not in named]
    notes = [f"{_listed(others)} in {source.folder} are not in {source.prompts} and are left out."] if others else []
    if missing := [entry.name for _, entry in found if entry.path is None]:
        hint = nearest(missing[0], others)
        notes.append(f"{_listed(missing)} of {source.prompts} do not exist in {source.folder}{hint}: failed.")
    if shared := [file for file, count in Counter(file for file, _ in files).items() if count > 1]:
        notes.append(f"{_listed(shared)} of {source.prompts} are for several prompts: scored for each.")
    return _kept(source, found, None, known, notes)


def _kept(
    source: Source,
    found: Sequence[tuple[Prompt, Entry]],
    wanted: Sequence[Prompt] | None,
    known: Sequence[Prompt] | None,
    notes: Sequence[str],
) -> Matched:
    """The entries whose prompts are `known`, with the prompts as known. Raises UserError for two files of a prompt."""
    by_text: dict[str, Entry] = {}
    for prompt, entry in found:
        if (other := by_text.setdefault(prompt.text, entry)) is not entry:
            raise UserError(
                f"{source.folder} has two files for {shortened(prompt.text)!r}: {shortened(other.name)} and "
                f"{shortened(entry.name)}; keep one."
            )
    texts = {prompt.text: prompt for prompt in (known if known is not None else (prompt for prompt, _ in found))}
    notes = list(notes)
    if foreign := [entry.name for prompt, entry in found if prompt.text not in texts]:
        notes.append(f"{_listed(foreign)} in {source.folder} are for prompts that the run does not have: left out.")
    kept = [(texts[prompt.text], entry) for prompt, entry in found if prompt.text in texts]
    if not kept:
        raise UserError(
            f"No file of {source.folder} is for a prompt of the run ({_listed([repr(text) for text in texts])}); "
            "choose another --out."
        )
    if missing := [repr(prompt.text) for prompt in wanted or () if prompt.text not in by_text]:
        notes.append(f"{source.method} has no file for {_listed(missing)}: compared over fewer prompts.")
    order = {text: number for number, text in enumerate(texts)}
    return Matched(sorted(kept, key=lambda pair: order[pair[0].text]), notes)


def _table(source: Source) -> list[tuple[str, str]] | None:
    """The rows (file, prompt) of --prompts if it is a table of files. Raises UserError."""
    path = Path(source.prompts or "")
    if source.prompts is None or path.suffix.lower() not in (".csv", ".tsv"):
        return None
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a table with columns file and prompt.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = csv.DictReader(lines, delimiter=max(",\t;", key=lines[0].count) if lines else ",")
        if "file" not in (names := {name.strip().lower(): name for name in rows.fieldnames or ()}):
            return None  # a suite
        if "prompt" not in names:
            raise UserError(f"{path} has a column file and none prompt; expected columns file and prompt.")
        found = [((row[names["file"]] or "").strip(), (row[names["prompt"]] or "").strip()) for row in rows]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path} is not a CSV in UTF-8 ({error}); export it again.") from error
    for file, text in found:
        if not file or not text or Path(file).is_absolute() or ".." in Path(file).parts:
            raise UserError(
                f"{path} has the row {shortened(file)!r}, {shortened(text)!r}; expected a path relative to the folder "
                "of assets, inside it, and a prompt."
            )
    return found


def _entries(folder: Path) -> Iterator[Entry]:
    """The files and folders that can be imported: a folder has ready-made views, or one file and what belongs to it."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if views_in(path):
                yield Entry(path.name, path)
            elif one := _only_asset(path):
                yield Entry(path.name, one)
        elif path.suffix.lower() in SUFFIXES:
            yield Entry(path.name, path)


def _only_asset(folder: Path) -> Path | None:
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return found[0] if len(found) == 1 else None


def file_slug(text: str) -> str:
    """The name that `export` gives to the file of a prompt: letters, digits and hyphens."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "asset"


def _stem(name: str) -> str:
    lower = name.lower()
    ending = next((suffix for suffix in (".compressed.ply", *SUFFIXES) if lower.endswith(suffix)), "")
    return name[: len(name) - len(ending)]


def _listed(names: Sequence[str]) -> str:
    """The first names and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shortened(name) for name in names[:LISTED]) + more


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
