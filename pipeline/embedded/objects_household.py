"""Furniture, vessels and tools of the synthetic world."""

from pipeline.embedded.objects import ALONG_X, ALONG_Y, GLASS, ObjectBuilder, Paint, Vary, around, object_type, turned


@object_type("table")
def table(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    height = 0.45 * vary(0.85, 1.15)
    s.box((0, 0, height), (0.6, 0.75, 0.06), paint)
    for x in (-0.5, 0.5):
        for y in (-0.65, 0.65):
            s.box((x, y, 0), (0.06, 0.06, height), paint)


@object_type("chair", front=True)
def chair(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.42, 0.42, 0.06), paint)
    s.box((-0.38, 0, 0.5), (0.05, 0.42, 0.5 * vary(0.9, 1.1)), paint)
    for x in (-0.36, 0.36):
        for y in (-0.36, 0.36):
            s.box((x, y, -0.35), (0.05, 0.05, 0.35), paint)


@object_type("stool", part="legs", part_color="brown")
def stool(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0.35), 0.07, 0.45, 0.45, paint, rounding=0.04)
    for x, y in around(4, 45):
        s.rod((0.3 * x, 0.3 * y, -0.1), 0.42, 0.05, trim)


@object_type("sofa", "couch", part="cushions", front=True)
def sofa(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, -0.2), (0.4, 0.9, 0.18), paint, rounding=0.06)
    s.box((-0.38, 0, 0.1), (0.12, 0.9, 0.45), paint, rounding=0.08)
    for side in (1, -1):
        s.box((0, side * 0.85, 0), (0.42, 0.12, 0.3), paint, rounding=0.08)
        s.box((0.07, side * 0.36, 0.02), (0.32, 0.34, 0.08), trim, rounding=0.06)


@object_type("bed", part="blanket", part_color="blue", colors=("brown", "white", "black", "gray"), front=True)
def bed(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, -0.15), (0.85, 0.55, 0.1), paint)
    s.box((-0.85, 0, 0.1), (0.05, 0.55, 0.38), paint)
    s.box((0.1, 0, 0), (0.72, 0.52, 0.1), trim, rounding=0.05)
    s.box((-0.62, 0, 0.1), (0.15, 0.35, 0.07), "white", rounding=0.05)
    for x in (-0.8, 0.8):
        for y in (-0.5, 0.5):
            s.box((x, y, -0.32), (0.05, 0.05, 0.12), paint)


@object_type(
    "bench",
    part="legs",
    part_color="black",
    colors=("brown", "red", "green", "blue", "white", "gray", "orange"),
    front=True,
)
def bench(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0.05, 0, 0), (0.3, 0.9, 0.05), paint)
    for z in (0.26, 0.46):
        s.box((-0.27, 0, z), (0.04, 0.9, 0.08), paint)
    for side in (1, -1):
        s.box((0.25, side * 0.7, -0.22), (0.05, 0.06, 0.22), trim)
        s.box((-0.25, side * 0.7, 0), (0.05, 0.06, 0.44), trim)


@object_type("mug", "cup", pattern=True)
def mug(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.tube((0, 0, 0), 0.42, 0.045, 0.5 * vary(0.9, 1.1), paint, patterned=True)
    s.cone((0, 0, -0.4), 0.05, 0.4, 0.4, paint)
    s.torus((0, 0.52, 0), 0.24, 0.06, paint, ALONG_X)


@object_type("bucket", part="handle", part_color="gray")
def bucket(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.1), 0.45, 0.38, 0.52, paint)
    s.cone((0, 0, 0.345), 0.02, 0.47, 0.47, (0.12, 0.1, 0.09))
    s.torus((0, 0, 0.35), 0.5, 0.035, trim, ALONG_X)
    s.torus((0, 0, 0.34), 0.52, 0.035, paint)


@object_type("hammer", part="handle", part_color="brown", colors=("gray", "black", "silver", "red", "blue", "golden"))
def hammer(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.rod((0, 0, -0.2), 0.6, 0.08, trim)
    s.cone((0, 0, 0.48), 0.4, 0.17, 0.17, paint, ALONG_Y)
    s.cone((0, 0.42, 0.48), 0.07, 0.22, 0.22, paint, ALONG_Y)


@object_type("dumbbell", "barbell", part="bar", part_color="silver")
def dumbbell(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.6, 0.07, 0.07, trim, ALONG_Y)
    for side in (1, -1):
        s.cone((0, side * 0.55, 0), 0.13, 0.32, 0.32, paint, ALONG_Y, rounding=0.04)
        s.cone((0, side * 0.75, 0), 0.07, 0.23, 0.23, paint, ALONG_Y, rounding=0.03)


@object_type(
    "hourglass",
    part="frame",
    part_color="brown",
    colors=("yellow", "white", "blue", "pink", "cyan", "orange", "red"),
)
def hourglass(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0.3), 0.3, 0.05, 0.36, paint)
    s.cone((0, 0, -0.3), 0.3, 0.36, 0.05, paint)
    for z in (0.65, -0.65):
        s.cone((0, 0, z), 0.05, 0.48, 0.48, trim)
    for x, y in around(4, 45):
        s.cone((0.42 * x, 0.42 * y, 0), 0.62, 0.04, 0.04, trim)


@object_type("lamp", part="shade", part_color="yellow")
def lamp(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0.5), 0.28, 0.48, 0.25, trim)
    s.rod((0, 0, -0.1), 0.5, 0.055, paint)
    s.cone((0, 0, -0.68), 0.06, 0.35, 0.3, paint)


@object_type("bottle", part="cap", part_color="white")
def bottle(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, -0.25), 0.45, 0.27, 0.27, paint, rounding=0.08)
    s.cone((0, 0, 0.32), 0.15, 0.26, 0.09, paint)
    s.cone((0, 0, 0.5), 0.15, 0.09, 0.09, paint)
    s.cone((0, 0, 0.68), 0.07, 0.11, 0.11, trim)


@object_type("vase", pattern=True)
def vase(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    width = 0.42 * vary(0.9, 1.1)
    s.blob((0, 0, -0.15), (width, width, 0.5), paint, patterned=True)
    s.cone((0, 0, 0.4), 0.16, 0.16, 0.16, paint)
    s.torus((0, 0, 0.58), 0.2, 0.06, paint)
    s.cone((0, 0, -0.62), 0.06, 0.26, 0.22, paint)


@object_type("teapot", part="lid")
def teapot(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, -0.05), (0.5, 0.5, 0.42), paint)
    s.torus((0, -0.6, 0), 0.24, 0.065, paint, ALONG_X)
    s.rod((0, 0.64, 0.08), 0.22, 0.08, paint, turned(-45))
    s.dome((0, 0, 0.28), (0.27, 0.27, 0.12), trim)
    s.ball((0, 0, 0.45), 0.07, trim)


@object_type("barrel", part="bands", part_color="gray", colors=("brown", "red", "blue", "green", "black", "orange"))
def barrel(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.26, 0.5, 0.5, paint)
    s.cone((0, 0, 0.42), 0.19, 0.5, 0.4, paint)
    s.cone((0, 0, -0.42), 0.19, 0.4, 0.5, paint)
    for z in (0.25, -0.25):
        s.cone((0, 0, z), 0.05, 0.52, 0.52, trim)
    for z in (0.55, -0.55):
        s.cone((0, 0, z), 0.04, 0.435, 0.435, trim)
    s.cone((0, 0, 0.6), 0.015, 0.36, 0.36, (0.3, 0.18, 0.08))


@object_type("umbrella", part="handle", part_color="brown", pattern=True)
def umbrella(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.dome((0, 0, 0.2), (0.75, 0.75, 0.45), paint, patterned=True)
    s.rod((0, 0, -0.1), 0.6, 0.04, trim)
    s.torus((0.1, 0, -0.7), 0.1, 0.04, trim, ALONG_Y)


@object_type("clock", "alarm clock", part="face", part_color="white", front=True)
def clock(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    hands = "white" if trim == "black" else "black"
    s.cone((0, 0, 0), 0.16, 0.55, 0.55, paint, ALONG_X, rounding=0.04)
    s.cone((0.14, 0, 0), 0.05, 0.45, 0.45, trim, ALONG_X)
    s.box((0.2, 0, 0.14), (0.02, 0.035, 0.16), hands)
    s.box((0.2, 0.1, 0), (0.02, 0.13, 0.035), hands)
    for side in (1, -1):
        s.ball((0, side * 0.3, 0.55), 0.15, paint)
        s.cone((0, side * 0.3, -0.55), 0.1, 0.05, 0.08, paint)


@object_type(
    "television",
    "tv",
    part="screen",
    part_color="blue",
    colors=("black", "gray", "brown", "red", "white", "orange"),
    front=True,
)
def television(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.2, 0.75, 0.5), paint, rounding=0.05)
    s.box((0.19, 0.08, 0), (0.03, 0.56, 0.4), trim)
    for z in (0.15, -0.1):
        s.ball((0.2, -0.6, z), 0.06, "white" if paint != "white" else "black")
    for side in (1, -1):
        s.rod((0, side * 0.22, 0.68), 0.25, 0.03, "gray", turned(side * -35))
        s.box((0, side * 0.45, -0.55), (0.1, 0.06, 0.08), paint)


@object_type("camera", part="lens", colors=("black", "silver", "red", "blue", "white", "pink"), front=True)
def camera(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.25, 0.6, 0.4), paint, rounding=0.06)
    s.box((-0.02, 0, 0.46), (0.17, 0.2, 0.1), paint, rounding=0.04)
    s.cone((0.36, 0, -0.04), 0.15, 0.32, 0.29, trim if trim != paint else "gray", ALONG_X)
    s.cone((0.5, 0, -0.04), 0.02, 0.22, 0.22, GLASS, ALONG_X)
    s.ball((0.5, 0.06, 0.04), 0.045, "white")
    s.box((0.25, 0.46, 0.26), (0.02, 0.09, 0.07), (1.0, 0.97, 0.8))
    s.cone((0, -0.42, 0.43), 0.05, 0.1, 0.1, "red")


@object_type("sword", part="handle", part_color="brown", colors=("silver", "golden", "gray", "blue", "red", "green"))
def sword(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0.25), (0.035, 0.11, 0.6), paint)
    s.prism((0, 0, 0.95), 0.035, 0.11, 0.2, paint)
    s.box((0, 0, -0.38), (0.07, 0.32, 0.05), "golden")
    s.rod((0, 0, -0.6), 0.18, 0.065, trim)
    s.ball((0, 0, -0.83), 0.09, "golden")


@object_type("anvil", colors=("black", "gray", "silver", "blue"))
def anvil(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0.25), (0.45, 0.26, 0.16), paint)
    s.cone((0.7, 0, 0.28), 0.28, 0.14, 0.02, paint, ALONG_X)
    s.box((0, 0, -0.05), (0.2, 0.16, 0.2), paint)
    s.box((0, 0, -0.32), (0.42, 0.3, 0.1), paint)


@object_type("pencil", part="eraser", part_color="pink")
def pencil(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.cone((0, 0, 0), 0.6, 0.12, 0.12, paint)
    s.cone((0, 0, -0.74), 0.14, 0.02, 0.12, (0.87, 0.7, 0.45))
    s.cone((0, 0, -0.85), 0.045, 0.015, 0.04, "black")
    s.cone((0, 0, 0.64), 0.05, 0.125, 0.125, "silver")
    s.cone((0, 0, 0.74), 0.07, 0.12, 0.12, trim, rounding=0.03)
