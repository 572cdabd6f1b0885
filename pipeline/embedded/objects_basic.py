"""Solids, food, plants and small objects of the synthetic world. Functions take (builder, paint, trim, vary)."""

import math

from pipeline.embedded.objects import ALONG_X, ALONG_Y, COLORS, ObjectBuilder, Paint, Vary, around, object_type, turned

DOUGH = (0.72, 0.48, 0.24)
CRUST = (0.85, 0.56, 0.24)


@object_type("ball", "sphere", pattern=True, solid=True)
def ball(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.ball((0, 0, 0), 0.7, paint, patterned=True)


@object_type("cube", "box", pattern=True, solid=True)
def cube(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.6, 0.6, 0.6), paint, rounding=0.04, patterned=True)


@object_type("cone", pattern=True, solid=True)
def cone(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.7, 0.55 * vary(0.8, 1.2), 0.02, paint, patterned=True)


@object_type("cylinder", pattern=True, solid=True)
def cylinder(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.65 * vary(0.8, 1.2), 0.45, 0.45, paint, patterned=True)


@object_type("pyramid", pattern=True, solid=True)
def pyramid(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.pyramid((0, 0, 0), 0.65, 0.55 * vary(0.8, 1.2), paint, patterned=True)


@object_type("ring", "torus", pattern=False, solid=True)
def ring(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.torus((0, 0, 0), 0.6, 0.17 * vary(0.85, 1.3), paint)


@object_type("donut", "doughnut", part="frosting", part_color="pink", colors=("brown", "orange", "golden"))
def donut(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.torus((0, 0, 0), 0.55, 0.27, DOUGH if paint == "brown" else paint)
    s.torus((0, 0, 0.06), 0.55, 0.25, trim)
    sprinkles = ("yellow", "blue", "white", "red", "green")
    for k, (x, y) in enumerate(around(13, vary(0, 27))):
        radius = vary(0.42, 0.68)
        s.ball((radius * x, radius * y, 0.285), 0.038, sprinkles[k % 5])


@object_type("capsule", "pill", part="half", part_color="white")
def capsule(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.rod((0, 0, 0.18), 0.25, 0.3, paint)
    s.rod((0, 0, -0.22), 0.22, 0.295, trim)


@object_type("star", solid=True)
def star(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.star((0, 0, 0), 0.75, 0.45, 0.14 * vary(0.8, 1.3), paint)


@object_type("heart", colors=("red", "pink", "purple", "golden", "blue", "white", "green", "orange"))
def heart(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.heart((0, 0, 0), 1.2, 0.16 * vary(0.8, 1.4), paint)


@object_type("mushroom", part="stem", part_color="white", pattern=True)
def mushroom(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.3), 0.4, 0.2 * vary(0.85, 1.2), 0.15, trim, rounding=0.05)
    width = 0.62 * vary(0.9, 1.1)
    s.dome((0, 0, 0.02), (width, width, 0.5), paint, patterned=True)


@object_type("tree", part="trunk", part_color="brown", colors=("green", "orange", "yellow", "red", "pink"))
def tree(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.5), 0.4, 0.12, 0.09, trim)
    for at, radius in (
        ((0, 0, 0.25), 0.45),
        ((0.22, 0.15, 0.05), 0.3),
        ((-0.2, 0.2, 0.08), 0.3),
        ((0.05, -0.28, 0.05), 0.3),
    ):
        s.ball(at, radius * vary(0.9, 1.1), paint)


@object_type("pine tree", "christmas tree", part="trunk", part_color="brown", colors=("green", "white", "blue"))
def pine_tree(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.75), 0.15, 0.1, 0.1, trim)
    for z, radius in ((-0.4, 0.5), (0.0, 0.4), (0.4, 0.28)):
        s.cone((0, 0, z), 0.28, radius, 0.03, paint)
    s.star((0, 0, 0.75), 0.14, 0.45, 0.03, "yellow")


@object_type("cactus", part="pot", part_color="orange", colors=("green",))
def cactus(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.rod((0, 0, 0.1), 0.55, 0.17, paint)
    s.cone((0, 0, -0.6), 0.2, 0.24, 0.34, trim)
    for side, z in ((1, 0.1), (-1, -0.05)):
        s.rod((0, side * 0.28, z), 0.1, 0.1, paint, ALONG_Y)
        s.rod((0, side * 0.4, z + 0.16 * vary(0.8, 1.3)), 0.16, 0.1, paint)


@object_type("flower", part="center", part_color="yellow", colors=("red", "pink", "purple", "white", "blue", "orange"))
def flower(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.rod((0, 0, -0.45), 0.5, 0.045, "green")
    s.blob((0, 0.2, -0.5), (0.05, 0.2, 0.1), "green", turned(25))
    s.blob((0.06, 0, 0.35), (0.1, 0.18, 0.18), trim)
    for y, z in around(6):
        s.blob((0, 0.33 * y, 0.35 + 0.33 * z), (0.06, 0.2, 0.2), paint)


@object_type(
    "ice cream cone",
    "ice cream",
    part="cherry",
    part_color="red",
    colors=("pink", "white", "brown", "green", "yellow", "blue", "purple", "orange"),
)
def ice_cream(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.42), 0.5, 0.02, 0.32, (0.82, 0.58, 0.28))
    s.ball((0, 0, 0.22), 0.38, paint)
    s.torus((0, 0, 0.08), 0.32, 0.07, paint)
    s.ball((0, 0, 0.64), 0.1, trim)


@object_type("apple", part="leaf", part_color="green", colors=("red", "green", "yellow", "golden", "pink"))
def apple(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    for side in (1, -1):
        s.blob((0, 0.1 * side, -0.05), (0.5, 0.45, 0.48), paint)
    s.rod((0, 0, 0.48), 0.1, 0.035, "brown", turned(10, 10))
    s.blob((0, 0.16, 0.55), (0.07, 0.16, 0.03), trim, turned(25))


@object_type("carrot", part="leaves", part_color="green", colors=("orange", "purple", "yellow"))
def carrot(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.15), 0.6, 0.03, 0.24 * vary(0.9, 1.15), paint, rounding=0.03)
    for angle in (0, 120, 240):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        s.blob((0.1 * x, 0.1 * y, 0.62), (0.06, 0.06, 0.24), trim, turned(0, 15, angle))


@object_type("pumpkin", part="stem", part_color="green", colors=("orange", "white", "green"))
def pumpkin(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    for x, y in around(8):
        s.blob((0.27 * x, 0.27 * y, 0), (0.3, 0.3, 0.42), paint)
    s.cone((0, 0, 0.45), 0.13, 0.1, 0.06, trim)


@object_type("hamburger", "burger", part="bun", colors=("brown",))
def hamburger(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    bun = CRUST if trim == paint else COLORS[str(trim)]
    s.dome((0, 0, 0.12), (0.6, 0.6, 0.42), bun)
    s.cone((0, 0, 0.06), 0.05, 0.63, 0.63, "green")
    s.cone((0, 0, -0.05), 0.08, 0.6, 0.6, (0.3, 0.15, 0.07), rounding=0.04)
    s.box((0, 0, 0.02), (0.5, 0.5, 0.025), "yellow", turned(0, 0, 30))
    s.cone((0, 0, -0.25), 0.12, 0.5, 0.58, bun, rounding=0.06)
    for x, y in around(9, vary(0, 40)):
        radius = vary(0.05, 0.38)
        s.ball((radius * x, radius * y, 0.12 + 0.42 * math.sqrt(1 - (radius / 0.6) ** 2)), 0.03, (0.98, 0.93, 0.75))


@object_type(
    "birthday cake",
    "cake",
    part="frosting",
    part_color="white",
    colors=("pink", "brown", "yellow", "white", "blue", "purple"),
)
def birthday_cake(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.25), 0.22, 0.6, 0.6, paint, rounding=0.04)
    s.torus((0, 0, -0.03), 0.55, 0.07, trim)
    s.cone((0, 0, 0.12), 0.17, 0.4, 0.4, paint, rounding=0.04)
    s.torus((0, 0, 0.29), 0.36, 0.06, trim)
    for x, y in around(5):
        s.cone((0.22 * x, 0.22 * y, 0.45), 0.15, 0.035, 0.035, "blue")
        s.blob((0.22 * x, 0.22 * y, 0.64), (0.035, 0.035, 0.06), "orange")


@object_type("lollipop", pattern=True)
def lollipop(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0.35), 0.1, 0.42, 0.42, paint, ALONG_X, rounding=0.05, patterned=True)
    s.rod((0, 0, -0.4), 0.45, 0.04, "white")


@object_type("balloon", part="string", part_color="white")
def balloon(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, 0.35), (0.42, 0.42, 0.5 * vary(0.9, 1.1)), paint)
    s.cone((0, 0, -0.17), 0.06, 0.09, 0.02, paint)
    s.rod((0, 0, -0.5), 0.3, 0.022, trim)


@object_type("gift box", "present", part="ribbon", part_color="red")
def gift_box(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, -0.1), (0.5, 0.5, 0.45), paint)
    s.box((0, 0, -0.1), (0.515, 0.09, 0.46), trim)
    s.box((0, 0, -0.1), (0.09, 0.515, 0.46), trim)
    for side in (1, -1):
        s.torus((0, side * 0.16, 0.42), 0.13, 0.05, trim, turned(0, 90, side * 25))


@object_type("dice", "die", colors=("white", "red", "blue", "green", "black", "yellow"))
def dice(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    dot = "black" if paint in ("white", "yellow") else "white"
    e, q, wide, flat = 0.55, 0.26, 0.11, 0.04
    s.box((0, 0, 0), (e, e, e), paint, rounding=0.12)
    faces: dict[tuple[int, int], list[tuple[float, float]]] = {
        (0, 1): [(0, 0)],  # one on the front
        (0, -1): [(q, q), (q, -q), (-q, q), (-q, -q)],
        (1, 1): [(0, 0), (q, q), (-q, -q)],
        (1, -1): [(0, 0), (q, q), (q, -q), (-q, q), (-q, -q)],
        (2, 1): [(q, q), (-q, -q)],
    }
    for (axis, side), dots in faces.items():
        for u, v in dots:
            at, radii = [u, v], [wide, wide]
            at.insert(axis, side * e)
            radii.insert(axis, flat)
            s.blob((at[0], at[1], at[2]), (radii[0], radii[1], radii[2]), dot)


@object_type("traffic cone", part="stripe", part_color="white", colors=("orange", "red", "yellow", "green", "blue"))
def traffic_cone(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.6, 0.36, 0.06, paint)
    s.box((0, 0, -0.6), (0.48, 0.48, 0.05), paint)
    s.cone((0, 0, 0.02), 0.12, 0.27 * 1.12, 0.21 * 1.12, trim)


@object_type("crown", part="jewels", part_color="red", colors=("golden", "silver", "red", "blue", "purple"))
def crown(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.tube((0, 0, -0.1), 0.5, 0.04, 0.2, paint)
    for x, y in around(8):
        s.cone((0.5 * x, 0.5 * y, 0.25), 0.18, 0.12, 0.01, paint)
        s.ball((0.55 * x, 0.55 * y, -0.1), 0.075, trim)


@object_type(
    "top hat",
    "hat",
    part="band",
    part_color="red",
    colors=("black", "white", "purple", "blue", "brown", "green", "gray"),
)
def top_hat(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0.1), 0.42, 0.36, 0.4, paint)
    s.cone((0, 0, -0.32), 0.04, 0.68, 0.68, paint)
    s.cone((0, 0, -0.18), 0.09, 0.385, 0.385, trim)
