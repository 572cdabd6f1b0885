"""Kernels of `meshes.py`: the colours of the points that rays hit, composited from front to back.

All arithmetic is float64 in one order, so an image does not depend on threads or on the processor. M = [p₀ p₁ p₂] has
the corners of a triangle, seen from the camera, as columns: M⁻¹ d, divided by its sum w, are the barycentric
coordinates of the point in direction d, which is at the distance d / w.
"""

import math
from typing import NamedTuple

import numpy as np

from sctd.render.cpu_projection import inline, kernel

OPAQUE, MASK, BLEND = 0, 1, 2
REPEAT, CLAMP, MIRROR = 0, 1, 2
FAINT = 0.5 / 255  # what passes all layers so far and is not worth another one
NEXT = 1e-5  # how much farther than a hit the next one is searched, relative to the distance of the camera
STEPS = 2**14  # of the table of sRGB values; between them the error is 1e-6
# The mean light of the synthetic world's training views: from above and behind the camera, and from the sky.
AMBIENT, SKY, DIFFUSE, OUTWARD = 0.44, 0.3, 0.32, 0.65


class Tables(NamedTuple):
    """A mesh as arrays: of vertices, of faces, of parts, of textures and of the levels of all textures."""

    vertices: np.ndarray
    uv: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    twin: np.ndarray  # the face with the same corners, or -1
    base: np.ndarray
    mode: np.ndarray
    cutoff: np.ndarray
    culled: np.ndarray
    unlit: np.ndarray
    texture: np.ndarray
    sampler: np.ndarray  # [textures, 5]: first level, number of levels, wrap of u, wrap of v, nearest
    level: np.ndarray  # [levels, 3]: first texel, height, width
    texels: np.ndarray  # uint8 [texels, 4]
    decoded: np.ndarray  # of a byte: its value in the space in which colours multiply
    encoded: np.ndarray  # of a value in [0, 1] in that space, in STEPS: as shown on a display


def encoded(linear: np.ndarray) -> np.ndarray:
    """Values in linear light as sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decoded(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@inline
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inline
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inline
def _point(array, row):
    return float(array[row, 0]), float(array[row, 1]), float(array[row, 2])


@inline
def _minus(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@inline
def _wrapped(index, size, wrap):
    if wrap == CLAMP:
        return min(max(index, 0), size - 1)
    if wrap == MIRROR:
        index %= 2 * size
        return index if index < size else 2 * size - 1 - index
    return index % size


@inline
def _shown(tables, value):
    """A value in the space in which colours multiply, as shown on a display."""
    place = min(max(value, 0.0), 1.0) * STEPS
    low = min(int(place), STEPS - 1)
    share = place - low
    return (1 - share) * tables.encoded[low] + share * tables.encoded[low + 1]


@inline
def _sample(tables, number, u, v, area, color):
    """Multiply `color` with a texture: bilinear in the mip level whose texels are as large as a sample.

    `area` is that of a sample, as a share of the texture's.
    """
    first, levels = tables.sampler[number, 0], tables.sampler[number, 1]
    wrap_u, wrap_v, nearest = tables.sampler[number, 2], tables.sampler[number, 3], tables.sampler[number, 4]
    texels = area * tables.level[first, 1] * tables.level[first, 2]
    chosen = 0
    while chosen < levels - 1 and texels > 2.0:  # the nearest level: 4 ** (level + 1/2) texels
        texels *= 0.25
        chosen += 1
    level = first + chosen
    start, height, width = tables.level[level, 0], tables.level[level, 1], tables.level[level, 2]
    x, y = u * width, v * height
    if not nearest:
        x, y = x - 0.5, y - 0.5
    column, row = math.floor(x), math.floor(y)
    right, down = x - column, y - row
    if nearest:
        right, down = 0.0, 0.0
    total = (0.0, 0.0, 0.0, 0.0)
    for j in range(2):
        share_y = down if j else 1 - down
        if share_y == 0.0:
            continue
        line = start + _wrapped(int(row) + j, height, wrap_v) * width
        for i in range(2):
            share = share_y * (right if i else 1 - right)
            if share == 0.0:
                continue
            texel = line + _wrapped(int(column) + i, width, wrap_u)
            total = (
                total[0] + share * tables.decoded[tables.texels[texel, 0]],
                total[1] + share * tables.decoded[tables.texels[texel, 1]],
                total[2] + share * tables.decoded[tables.texels[texel, 2]],
                total[3] + share * (tables.texels[texel, 3] / 255.0),
            )
    for channel in range(4):
        color[channel] *= total[channel]


@inline
def _light(tables, corners, weights, normal, away, light):
    """The factor on the colour of a matt surface, by its normal on the side of the camera."""
    first, second, third = corners
    x, y, z = 0.0, 0.0, 0.0
    for k, corner in enumerate((first, second, third)):
        x += weights[k] * tables.normals[corner, 0]
        y += weights[k] * tables.normals[corner, 1]
        z += weights[k] * tables.normals[corner, 2]
    if x == 0.0 and y == 0.0 and z == 0.0:
        x, y, z = normal
    # On the side of the face's normal that the camera sees, whatever the order of the corners.
    behind = (x * normal[0] + y * normal[1] + z * normal[2] < 0.0) != away
    scale = (-1.0 if behind else 1.0) / max(math.sqrt(x * x + y * y + z * z), 1e-300)
    x, y, z = x * scale, y * scale, z * scale
    return AMBIENT + SKY * (0.5 + 0.5 * z) + DIFFUSE * max(x * light[0] + y * light[1] + z * light[2], 0.0)


@kernel
def aim(camera, left, top, samples, directions):
    """Directions through the samples of a block of pixels: [rows, columns, samples, 3]; camera: right, down, corner."""
    for row in range(directions.shape[0]):
        for column in range(directions.shape[1]):
            for sample in range(directions.shape[2]):
                x = left + column + 0.5 + samples[sample, 0]
                y = top + row + 0.5 + samples[sample, 1]
                for axis in range(3):
                    directions[row, column, sample, axis] = x * camera[0, axis] + y * camera[1, axis] + camera[2, axis]


@kernel
def composite(tables, center, camera, num_samples, light, lit, hits, rays, last, directions, begin, rgb, passing):
    """Add one layer: the faces `hits` that `rays` meet first, -1 for none.

    Writes colours (premultiplied) to `rgb` and what passes to `passing`, by ray. Returns how many rays go on: they
    become the first of `rays`, their faces the first of `last`, and `directions` and `begin` those of the next query.
    """
    turned = _cross(_point(camera, 0), _point(camera, 1))
    footprint = abs(_dot(turned, _point(camera, 2))) / num_samples
    color = np.empty(4)
    going = 0
    for number in range(len(hits)):
        face, ray = hits[number], rays[number]
        if face < 0:
            continue
        direction = _point(directions, number)
        a = _minus(_point(tables.vertices, tables.faces[face, 0]), _point(center, 0))
        b = _minus(_point(tables.vertices, tables.faces[face, 1]), _point(center, 0))
        c = _minus(_point(tables.vertices, tables.faces[face, 2]), _point(center, 0))
        normal = _cross(_minus(b, a), _minus(c, a))
        along = _dot(normal, direction)
        distance = _dot(normal, a) / along if along != 0.0 else 0.0
        away = along > 0.0
        met = face
        if away and tables.culled[tables.part[face]] and tables.twin[face] >= 0:
            face = tables.twin[face]
            away = False
            a = _minus(_point(tables.vertices, tables.faces[face, 0]), _point(center, 0))
            b = _minus(_point(tables.vertices, tables.faces[face, 1]), _point(center, 0))
            c = _minus(_point(tables.vertices, tables.faces[face, 2]), _point(center, 0))
            normal = _cross(_minus(b, a), _minus(c, a))
            away = _dot(normal, direction) > 0.0
        part = tables.part[face]
        if met != last[number] and not (away and tables.culled[part]):  # a ray hits a triangle once
            bc, ca, ab = _cross(b, c), _cross(c, a), _cross(a, b)
            volume = _dot(a, bc)
            p, q, r = _dot(bc, direction), _dot(ca, direction), _dot(ab, direction)
            w = p + q + r
            if w == 0.0 or volume == 0.0:
                p, q, r, w, volume = 1.0, 1.0, 1.0, 3.0, 1.0
            p, q, r = max(p / w, 0.0), max(q / w, 0.0), max(r / w, 0.0)
            total = p + q + r
            p, q, r = p / total, q / total, r / total
            i, j, k = tables.faces[face, 0], tables.faces[face, 1], tables.faces[face, 2]
            for channel in range(4):
                mixed = p * tables.colors[i, channel] + q * tables.colors[j, channel] + r * tables.colors[k, channel]
                color[channel] = tables.base[part, channel] * mixed
            texture = tables.texture[part]
            if texture >= 0:
                u = p * tables.uv[i, 0] + q * tables.uv[j, 0] + r * tables.uv[k, 0]
                v = p * tables.uv[i, 1] + q * tables.uv[j, 1] + r * tables.uv[k, 1]
                # Pixel positions map to texture coordinates by a homography H, with Jacobian determinant det H / w³.
                du, dv = float(tables.uv[j, 0]) - tables.uv[i, 0], float(tables.uv[j, 1]) - tables.uv[i, 1]
                eu, ev = float(tables.uv[k, 0]) - tables.uv[i, 0], float(tables.uv[k, 1]) - tables.uv[i, 1]
                scaled = w / volume
                area = abs((du * ev - dv * eu) / volume) * footprint / max(abs(scaled * scaled * scaled), 1e-300)
                _sample(tables, texture, u, v, area, color)
            mode = tables.mode[part]
            alpha = 1.0
            if mode == BLEND:
                alpha = min(max(color[3], 0.0), 1.0)
            elif mode == MASK and color[3] < tables.cutoff[part]:
                alpha = 0.0
            if alpha > 0.0:
                shade = 1.0
                if lit and not tables.unlit[part]:
                    shade = _light(tables, (i, j, k), (p, q, r), normal, away, light)
                share = passing[ray] * alpha
                for channel in range(3):
                    rgb[ray, channel] += share * min(_shown(tables, color[channel]) * shade, 1.0)
                passing[ray] *= 1 - alpha
        if passing[ray] > FAINT:
            rays[going], last[going] = ray, met
            for axis in range(3):
                begin[going, axis] = center[0, axis] + direction[axis] * distance * (1 + NEXT)
                directions[going, axis] = direction[axis]
            going += 1
    return going


@kernel
def resolve(rgb, passing, image):
    """The mean of the samples of every pixel of a block, on white, as uint8 [rows, columns, 3]."""
    samples = len(passing) // (image.shape[0] * image.shape[1])
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            first = (row * image.shape[1] + column) * samples
            for channel in range(3):
                total = 0.0
                for sample in range(first, first + samples):
                    total += rgb[sample, channel] + passing[sample]
                image[row, column, channel] = np.uint8(min(255.0 * (total / samples) + 0.5, 255.0))
