"""Animals and figures of the synthetic world. They face +x, so each has an unmistakable front."""

from collections.abc import Sequence

from pipeline.embedded.objects import ALONG_X, ALONG_Y, ObjectBuilder, Paint, Vary, object_type, turned

BEAK, MUZZLE = "orange", (0.85, 0.7, 0.5)


def contrast(paint: Paint) -> str:
    """Black, or white on black, so that eyes, noses and mouths are visible."""
    return "black" if paint != "black" else "white"


def legs(
    s: ObjectBuilder, xs: Sequence[float], y: float, z: float, half_height: float, radius: float, paint: Paint
) -> None:
    for x in xs:
        for side in (1, -1):
            s.cone((x, side * y, z), half_height, radius, radius, paint)


@object_type("snowman", part="hat", part_color="black", colors=("white",), front=True)
def snowman(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    for z, radius in ((-0.55, 0.48), (0.08, 0.36), (0.58, 0.26)):
        s.ball((0, 0, z), radius, paint)
    s.eyes(0.22, 0.1, 0.65, 0.055)
    s.cone((0.36, 0, 0.57), 0.16, 0.07, 0.01, BEAK, ALONG_X)
    for z in (-0.04, 0.11, 0.26):
        s.ball((0.34, 0, z), 0.055, "black")
    s.cone((0, 0, 0.8), 0.02, 0.3, 0.3, trim)
    s.cone((0, 0, 0.94), 0.14, 0.19, 0.19, trim)
    for side in (1, -1):
        s.rod((0, side * 0.5, 0.2), 0.25, 0.03, "brown", turned(side * 60))


@object_type("robot", part="body", front=True)
def robot(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0.55), (0.28, 0.33, 0.26), paint, rounding=0.05)
    s.eyes(0.28, 0.14, 0.6, 0.08, "yellow" if paint != "yellow" else "blue")
    s.box((0.28, 0, 0.4), (0.02, 0.17, 0.035), contrast(paint))
    s.box((0, 0, -0.05), (0.26, 0.38, 0.32), trim, rounding=0.05)
    s.box((0.26, 0, 0.0), (0.015, 0.2, 0.14), (0.8, 0.82, 0.85))
    for y, light in ((-0.1, "red"), (0.0, "green"), (0.1, "blue")):
        s.ball((0.275, y, 0.03), 0.04, light)
    s.rod((0, 0, 0.88), 0.07, 0.03, "gray")
    s.ball((0, 0, 0.98), 0.06, "red")
    for side in (1, -1):
        s.rod((0, side * 0.5, -0.05), 0.24, 0.085, paint)
        s.box((0.02, side * 0.18, -0.58), (0.13, 0.1, 0.22), paint)


@object_type("robot head", front=True)
def robot_head(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.box((0, 0, 0), (0.5, 0.55, 0.5), paint, rounding=0.08)
    s.eyes(0.49, 0.22, 0.14, 0.14, "white" if paint != "white" else "yellow")
    s.eyes(0.6, 0.22, 0.14, 0.065, "black")
    s.box((0.5, 0, -0.25), (0.03, 0.3, 0.07), contrast(paint))
    s.rod((0, 0, 0.6), 0.12, 0.035, "gray")
    s.ball((0, 0, 0.78), 0.09, "red")
    for side in (1, -1):
        s.cone((0, side * 0.58, 0), 0.06, 0.15, 0.15, "gray", ALONG_Y)


@object_type("teddy bear", "bear", colors=("brown", "white", "black", "pink", "golden"), front=True)
def teddy_bear(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, -0.25), (0.36, 0.4, 0.42), paint)
    s.blob((0.14, 0, -0.25), (0.26, 0.28, 0.3), MUZZLE)
    s.ball((0, 0, 0.42), 0.33, paint)
    for side in (1, -1):
        s.ball((0, side * 0.26, 0.7), 0.13, paint)
        s.blob((0.15, side * 0.43, -0.1), (0.15, 0.14, 0.3), paint, turned(side * -20))
        s.blob((0.3, side * 0.25, -0.6), (0.3, 0.16, 0.16), paint)
    s.blob((0.3, 0, 0.34), (0.13, 0.15, 0.12), MUZZLE)
    s.ball((0.42, 0, 0.39), 0.05, "black")
    s.eyes(0.28, 0.12, 0.5, 0.05, contrast(paint))


@object_type(
    "duck",
    "rubber duck",
    part="beak",
    part_color="orange",
    colors=("yellow", "white", "brown", "green", "blue", "pink"),
    front=True,
)
def duck(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.05, 0, -0.25), (0.6, 0.42, 0.36), paint)
    s.ball((0.32, 0, 0.3), 0.3, paint)
    s.blob((0.62, 0, 0.24), (0.18, 0.13, 0.06), trim)
    s.eyes(0.5, 0.16, 0.42, 0.055)
    s.blob((-0.55, 0, -0.05), (0.2, 0.15, 0.12), paint, turned(0, 30))
    for side in (1, -1):
        s.blob((-0.1, side * 0.4, -0.2), (0.3, 0.08, 0.18), paint)


@object_type("fish", part="fins", front=True)
def fish(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0.1, 0, 0), (0.6, 0.22, 0.36), paint)
    s.prism((-0.62, 0, 0), 0.035, 0.32, 0.4, trim, turned(0, 0, 90) @ turned(90))
    s.box((0.05, 0, 0.38), (0.22, 0.03, 0.12), trim, turned(0, -12))
    for side in (1, -1):
        s.blob((0.15, side * 0.24, -0.1), (0.16, 0.03, 0.09), trim, turned(0, 20, side * -20))
    s.eyes(0.5, 0.15, 0.08, 0.085, "white" if paint != "white" else "yellow")
    s.eyes(0.54, 0.19, 0.08, 0.055, "black")
    s.blob((0.68, 0, -0.06), (0.05, 0.09, 0.035), (0.85, 0.35, 0.4))


@object_type("pig", colors=("pink", "black", "brown", "white"), front=True)
def pig(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    snout = (0.85, 0.35, 0.5)
    s.blob((-0.05, 0, 0), (0.6, 0.38, 0.38), paint)
    s.ball((0.55, 0, 0.15), 0.28, paint)
    s.cone((0.82, 0, 0.12), 0.06, 0.12, 0.12, snout, ALONG_X)
    s.eyes(0.88, 0.045, 0.12, 0.025, "black")
    s.eyes(0.76, 0.13, 0.27, 0.045, contrast(paint))
    for side in (1, -1):
        s.blob((0.5, side * 0.2, 0.42), (0.05, 0.1, 0.13), snout)
    legs(s, (-0.35, 0.3), 0.2, -0.42, 0.16, 0.1, paint)
    s.torus((-0.68, 0, 0.08), 0.08, 0.03, snout, ALONG_Y)


@object_type("turtle", part="shell", part_color="brown", colors=("green",), front=True)
def turtle(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.dome((0, 0, -0.1), (0.6, 0.5, 0.42), trim)
    s.ball((0.72, 0, 0.08), 0.2, paint)
    s.eyes(0.86, 0.1, 0.15, 0.045)
    s.blob((0, 0, -0.12), (0.56, 0.46, 0.1), paint)
    s.blob((-0.66, 0, -0.14), (0.16, 0.06, 0.05), paint)
    for x in (-0.42, 0.42):
        for side in (1, -1):
            s.blob((x, side * 0.42, -0.18), (0.18, 0.13, 0.12), paint)


@object_type("penguin", part="belly", part_color="white", colors=("black", "blue", "purple", "gray"), front=True)
def penguin(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, -0.1), (0.38, 0.4, 0.6), paint)
    s.blob((0.1, 0, -0.15), (0.32, 0.3, 0.5), trim)
    s.ball((0, 0, 0.52), 0.28, paint)
    s.eyes(0.22, 0.11, 0.58, 0.065, "white")
    s.eyes(0.275, 0.11, 0.58, 0.035, "black")
    s.cone((0.34, 0, 0.48), 0.1, 0.085, 0.01, BEAK, ALONG_X)
    for side in (1, -1):
        s.blob((0, side * 0.42, -0.05), (0.15, 0.06, 0.38), paint, turned(side * 15))
        s.blob((0.15, side * 0.17, -0.7), (0.22, 0.14, 0.06), BEAK)


@object_type("cat", colors=("orange", "black", "white", "gray", "brown", "pink"), front=True)
def cat(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.12, 0, -0.35), (0.36, 0.34, 0.42), paint)
    s.blob((0.14, 0, 0.3), (0.32, 0.37, 0.3), paint)
    for side in (1, -1):
        s.cone((0.1, side * 0.24, 0.6), 0.15, 0.14, 0.01, paint, turned(side * -14))
        s.cone((0.16, side * 0.24, 0.59), 0.11, 0.09, 0.01, "pink" if paint != "pink" else "red", turned(side * -14))
        s.rod((0.2, side * 0.15, -0.5), 0.2, 0.1, paint)
    s.eyes(0.4, 0.15, 0.36, 0.075, "green" if paint != "green" else "yellow")
    s.eyes(0.46, 0.15, 0.36, 0.035, "black")
    s.blob((0.43, 0, 0.2), (0.08, 0.14, 0.08), "white" if paint != "white" else "gray")
    s.ball((0.5, 0, 0.24), 0.04, "pink")
    s.rod((-0.52, 0, -0.42), 0.28, 0.07, paint, turned(0, -35))


@object_type("dog", part="collar", part_color="red", colors=("brown", "white", "black", "golden", "gray"), front=True)
def dog(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.15, 0, -0.05), (0.52, 0.26, 0.26), paint)
    s.ball((0.46, 0, 0.36), 0.27, paint)
    s.blob((0.7, 0, 0.28), (0.18, 0.14, 0.12), MUZZLE)
    s.ball((0.86, 0, 0.33), 0.06, "black")
    s.eyes(0.66, 0.13, 0.46, 0.05, contrast(paint))
    s.torus((0.34, 0, 0.13), 0.2, 0.05, trim, turned(0, 45))
    for side in (1, -1):
        s.blob((0.42, side * 0.28, 0.32), (0.12, 0.05, 0.2), (0.25, 0.13, 0.06))
    legs(s, (-0.48, 0.2), 0.15, -0.42, 0.22, 0.09, paint)
    s.rod((-0.72, 0, 0.2), 0.18, 0.055, paint, turned(0, -30))


@object_type("elephant", colors=("gray", "blue", "pink", "white", "purple"), front=True)
def elephant(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.2, 0, 0.05), (0.55, 0.42, 0.42), paint)
    s.ball((0.42, 0, 0.25), 0.32, paint)
    s.rod((0.74, 0, 0.02), 0.18, 0.09, paint, turned(0, -18))
    s.rod((0.82, 0, -0.3), 0.16, 0.075, paint)
    s.eyes(0.67, 0.15, 0.38, 0.05, contrast(paint))
    for side in (1, -1):
        s.blob((0.3, side * 0.42, 0.28), (0.06, 0.26, 0.3), paint, turned(0, 0, side * 20))
        s.cone((0.74, side * 0.17, 0.0), 0.16, 0.01, 0.05, (0.97, 0.95, 0.85), turned(0, -30))
    legs(s, (-0.48, 0.12), 0.22, -0.45, 0.25, 0.14, paint)
    s.rod((-0.76, 0, 0.0), 0.18, 0.03, paint, turned(0, 15))


@object_type(
    "owl", part="belly", part_color="white", colors=("brown", "white", "gray", "purple", "blue", "orange"), front=True
)
def owl(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((0, 0, -0.12), (0.4, 0.45, 0.6), paint)
    s.blob((0.12, 0, -0.2), (0.32, 0.32, 0.42), trim)
    s.blob((0, 0, 0.42), (0.36, 0.42, 0.32), paint)
    for side in (1, -1):
        s.cone((0.04, side * 0.28, 0.76), 0.13, 0.12, 0.01, paint, turned(side * -18))
        s.blob((-0.02, side * 0.44, -0.1), (0.26, 0.08, 0.42), paint, turned(side * 8))
        s.blob((0.12, side * 0.14, -0.7), (0.14, 0.1, 0.06), BEAK)
    s.eyes(0.3, 0.17, 0.46, 0.15, "yellow")
    s.eyes(0.41, 0.17, 0.46, 0.075, "black")
    s.cone((0.4, 0, 0.34), 0.09, 0.07, 0.01, BEAK, turned(0, 125))


@object_type("frog", colors=("green", "yellow", "blue", "red", "brown"), front=True)
def frog(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.05, 0, -0.1), (0.55, 0.5, 0.35), paint)
    s.blob((0.08, 0, -0.2), (0.46, 0.4, 0.25), (0.93, 0.92, 0.7))
    s.blob((0.25, 0, 0.12), (0.36, 0.42, 0.24), paint)
    s.eyes(0.34, 0.24, 0.36, 0.15, paint)
    s.eyes(0.42, 0.25, 0.38, 0.1, "white")
    s.eyes(0.49, 0.26, 0.39, 0.055, "black")
    s.blob((0.5, 0, 0.05), (0.12, 0.28, 0.03), (0.5, 0.1, 0.12))
    for side in (1, -1):
        s.blob((-0.25, side * 0.5, -0.25), (0.32, 0.14, 0.2), paint, turned(0, 0, side * 15))
        s.blob((0.05, side * 0.58, -0.42), (0.28, 0.12, 0.05), paint)
        s.blob((0.45, side * 0.34, -0.42), (0.18, 0.12, 0.05), paint)


@object_type("rabbit", "bunny", colors=("white", "brown", "gray", "pink", "black"), front=True)
def rabbit(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    inner = (0.97, 0.65, 0.72) if paint != "pink" else "white"
    s.blob((-0.1, 0, -0.45), (0.42, 0.36, 0.4), paint)
    s.ball((0.12, 0, 0.08), 0.3, paint)
    for side in (1, -1):
        s.blob((0.02, side * 0.14, 0.6), (0.07, 0.1, 0.36), paint, turned(side * -8))
        s.blob((0.07, side * 0.14, 0.6), (0.04, 0.06, 0.27), inner, turned(side * -8))
        s.blob((0.22, side * 0.2, -0.76), (0.26, 0.12, 0.09), paint)
        s.rod((0.25, side * 0.13, -0.4), 0.14, 0.08, paint)
    s.eyes(0.36, 0.14, 0.16, 0.055, contrast(paint))
    s.blob((0.4, 0, 0.0), (0.07, 0.12, 0.08), "white" if paint != "white" else inner)
    s.ball((0.46, 0, 0.05), 0.04, (0.9, 0.3, 0.45))
    s.ball((-0.54, 0, -0.5), 0.13, "white" if paint != "white" else (0.8, 0.8, 0.82))


@object_type("lion", part="mane", part_color="brown", colors=("golden", "yellow", "orange", "white"), front=True)
def lion(s: ObjectBuilder, paint: Paint, trim: Paint, vary: Vary) -> None:
    s.blob((-0.22, 0, -0.08), (0.5, 0.27, 0.27), paint)
    s.blob((0.32, 0, 0.22), (0.16, 0.46, 0.46), trim)
    s.blob((0.48, 0, 0.22), (0.24, 0.28, 0.28), paint)
    s.blob((0.68, 0, 0.14), (0.1, 0.16, 0.11), "white" if paint != "white" else MUZZLE)
    s.blob((0.77, 0, 0.19), (0.04, 0.06, 0.045), "black")
    s.eyes(0.68, 0.12, 0.32, 0.045, "black")
    legs(s, (-0.52, 0.12), 0.16, -0.42, 0.22, 0.09, paint)
    s.rod((-0.8, 0, 0.05), 0.22, 0.04, paint, turned(0, -30))
    s.ball((-0.93, 0, 0.28), 0.1, trim)
