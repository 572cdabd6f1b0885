"""Objects of the synthetic world as rows of numbers: object builder, registry of types, tight fit to the unit ball.

A scene is a table of primitives, one row of `PRIM` floats each. `raytrace.py` renders exactly these rows, so the same
table gives images, ground-truth views and surface points. The types are defined in the `objects_*.py` files.

World: right-handed, z up, centred at the origin, bounding radius 1. Objects with a front face +x.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# One row: 0 kind | 1-3 position | 4-12 rotation, world to local, by rows | 13-15 sizes | 16 rounding
# | 17-19 colour | 20-22 pattern colour | 23 pattern | 24 pattern frequency | 25 gloss | 26 bounding radius.
PRIM = 27
POSITION, ROTATION, SIZES, COLOR, SECOND = slice(1, 4), slice(4, 13), slice(13, 16), slice(17, 20), slice(20, 23)
ROUNDING, PATTERN, FREQUENCY, GLOSS, BOUND = 16, 23, 24, 25, 26

# Kinds of primitive and the meaning of their three sizes (half lengths unless noted otherwise; local axes x, y, z).
ELLIPSOID = 0  # radii
BOX = 1  # half edges, edges rounded inwards
CONE = 2  # half height, radius at -z, radius at +z: cylinders, cones and frustums
TORUS = 3  # ring radius, tube radius; around z
CAPSULE = 4  # half length of the axis, radius; along z
PYRAMID = 5  # half base, half height
STAR = 6  # five tips in (y, z): tip radius, inner ratio, half thickness along x
TUBE = 7  # open cylinder: radius, half thickness of the wall, half height
DOME = 8  # upper half of an ellipsoid: radii
PRISM = 9  # gable roof along x: half length, half width of the base, whole height
HEART = 10  # heart in (y, z): size, unused, half thickness along x

SOLID, STRIPED, CHECKERED, DOTTED = 0, 1, 2, 3

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "orange": (0.96, 0.5, 0.06),
    "yellow": (0.95, 0.85, 0.1),
    "green": (0.1, 0.62, 0.16),
    "blue": (0.1, 0.22, 0.85),
    "purple": (0.5, 0.12, 0.68),
    "pink": (0.97, 0.48, 0.7),
    "brown": (0.42, 0.24, 0.1),
    "black": (0.07, 0.07, 0.08),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.5, 0.5, 0.52),
    "cyan": (0.1, 0.8, 0.86),
    "golden": (0.86, 0.66, 0.18),
    "silver": (0.72, 0.74, 0.78),
}
METALS = {"golden": 0.6, "silver": 0.6}
MATT_GLOSS = 0.12
GLASS = (0.15, 0.2, 0.28)
WINDOW = (0.55, 0.8, 0.95)

Paint = str | tuple[float, float, float]
Vector = tuple[float, float, float]


@functools.cache
def turned(x_degrees: float = 0, y_degrees: float = 0, z_degrees: float = 0) -> np.ndarray:
    """Rotation local to world [3, 3]: first about x, then y, then z. The array is cached: do not modify it."""
    a, b, c = math.radians(x_degrees), math.radians(y_degrees), math.radians(z_degrees)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


ALONG_X, ALONG_Y, UPRIGHT = turned(0, 90, 0), turned(-90, 0, 0), turned()


class ObjectBuilder:
    """Collects the primitives of one object. `patterned=True` marks the part that has the scene's pattern."""

    def __init__(self, rng: np.random.Generator, pattern: tuple[int, str, float] | None = None):
        self.rng, self.pattern = rng, pattern
        self.rows: list[np.ndarray] = []

    def add(
        self,
        kind: int,
        at: Vector,
        sizes: Sequence[float],
        paint: Paint,
        turn: np.ndarray = UPRIGHT,
        rounding: float = 0.0,
        patterned: bool = False,
    ) -> None:
        row = np.zeros(PRIM)
        row[0], row[POSITION], row[ROTATION] = kind, at, turn.T.ravel()
        row[13 : 13 + len(sizes)] = sizes
        row[ROUNDING] = rounding
        row[COLOR] = row[SECOND] = COLORS[paint] if isinstance(paint, str) else paint
        row[FREQUENCY] = 4.0
        row[GLOSS] = METALS.get(paint, MATT_GLOSS) if isinstance(paint, str) else MATT_GLOSS
        if patterned and self.pattern:
            row[PATTERN], row[SECOND], row[FREQUENCY] = self.pattern[0], COLORS[self.pattern[1]], self.pattern[2]
        self.rows.append(row)

    def ball(self, at: Vector, radius: float, paint: Paint, **options: Any) -> None:
        self.add(ELLIPSOID, at, (radius, radius, radius), paint, **options)

    def blob(self, at: Vector, radii: Vector, paint: Paint, turn: np.ndarray = UPRIGHT, **options: Any) -> None:
        self.add(ELLIPSOID, at, radii, paint, turn, **options)

    def box(
        self,
        at: Vector,
        half_edges: Vector,
        paint: Paint,
        turn: np.ndarray = UPRIGHT,
        rounding: float = 0.02,
        **options: Any,
    ) -> None:
        self.add(BOX, at, half_edges, paint, turn, min(rounding, 0.45 * min(half_edges)), **options)

    def cone(
        self,
        at: Vector,
        half_height: float,
        bottom: float,
        top: float,
        paint: Paint,
        turn: np.ndarray = UPRIGHT,
        rounding: float = 0.01,
        **options: Any,
    ) -> None:
        rounding = min(rounding, 0.4 * half_height, 0.4 * max(min(bottom, top), 1e-3))
        self.add(CONE, at, (half_height, bottom, top), paint, turn, rounding, **options)

    def torus(self, at: Vector, radius: float, thickness: float, paint: Paint, turn: np.ndarray = UPRIGHT) -> None:
        self.add(TORUS, at, (radius, thickness), paint, turn)

    def rod(self, at: Vector, half_length: float, radius: float, paint: Paint, turn: np.ndarray = UPRIGHT) -> None:
        self.add(CAPSULE, at, (half_length, radius), paint, turn)

    def pyramid(self, at: Vector, half_base: float, half_height: float, paint: Paint, **options: Any) -> None:
        self.add(PYRAMID, at, (half_base, half_height), paint, **options)

    def star(self, at: Vector, radius: float, inner_ratio: float, half_thickness: float, paint: Paint) -> None:
        self.add(STAR, at, (radius, inner_ratio, half_thickness), paint, rounding=0.02)

    def tube(
        self, at: Vector, radius: float, half_wall: float, half_height: float, paint: Paint, **options: Any
    ) -> None:
        self.add(TUBE, at, (radius, half_wall, half_height), paint, rounding=0.01, **options)

    def dome(self, at: Vector, radii: Vector, paint: Paint, turn: np.ndarray = UPRIGHT, **options: Any) -> None:
        self.add(DOME, at, radii, paint, turn, **options)

    def prism(
        self, at: Vector, half_length: float, half_width: float, height: float, paint: Paint, turn: np.ndarray = UPRIGHT
    ) -> None:
        self.add(PRISM, at, (half_length, half_width, height), paint, turn)

    def heart(self, at: Vector, size: float, half_thickness: float, paint: Paint) -> None:
        self.add(HEART, at, (size, 0.0, half_thickness), paint, rounding=0.02)

    def eyes(self, x: float, y: float, z: float, radius: float = 0.07, paint: Paint = "black") -> None:
        """A pair of balls, mirrored in the plane y = 0."""
        for side in (1, -1):
            self.ball((x, side * y, z), radius, paint)


Vary = Callable[[float, float], float]
Build = Callable[[ObjectBuilder, Paint, Paint, Vary], None]


@dataclass(frozen=True)
class ObjectType:
    """A type of object: its builder, its nouns (the first is its name) and its colours."""

    build: Build
    nouns: tuple[str, ...]
    colors: tuple[str, ...]
    part: str | None  # the part that has the second colour, as in "roof"
    part_color: str | None  # its colour if the caption names none; None: the main colour
    has_front: bool  # front and back differ
    can_have_pattern: bool
    solid: bool  # a plain geometric solid: used on top of and below other objects


REGISTRY: dict[str, ObjectType] = {}
ALL_COLORS = tuple(COLORS)


def object_type(
    *nouns: str,
    part: str | None = None,
    part_color: str | None = None,
    colors: Sequence[str] = ALL_COLORS,
    front: bool = False,
    pattern: bool = False,
    solid: bool = False,
) -> Callable[[Build], Build]:
    """Register the decorated function `(builder, paint, trim, vary)`; `vary(low, high)` draws a proportion."""

    def register(build: Build) -> Build:
        REGISTRY[nouns[0]] = ObjectType(build, nouns, tuple(colors), part, part_color, front, pattern, solid)
        return build

    return register


def around(count: int, start_degrees: float = 0.0) -> list[tuple[float, float]]:
    """Pairs (cos, sin) of `count` evenly spread angles."""
    angles = [math.radians(start_degrees) + 2 * math.pi * k / count for k in range(count)]
    return [(math.cos(a), math.sin(a)) for a in angles]


# ---- tight fit ------------------------------------------------------------------------------------------------------


def _sphere_points(rings: int = 9, sectors: int = 16) -> np.ndarray:
    polar, turn = np.linspace(0, np.pi, rings), np.arange(sectors) * 2 * np.pi / sectors
    xy = np.sin(polar)[:, None, None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    z = np.broadcast_to(np.cos(polar)[:, None, None], (rings, sectors, 1))
    return np.concatenate([xy, z], -1).reshape(-1, 3)


def _ring_points(sectors: int = 24) -> np.ndarray:
    turn = np.arange(sectors) * 2 * np.pi / sectors
    return np.stack([np.cos(turn), np.sin(turn), np.zeros(sectors)], -1)


_SPHERE, _RING = _sphere_points(), _ring_points()
_UPPER = _SPHERE[_SPHERE[:, 2] > -1e-9]
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_UP = np.array([0.0, 0.0, 1.0])
_TIPS = np.array([[0, c, s] for c, s in around(5, 90)])
_LOBES = [[0, 0.25 * s + 0.354 * c, 0.25 + 0.354 * d] for s in (1, -1) for c, d in around(12)]
_HEART = np.array([[0, 0, -0.5], *_LOBES])


def hull(row: np.ndarray) -> np.ndarray:
    """Points [n, 3] on one primitive in world coordinates; their convex hull equals the primitive's within 1 %."""
    kind, (a, b, c), rounding = int(row[0]), row[SIZES], row[ROUNDING]
    if kind == ELLIPSOID:
        local = _SPHERE * (a, b, c)
    elif kind == BOX:
        local = _CORNERS * ((a, b, c) - rounding * (1 - 3**-0.5))
    elif kind == CONE:
        local = np.concatenate([_RING * b - a * _UP, _RING * c + a * _UP])
    elif kind == TORUS:
        local = np.concatenate([_RING * (a + b * x) + b * z * _UP for x, z in around(8)])
    elif kind == CAPSULE:
        local = np.concatenate([_SPHERE * b - a * _UP, _SPHERE * b + a * _UP])
    elif kind == PYRAMID:
        local = np.concatenate([_CORNERS[::2] * (a, a, b), [b * _UP]])
    elif kind == STAR:
        local = np.concatenate([_TIPS * (a + rounding) + [x * (c + rounding), 0, 0] for x in (-1, 1)])
    elif kind == TUBE:
        local = np.concatenate([_RING * (a + b + rounding) + z * (c + rounding) * _UP for z in (-1, 1)])
    elif kind == DOME:
        local = _UPPER * (a, b, c)
    elif kind == PRISM:
        local = np.array(
            [[x * a, y * b, -c / 2] for x in (-1, 1) for y in (-1, 1)] + [[x * a, 0, c / 2] for x in (-1, 1)]
        )
    else:
        local = np.concatenate([_HEART * (a + rounding) + [x * (c + rounding), 0, 0] for x in (-1, 1)])
    return local @ row[ROTATION].reshape(3, 3) + row[POSITION]


def bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of the bounding box of all primitives."""
    points = np.concatenate([hull(row) for row in rows])
    return points.min(0), points.max(0)


def moved(rows: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    """The object translated and scaled: x -> (x - centre) * scale."""
    rows = rows.copy()
    rows[:, POSITION] = (rows[:, POSITION] - centre) * scale
    inner_ratio = rows[:, 14].copy()
    rows[:, SIZES] *= scale
    rows[:, 14] = np.where(rows[:, 0] == STAR, inner_ratio, rows[:, 14])  # a ratio is not a length
    rows[:, [ROUNDING, BOUND]] *= scale
    rows[:, FREQUENCY] /= scale
    return rows


def fitted(rows: np.ndarray) -> np.ndarray:
    """Centre the object on its bounding box and scale it so that its farthest point is at distance 1 (a ball fills it).

    Scaling by the diagonal of the box would make round objects small in their images.
    """
    clouds = [hull(row) for row in rows]
    points = np.concatenate(clouds)
    centre = (points.min(0) + points.max(0)) / 2
    rows = rows.copy()
    rows[:, BOUND] = [
        np.sqrt(((cloud - row[POSITION]) ** 2).sum(1).max()) * 1.01 + 0.004
        for cloud, row in zip(clouds, rows, strict=True)
    ]
    radius = math.sqrt(((points - centre) ** 2).sum(1).max())
    return moved(rows, centre, 1 / (1.015 * radius))  # 1.5 %: `hull` can miss this much between its points
