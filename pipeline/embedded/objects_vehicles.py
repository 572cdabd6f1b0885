"""Vehicles and buildings of the synthetic world; their bonnet, door or bow faces +x."""

from collections.abc import Sequence

from pipeline.embedded.objects import (
    ALONG_X,
    ALONG_Y,
    GLASS,
    WINDOW,
    ObjectBuilder,
    Paint,
    Vary,
    around,
    object_type,
    turned,
)

LAMP, TAIL_LAMP, RUBBER = (1.0, 0.95, 0.6), (0.7, 0.05, 0.05), (0.06, 0.06, 0.07)


def wheels(
    s: ObjectBuilder,
    xs: Sequence[float],
    y: float,
    z: float,
    radius: float,
    half_width: float,
    hub: Paint = "silver",
) -> None:
    """A pair of wheels at each x, with hubs that protrude slightly."""
    for x in xs:
        for side in (1, -1):
            s.cone((x, side * y, z), half_width, radius, radius, RUBBER, ALONG_Y)
            s.cone((x, side * (y + 0.03), z), half_width, 0.5 * radius, 0.5 * radius, hub, ALONG_Y)


def lamps(s: ObjectBuilder, front_x: float, back_x: float, y: float, z: float, radius: float = 0.07) -> None:
    """Pale lamps in front and red ones behind, so that the two ends of a vehicle differ."""
    for side in (1, -1):
        s.ball((front_x, side * y, z), radius, LAMP)
        s.ball((back_x, side * y, z), radius * 0.8, TAIL_LAMP)


@object_type("car", part="roof", front=True)
def car(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.9, 0.42, 0.19), paint, rounding=0.1)
    s.box((-0.16, 0, 0.33), (0.4, 0.35, 0.1), GLASS, rounding=0.03)
    s.box((-0.18, 0, 0.46), (0.4, 0.35, 0.05), trim, rounding=0.04)
    s.box((0.31, 0, 0.3), (0.02, 0.33, 0.2), GLASS, turned(0, -35))
    s.box((-0.6, 0, 0.3), (0.02, 0.33, 0.18), GLASS, turned(0, 25))
    for side in (1, -1):
        s.box((-0.16, side * 0.335, 0.33), (0.035, 0.025, 0.14), trim)
    s.box((0.88, 0, -0.05), (0.03, 0.2, 0.06), "silver")
    wheels(s, (-0.55, 0.55), 0.38, -0.18, 0.22, 0.08)
    lamps(s, 0.88, -0.88, 0.3, 0.05, 0.08)


@object_type("truck", part="cargo", part_color="white", front=True)
def truck(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0.65, 0, 0.1), (0.28, 0.4, 0.38), paint, rounding=0.06)
    s.box((-0.3, 0, 0.2), (0.62, 0.42, 0.48), trim, rounding=0.03)
    s.box((0.8, 0, 0.26), (0.14, 0.33, 0.14), GLASS)
    s.box((0.68, 0, 0.26), (0.12, 0.41, 0.12), GLASS)
    s.box((0.92, 0, -0.2), (0.03, 0.38, 0.06), "silver")
    wheels(s, (-0.6, 0.0, 0.65), 0.37, -0.32, 0.2, 0.08)
    lamps(s, 0.93, -0.92, 0.28, -0.08)


@object_type("bus", colors=("red", "yellow", "blue", "green", "white", "orange", "purple", "pink"), front=True)
def bus(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0.1), (0.95, 0.36, 0.38), paint, rounding=0.08)
    for x in (-0.68, -0.34, 0.0, 0.34):
        s.box((x, 0, 0.24), (0.14, 0.37, 0.12), GLASS)
    s.box((0.72, 0, 0.2), (0.24, 0.31, 0.2), GLASS)
    s.box((0.68, 0, 0.1), (0.1, 0.37, 0.3), GLASS)
    wheels(s, (-0.6, 0.45), 0.32, -0.3, 0.18, 0.07)
    lamps(s, 0.94, -0.94, 0.25, -0.14)


@object_type("train", "locomotive", part="cab", front=True)
def train(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0.25, 0, 0.12), 0.55, 0.28, 0.28, paint, ALONG_X)
    s.cone((0.8, 0, 0.12), 0.03, 0.22, 0.22, "black", ALONG_X)
    s.ball((0.83, 0, 0.12), 0.09, LAMP)
    s.box((-0.5, 0, 0.25), (0.28, 0.36, 0.42), trim)
    s.box((-0.5, 0, 0.36), (0.16, 0.37, 0.15), GLASS)
    s.cone((0.55, 0, 0.5), 0.15, 0.08, 0.13, "black")
    s.box((0, 0, -0.2), (0.85, 0.33, 0.07), "black")
    s.prism((0.84, 0, -0.3), 0.33, 0.16, 0.2, TAIL_LAMP, turned(0, 0, 90))
    wheels(s, (-0.55, -0.1, 0.3, 0.66), 0.32, -0.3, 0.18, 0.05, hub="gray")


@object_type("rocket", part="fins", part_color="red")
def rocket(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.05), 0.5, 0.24, 0.24, paint)
    s.blob((0, 0, 0.45), (0.24, 0.24, 0.45), trim)
    s.blob((0.22, 0, 0.2), (0.06, 0.11, 0.11), WINDOW)
    s.cone((0, 0, -0.62), 0.1, 0.2, 0.12, "black")
    for k, (x, y) in enumerate(around(4)):
        s.box((0.34 * x, 0.34 * y, -0.42), (0.18, 0.03, 0.2), trim, turned(0, 0, 90 * k))


@object_type("airplane", "plane", part="wings", front=True)
def airplane(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, 0), (0.9, 0.2, 0.2), paint)
    s.box((0.05, 0, 0), (0.2, 0.95, 0.035), trim)
    s.box((-0.75, 0, 0.05), (0.12, 0.38, 0.03), trim)
    s.box((-0.78, 0, 0.22), (0.12, 0.03, 0.2), trim)
    s.blob((0.5, 0, 0.12), (0.2, 0.12, 0.12), GLASS)
    s.ball((0.88, 0, 0), 0.06, "black")
    s.box((0.92, 0, 0), (0.015, 0.035, 0.26), "gray", turned(30))


@object_type("boat", "sailboat", part="sail", part_color="white")
def boat(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.dome((0, 0, -0.2), (0.85, 0.36, 0.36), paint, turned(180))
    s.rod((0, 0, 0.3), 0.5, 0.035, "brown")
    s.prism((-0.25, 0, 0.32), 0.025, 0.4, 0.85, trim, turned(0, 0, 90))
    s.box((0, 0, -0.2), (0.66, 0.24, 0.02), "brown")


@object_type("submarine", colors=("yellow", "gray", "red", "blue", "black", "green"), front=True)
def submarine(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, -0.1), (0.9, 0.33, 0.33), paint)
    s.cone((0, 0, 0.25), 0.17, 0.2, 0.17, paint)
    s.rod((0, 0, 0.5), 0.15, 0.035, paint)
    s.rod((0.08, 0, 0.64), 0.07, 0.035, paint, ALONG_X)
    s.torus((-0.92, 0, -0.1), 0.14, 0.04, "gray", ALONG_X)
    s.box((-0.92, 0, -0.1), (0.02, 0.13, 0.03), "gray")
    s.blob((0.74, 0, -0.02), (0.14, 0.15, 0.15), WINDOW)
    for x in (-0.2, 0.15, 0.5):
        s.cone((x, 0, -0.02), 0.34 if x < 0.4 else 0.285, 0.075, 0.075, WINDOW, ALONG_Y)


@object_type(
    "ufo",
    "flying saucer",
    part="dome",
    part_color="cyan",
    colors=("gray", "silver", "green", "purple", "golden", "red"),
)
def ufo(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, 0), (0.8, 0.8, 0.2), paint)
    s.dome((0, 0, 0.1), (0.36, 0.36, 0.38), trim)
    for x, y in around(8):
        s.ball((0.62 * x, 0.62 * y, 0.07), 0.07, "yellow")


@object_type("house", part="roof", part_color="red", front=True)
def house(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, -0.2), (0.55, 0.6, 0.4), paint)
    s.prism((0, 0, 0.42), 0.62, 0.72, 0.5 * vary(0.9, 1.2), trim)
    s.box((0.55, 0, -0.34), (0.03, 0.14, 0.26), "brown" if paint != "brown" else "white")
    s.ball((0.58, 0.09, -0.34), 0.025, "golden")
    for side in (1, -1):
        s.box((0.55, side * 0.37, -0.1), (0.03, 0.13, 0.13), WINDOW)
    s.box((-0.25, 0.35, 0.5), (0.08, 0.08, 0.25), (0.5, 0.2, 0.15))


@object_type("barn", part="roof", part_color="gray", colors=("red", "brown", "white", "blue", "green"), front=True)
def barn(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    frame = "white" if paint != "white" else "brown"
    s.box((0, 0, -0.2), (0.7, 0.5, 0.38), paint)
    s.prism((0, 0, 0.4), 0.76, 0.6, 0.5, trim)
    s.prism((0.04, 0, 0.4), 0.74, 0.46, 0.4, paint)
    s.box((0.7, 0, -0.24), (0.03, 0.28, 0.32), frame)
    s.box((0.715, 0, -0.24), (0.03, 0.22, 0.27), paint)
    for slope in (40, -40):
        s.box((0.72, 0, -0.24), (0.03, 0.025, 0.33), frame, turned(slope))
    s.box((0.78, 0, 0.33), (0.02, 0.1, 0.1), frame)


@object_type("birdhouse", "bird house", part="roof", part_color="brown", front=True)
def birdhouse(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0.05), (0.35, 0.38, 0.38), paint)
    s.prism((0, 0, 0.55), 0.45, 0.52, 0.3, trim)
    s.cone((0.34, 0, 0.12), 0.03, 0.15, 0.15, "black" if paint != "black" else "yellow", ALONG_X)
    s.rod((0.42, 0, -0.14), 0.1, 0.035, "brown", ALONG_X)
    s.cone((0, 0, -0.65), 0.35, 0.06, 0.06, "brown")


@object_type("castle tower", "tower", part="roof", front=True)
def castle_tower(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.2), 0.6, 0.4, 0.36, paint)
    s.cone((0, 0, 0.42), 0.08, 0.46, 0.46, paint)
    s.box((0.39, 0, -0.56), (0.04, 0.14, 0.24), "brown" if paint != "brown" else "black")
    s.box((0.37, 0, 0.08), (0.04, 0.07, 0.15), "black" if paint != "black" else "yellow")
    if trim != paint:
        s.cone((0, 0, 0.85), 0.36, 0.5, 0.02, trim)
    else:
        for k, (x, y) in enumerate(around(8)):
            s.box((0.4 * x, 0.4 * y, 0.57), (0.07, 0.09, 0.09), paint, turned(0, 0, 45 * k))


@object_type("lighthouse", part="stripes", part_color="red", colors=("white", "yellow", "gray", "blue"))
def lighthouse(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    bands = ((-0.62, 0.33, 0.3, paint), (-0.3, 0.295, 0.265, trim), (0.02, 0.26, 0.235, paint), (0.34, 0.23, 0.2, trim))
    for z, bottom, top, band in bands:
        s.cone((0, 0, z), 0.16, bottom, top, band)
    s.cone((0, 0, 0.52), 0.03, 0.3, 0.3, "black")
    s.cone((0, 0, 0.66), 0.13, 0.14, 0.14, "yellow")
    s.cone((0, 0, 0.88), 0.1, 0.22, 0.02, trim)


@object_type(
    "windmill",
    part="blades",
    part_color="white",
    colors=("red", "brown", "gray", "blue", "yellow", "white"),
    front=True,
)
def windmill(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.3), 0.6, 0.38, 0.24, paint)
    s.cone((0, 0, 0.42), 0.16, 0.3, 0.02, (0.35, 0.2, 0.12))
    s.ball((0.33, 0, 0.3), 0.07, "black")
    s.box((0.37, 0, -0.7), (0.04, 0.1, 0.2), "brown" if paint != "brown" else "black")
    for k, (y, z) in enumerate(around(4, 45)):
        s.box((0.36, 0.36 * y, 0.3 + 0.36 * z), (0.02, 0.32, 0.09), trim, turned(45 + 90 * k))
