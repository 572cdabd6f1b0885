"""The synthetic world: its scenes and the phrases that describe them. `views.py` has its cameras and captions.

Everything is drawn from one `numpy.random.Generator`, so a seed defines a data set. A tenth of the (type, colour) pairs
is permanently held out: `held_out` hashes the words, so the split needs no file and never changes. Held-out pairs occur
in no training scene, neither alone nor in a relation. They test whether the models generalise to new combinations.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Imported for registration: each file adds its types to REGISTRY, in this order.
from pipeline.embedded import objects_animals, objects_basic, objects_household, objects_vehicles  # noqa: F401
from pipeline.embedded.objects import (
    ALL_COLORS,
    CHECKERED,
    COLOR,
    COLORS,
    DOTTED,
    POSITION,
    REGISTRY,
    SECOND,
    SOLID,
    STRIPED,
    ObjectBuilder,
    bounds,
    fitted,
    moved,
)
from pipeline.embedded.views import (
    VIEW_WORDS,
    WorldCameras,
    caption,
    orbit_cameras,
    pick,
    random_cameras,
    view_word,
)

__all__ = [
    "BASES",
    "COLORS",
    "HELD_OUT",
    "REGISTRY",
    "RELATIONS",
    "TOPS",
    "TYPES",
    "VIEW_WORDS",
    "Key",
    "Scene",
    "WorldCameras",
    "caption",
    "classes",
    "has_front",
    "held_out",
    "noun",
    "orbit_cameras",
    "pair",
    "parse",
    "phrase",
    "random_cameras",
    "random_scene",
    "scene_of",
    "single",
    "table",
    "view_word",
]

TYPES: list[str] = list(REGISTRY)
PATTERNS = {"": SOLID, "striped": STRIPED, "checkered": CHECKERED, "polka dot": DOTTED}
PATTERN_COLORS = ("white", "black", "yellow", "red", "blue", "green", "pink")
SOLIDS = [name for name in TYPES if REGISTRY[name].solid]
TOPS = [
    *SOLIDS, "mushroom", "mug", "apple", "duck", "robot head", "top hat", "crown", "vase", "donut", "pumpkin",
    "gift box", "dice", "car", "hamburger", "teddy bear", "cactus", "penguin", "cat", "owl", "frog", "rabbit",
]  # fmt: skip
BASES = ["cube", "cylinder", "table", "stool", "gift box", "barrel", "anvil", "birthday cake", "castle tower", "dice"]
RELATIONS = ("on", "next to")

Key = tuple[str, ...]


def classes() -> list[tuple[str, str]]:
    """All (type, colour) pairs, held-out ones included."""
    return [(name, color) for name in TYPES for color in REGISTRY[name].colors]


def held_out(name: str, color: str) -> bool:
    """Whether this pair is held out: MD5 of "type/colour" divisible by ten, and the type has at least five colours."""
    digest = hashlib.md5(f"{name}/{color}".encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 10 == 0 and len(REGISTRY[name].colors) >= 5


HELD_OUT = frozenset(pair for pair in classes() if held_out(*pair))
_TRAINING_COLORS = {name: [c for c in REGISTRY[name].colors if (name, c) not in HELD_OUT] for name in TYPES}


def has_front(name: str) -> bool:
    """Whether front (+x) and back of this type differ."""
    return REGISTRY[name].has_front


def noun(name: str) -> str:
    """The first noun of the type, which is its name."""
    return REGISTRY[name].nouns[0]


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" and not words.startswith("ufo") else "a ") + words


def phrase(name: str, color: str) -> str:
    """("cube", "red") -> "a red cube"."""
    return with_article(f"{color} {noun(name)}")


# ---- scenes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scene:
    """Rows of primitives [n, PRIM] float32 within the unit ball, their phrase, and its key.

    Keys: (type, colour, second colour, pattern), with "" for what the phrase does not mention. For two objects: the
    relation, then both keys. Scenes with equal keys have the same phrase up to synonyms.
    """

    rows: np.ndarray
    phrase: str
    key: Key


def single(
    rng: np.random.Generator,
    name: str,
    color: str,
    second: str = "",
    pattern: str = "",
    *,
    noun: str | None = None,
    name_color: bool = True,
    name_second: bool = True,
) -> Scene:
    """One object with random proportions and shade. `second` is the colour of the pattern if any, else of the part.

    `noun` is a synonym used instead of the name. Raises ValueError if this type has no such part or pattern.
    """
    kind = REGISTRY[name]
    if pattern and not kind.can_have_pattern:
        raise ValueError(
            f"a {name} cannot have a pattern; types that can: {[n for n in TYPES if REGISTRY[n].can_have_pattern]}"
        )
    if second and not pattern and kind.part is None:
        raise ValueError(f"a {name} has no part of a second colour; leave `second` empty")
    name_second = name_second and bool(second)
    if pattern and not second:
        second, name_second = pick(rng, [c for c in PATTERN_COLORS if c != color]), False
    builder = ObjectBuilder(rng, (PATTERNS[pattern], second, float(rng.uniform(3, 5))) if pattern else None)
    trim = (second if not pattern else "") or kind.part_color or color
    kind.build(builder, color, trim, rng.uniform)
    rows = fitted(np.stack(builder.rows))
    gain, shift = rng.uniform(0.9, 1.08), rng.normal(0, 0.025, 3)  # a random shade, the same on all parts
    for paint in (COLOR, SECOND):
        rows[:, paint] = np.clip(rows[:, paint] * gain + shift, 0, 1)
    named_color, named_second = color if name_color else "", second if name_second else ""
    words = _describe(noun or kind.nouns[0], kind.part, named_color, named_second, pattern)
    return Scene(rows.astype(np.float32), with_article(words), (name, named_color, named_second, pattern))


def _describe(noun: str, part: str | None, color: str, second: str, pattern: str) -> str:
    if pattern and second:
        if pattern == "polka dot":
            return f"{color} {noun} with {second} dots".strip()
        return f"{color} and {second} {pattern} {noun}" if color else f"{pattern} {noun}"
    words = " ".join(word for word in (color, pattern, noun) if word)
    if not second or part is None:
        return words
    plural = part.endswith("s") or part == "frosting"
    return f"{words} with {second} {part}" if plural else f"{words} with {with_article(f'{second} {part}')}"


def pair(
    rng: np.random.Generator, name_a: str, color_a: str, relation: str, name_b: str, color_b: str, *, words: str = ""
) -> Scene:
    """Two objects, a "on" or "next to" b. `words` can give the relation in other words ("on top of")."""
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}; expected one of {RELATIONS}")
    a, b = single(rng, name_a, color_a), single(rng, name_b, color_b)
    scale = rng.uniform(0.6, 0.85) if relation == "on" else rng.uniform(0.8, 1.1)
    rows = moved(a.rows.astype(np.float64), np.zeros(3), scale)
    low_a, (low_b, high_b) = bounds(rows)[0], bounds(b.rows)
    if relation == "on":
        rows[:, POSITION] += (0, 0, high_b[2] - low_a[2] - 0.01)
    else:
        rows[:, POSITION] += (0, high_b[1] - low_a[1] + 0.08, low_b[2] - low_a[2])
    rows = fitted(np.concatenate([rows, b.rows])).astype(np.float32)
    return Scene(rows, f"{a.phrase} {words or relation} {b.phrase}", (relation, *a.key, *b.key))


def random_scene(rng: np.random.Generator, *, heldout: bool = False, type: str | None = None) -> Scene:
    """A training scene; a quarter of them have two objects. `type` requests one object of that type.

    `heldout=True` draws single objects of held-out pairs only and always names their colour; otherwise none is drawn.
    """
    if heldout:
        candidates = sorted(p for p in HELD_OUT if type in (None, p[0]))
        if not candidates:
            raise ValueError(f"no colour of {type!r} is held out; types with one: {sorted({n for n, _ in HELD_OUT})}")
        return _random_single(rng, *candidates[int(rng.integers(len(candidates)))], unnamed_probability=0.0)
    if type is None and rng.random() < 0.25:
        relation = RELATIONS[int(rng.random() < 0.35)]
        name_a = pick(rng, TOPS)
        name_b = pick(rng, [n for n in (BASES if relation == "on" else TOPS) if n != name_a])
        color_a, color_b = pick(rng, _TRAINING_COLORS[name_a]), pick(rng, _TRAINING_COLORS[name_b])
        words = "on top of" if relation == "on" and rng.random() < 0.3 else relation
        return pair(rng, name_a, color_a, relation, name_b, color_b, words=words)
    name = type or pick(rng, TYPES)
    return _random_single(rng, name, pick(rng, _TRAINING_COLORS[name]), unnamed_probability=0.1)


def _random_single(rng: np.random.Generator, name: str, color: str, unnamed_probability: float) -> Scene:
    """An object with random second colour, pattern and synonym. `unnamed_probability`: that no colour is named."""
    kind = REGISTRY[name]
    second, pattern, name_second = "", "", True
    if kind.can_have_pattern and rng.random() < 0.25:
        pattern = pick(rng, list(PATTERNS)[1:])
        second, name_second = pick(rng, [c for c in PATTERN_COLORS if c != color]), bool(rng.random() < 0.6)
    elif kind.part and rng.random() < 0.4:
        second = pick(rng, [c for c in ALL_COLORS if c != color])
    name_color = bool(pattern) or rng.random() >= (
        0.5 if unnamed_probability and len(kind.colors) == 1 else unnamed_probability
    )
    synonym = pick(rng, kind.nouns) if rng.random() < 0.4 else None
    return single(rng, name, color, second, pattern, noun=synonym, name_color=name_color, name_second=name_second)


def table(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The renderer's input: all rows [P, PRIM] float32, and each scene's start and count, int32 [S]."""
    counts = np.array([len(scene.rows) for scene in scenes], np.int32)
    starts = (np.cumsum(counts) - counts).astype(np.int32)
    return np.concatenate([scene.rows for scene in scenes]), starts, counts


# ---- from phrases to scenes ----------------------------------------------------------------------------------------

_NOUNS = {word: name for name in TYPES for word in REGISTRY[name].nouns}
_ONE = re.compile(
    r"an? (?:(?P<color>{c}) )?(?:and (?P<mixed>{c}) )?(?:(?P<pattern>{p}) )?(?P<noun>{n})"
    r"(?: with (?:an? )?(?P<second>{c}) (?P<part>[a-z]+))?".format(
        c="|".join(ALL_COLORS), p="|".join(list(PATTERNS)[1:]), n="|".join(sorted(_NOUNS, key=len, reverse=True))
    )
)


def parse(words: str) -> Key:
    """The key of a phrase of this world. Raises ValueError for a phrase that does not follow its grammar."""
    for relation, spelled in (("on", " on top of "), ("on", " on "), ("next to", " next to ")):
        if spelled in words:
            first, second = words.split(spelled, 1)
            return (relation, *parse(first), *parse(second))
    match = _ONE.fullmatch(words)
    if match is None:
        raise ValueError(f"not a phrase of the synthetic world: {words!r}; expected for example 'a red mushroom'")
    name = _NOUNS[match["noun"]]
    part, pattern = match["part"], match["pattern"] or ""
    if part == "dots":
        pattern = "polka dot"
    elif part and part != REGISTRY[name].part:
        raise ValueError(
            f"{words!r}: a {name} has no {part}; the part with the second colour is: {REGISTRY[name].part}"
        )
    return (name, match["color"] or "", match["mixed"] or match["second"] or "", pattern)


def scene_of(rng: np.random.Generator, words: str) -> Scene:
    """A scene for a phrase; colours that it does not name are drawn at random."""
    key = parse(words)
    if key[0] in RELATIONS:
        relation, name_a, color_a, _, _, name_b, color_b, *_ = key
        return pair(rng, name_a, color_a, relation, name_b, color_b)
    name, color, second, pattern = key
    return single(rng, name, color or pick(rng, _TRAINING_COLORS[name]), second, pattern, name_color=bool(color))
