"""The renderer of the embedded world: rays against rows of primitives, one source for the CPU and for CUDA.

The functions below are compiled by numba, for the CPU here and, when first asked for, for the GPU by the same decorated
functions called from a CUDA kernel. All arithmetic is float32: a literal would be float64 to numba, and a data-centre
GPU would then spend its time in double precision, so every constant is made with `f32` or named here.

A ray meets each primitive separately, in the primitive's own coordinates: first its bounding sphere, then the
ellipsoid in closed form or sphere tracing of the signed distance. Threads of a warp thus always trace the same kind.

The signed distances of star and heart follow I. Quilez' formulas; ellipsoid normals are the analytic ones.
"""

import functools
import math
from typing import Any

import numba
import numpy as np
import torch
from numpy import float32 as f32

from pipeline.embedded.objects import BOX, CAPSULE, CHECKERED, CONE, DOME, DOTTED, ELLIPSOID, HEART, PRIM, PRISM
from pipeline.embedded.objects import PYRAMID, STAR, STRIPED, TORUS, TUBE

# One camera: 0-2 eye | 3-5 right | 6-8 up | 9-11 forward | 12 tan(fov / 2) | 13-15 background at the top
# | 16-18 at the bottom | 19-21 direction to the light | 22 ambient | 23 strength of the light.
CAM = 24
MAX_PRIMITIVES = 64  # of one scene: what a CUDA block keeps in shared memory
THREADS = 256  # per CUDA block; one block draws one picture
TILE = 8  # pixels: neighbouring threads draw neighbouring pixels

ZERO, HALF, ONE, TWO, FAR = f32(0), f32(0.5), f32(1), f32(2), f32(1e3)
MAX_STEPS = 48
SURFACE = f32(0.001)  # closer than this is a hit
RELAXATION = f32(0.95)  # of a step: some distances are only nearly exact
DIFFERENCE = f32(0.002)  # for normals
TENTH_TURN_COS, TENTH_TURN_SIN = f32(math.cos(math.pi / 5)), f32(math.sin(math.pi / 5))
LOBE = f32(math.sqrt(2) / 4)  # radius of the heart's lobes
FULL_TURN = f32(2 * math.pi)
LAUNCH_RADIUS = f32(1.02)

WORD = np.uint64(0xFFFFFFFF)
SHIFT_15, SHIFT_16, SHIFT_8 = np.uint64(15), np.uint64(16), np.uint64(8)
MIX_A, MIX_B, STRIDE = np.uint64(0x7FEB352D), np.uint64(0x846CA68B), np.uint64(0x9E3779B9)
UNIT = f32(2.0**-24)
MAX_LAUNCHES = 256

function = numba.njit(cache=True, fastmath=True, error_model="numpy")


@function
def length2(x, y):
    return math.sqrt(x * x + y * y)


@function
def length3(x, y, z):
    return math.sqrt(x * x + y * y + z * z)


@function
def clamp(x, low, high):
    return min(max(x, low), high)


@function
def extruded(flat, beyond):
    """Distance to an extrusion, from the distance in the plane and the distance beyond its half thickness."""
    return min(max(flat, beyond), ZERO) + length2(max(flat, ZERO), max(beyond, ZERO))


@function
def ellipsoid_distance(x, y, z, a, b, c):
    """First-order distance to an ellipsoid: exact on its surface."""
    k0 = length3(x / a, y / b, z / c)
    k1 = length3(x / (a * a), y / (b * b), z / (c * c))
    return k0 * (k0 - ONE) / max(k1, f32(1e-6))


@function
def frustum_distance(x, y, z, half_height, bottom, top):
    q = length2(x, y)
    end_x = q - min(q, bottom if z < ZERO else top)
    end_z = abs(z) - half_height
    slope_x, slope_z = top - bottom, TWO * half_height
    along = ((top - q) * slope_x + (half_height - z) * slope_z) / (slope_x * slope_x + slope_z * slope_z)
    along = clamp(along, ZERO, ONE)
    side_x, side_z = q - top + slope_x * along, z - half_height + slope_z * along
    nearest = math.sqrt(min(end_x * end_x + end_z * end_z, side_x * side_x + side_z * side_z))
    return -nearest if side_x < ZERO and end_z < ZERO else nearest


@function
def star_distance(y, z, radius, inner_ratio):
    """Five-pointed star in the plane: fold into one half of one point, then the distance to its edge."""
    p, q = abs(y), z
    for side in range(2):
        fold_x = TENTH_TURN_COS if side == 0 else -TENTH_TURN_COS
        reach = TWO * max(fold_x * p - TENTH_TURN_SIN * q, ZERO)
        p -= reach * fold_x
        q += reach * TENTH_TURN_SIN
    p = abs(p)
    q -= radius
    edge_x, edge_z = inner_ratio * TENTH_TURN_SIN, inner_ratio * TENTH_TURN_COS - ONE
    along = clamp((p * edge_x + q * edge_z) / (edge_x * edge_x + edge_z * edge_z), ZERO, radius)
    distance = length2(p - edge_x * along, q - edge_z * along)
    return -distance if q * edge_x - p * edge_z < ZERO else distance


@function
def heart_distance(y, z, size):
    p, q = abs(y) / size, z / size + HALF
    if p + q > ONE:
        return (length2(p - f32(0.25), q - f32(0.75)) - LOBE) * size
    u = max(p + q, ZERO) * HALF
    nearest = math.sqrt(min(p * p + (q - ONE) * (q - ONE), (p - u) * (p - u) + (q - u) * (q - u)))
    return -nearest * size if p < q else nearest * size


@function
def signed_distance(kind, x, y, z, a, b, c, rounding):
    """Distance of a point, in the primitive's coordinates, to its surface; negative inside. See objects.py."""
    if kind == ELLIPSOID:
        return ellipsoid_distance(x, y, z, a, b, c)
    if kind == BOX:
        p, q, s = abs(x) - a + rounding, abs(y) - b + rounding, abs(z) - c + rounding
        return length3(max(p, ZERO), max(q, ZERO), max(s, ZERO)) + min(max(p, max(q, s)), ZERO) - rounding
    if kind == CONE:
        bottom, top = max(b - rounding, ZERO), max(c - rounding, ZERO)
        return frustum_distance(x, y, z, a - rounding, bottom, top) - rounding
    if kind == TORUS:
        return length2(length2(x, y) - a, z) - b
    if kind == CAPSULE:
        return length3(x, y, z - clamp(z, -a, a)) - b
    if kind == PYRAMID:
        side = (max(abs(x), abs(y)) * TWO * b + (z - b) * a) / length2(TWO * b, a)
        return max(side, -z - b)
    if kind == STAR:
        return extruded(star_distance(y, z, a, b), abs(x) - c) - rounding
    if kind == TUBE:
        return extruded(abs(length2(x, y) - a) - b, abs(z) - c) - rounding
    if kind == DOME:
        return max(ellipsoid_distance(x, y, z, a, b, c), -z)
    if kind == PRISM:
        side = (abs(y) * c + (z - HALF * c) * b) / length2(c, b)
        return max(max(side, -z - HALF * c), abs(x) - a)
    if kind == HEART:
        return extruded(heart_distance(y, z, a), abs(x) - c) - rounding
    return FAR


@function
def to_local(prims, i, x, y, z):
    """A direction in the world, in the coordinates of primitive i (subtract its position first for a point)."""
    return (
        prims[i, 4] * x + prims[i, 5] * y + prims[i, 6] * z,
        prims[i, 7] * x + prims[i, 8] * y + prims[i, 9] * z,
        prims[i, 10] * x + prims[i, 11] * y + prims[i, 12] * z,
    )


@function
def meet_ellipsoid(x, y, z, dx, dy, dz, a, b, c):
    """Where a ray from outside enters the ellipsoid, or FAR."""
    x, y, z, dx, dy, dz = x / a, y / b, z / c, dx / a, dy / b, dz / c
    speed = dx * dx + dy * dy + dz * dz
    half_b = x * dx + y * dy + z * dz
    discriminant = half_b * half_b - speed * (x * x + y * y + z * z - ONE)
    if discriminant < ZERO:
        return FAR
    return max((-half_b - math.sqrt(discriminant)) / speed, ZERO)


@function
def meet_primitive(prims, i, ox, oy, oz, dx, dy, dz, limit):
    """Distance along the unit ray at which it first meets primitive i before `limit`, or FAR."""
    mx, my, mz = ox - prims[i, 1], oy - prims[i, 2], oz - prims[i, 3]
    nearest = -(mx * dx + my * dy + mz * dz)
    px, py, pz = mx + nearest * dx, my + nearest * dy, mz + nearest * dz
    room = prims[i, 26] * prims[i, 26] - (px * px + py * py + pz * pz)
    if room < ZERO:
        return FAR
    half_chord = math.sqrt(room)
    start, end = max(nearest - half_chord, ZERO), min(nearest + half_chord, limit)
    if start >= end:
        return FAR
    x, y, z = to_local(prims, i, mx + start * dx, my + start * dy, mz + start * dz)
    dx, dy, dz = to_local(prims, i, dx, dy, dz)
    kind = int(prims[i, 0])
    a, b, c, rounding = prims[i, 13], prims[i, 14], prims[i, 15], prims[i, 16]
    if kind == ELLIPSOID:
        t = meet_ellipsoid(x, y, z, dx, dy, dz, a, b, c)
        return start + t if start + t < end else FAR
    t, length = ZERO, end - start
    for _ in range(MAX_STEPS):
        distance = signed_distance(kind, x + t * dx, y + t * dy, z + t * dz, a, b, c, rounding)
        if distance < SURFACE:
            return start + t
        t += distance * RELAXATION
        if t > length:
            return FAR
    return FAR


@function
def first_hit(prims, count, ox, oy, oz, dx, dy, dz):
    """Nearest primitive on the ray: (distance, its index), or (FAR, -1)."""
    best, index = FAR, -1
    for i in range(count):
        t = meet_primitive(prims, i, ox, oy, oz, dx, dy, dz, best)
        if t < best:
            best, index = t, i
    return best, index


@function
def local_normal(prims, i, x, y, z):
    """Unit normal in the primitive's coordinates at a point of its surface."""
    kind = int(prims[i, 0])
    a, b, c, rounding = prims[i, 13], prims[i, 14], prims[i, 15], prims[i, 16]
    if kind == ELLIPSOID:
        nx, ny, nz = x / (a * a), y / (b * b), z / (c * c)
    else:
        e = DIFFERENCE
        nx = signed_distance(kind, x + e, y, z, a, b, c, rounding) - signed_distance(
            kind, x - e, y, z, a, b, c, rounding
        )
        ny = signed_distance(kind, x, y + e, z, a, b, c, rounding) - signed_distance(
            kind, x, y - e, z, a, b, c, rounding
        )
        nz = signed_distance(kind, x, y, z + e, a, b, c, rounding) - signed_distance(
            kind, x, y, z - e, a, b, c, rounding
        )
    scale = ONE / max(length3(nx, ny, nz), f32(1e-9))
    return nx * scale, ny * scale, nz * scale


@function
def surface_color(prims, i, x, y, z):
    """Colour of primitive i at a point in its coordinates, its pattern included."""
    pattern, frequency = int(prims[i, 23]), prims[i, 24]
    second = False
    if pattern == STRIPED:
        second = (math.floor(z * frequency + HALF) & 1) == 1
    elif pattern == CHECKERED:
        cells = math.floor(x * frequency + HALF) + math.floor(y * frequency + HALF) + math.floor(z * frequency + HALF)
        second = (cells & 1) == 1
    elif pattern == DOTTED:
        u = x * frequency - f32(math.floor(x * frequency)) - HALF
        v = y * frequency - f32(math.floor(y * frequency)) - HALF
        w = z * frequency - f32(math.floor(z * frequency)) - HALF
        second = u * u + v * v + w * w < f32(0.13)
    first = 20 if second else 17
    return prims[i, first], prims[i, first + 1], prims[i, first + 2]


@function
def ray_color(prims, count, camera, u, v):
    """Colour seen along the ray through (u, v) in [-1, 1], v upwards: soft light from one side and from the sky."""
    spread = camera[12]
    dx = camera[9] + spread * (u * camera[3] + v * camera[6])
    dy = camera[10] + spread * (u * camera[4] + v * camera[7])
    dz = camera[11] + spread * (u * camera[5] + v * camera[8])
    scale = ONE / length3(dx, dy, dz)
    dx, dy, dz = dx * scale, dy * scale, dz * scale
    t, i = first_hit(prims, count, camera[0], camera[1], camera[2], dx, dy, dz)
    if i < 0:
        top = HALF + HALF * v
        bottom = ONE - top
        return (
            camera[13] * top + camera[16] * bottom,
            camera[14] * top + camera[17] * bottom,
            camera[15] * top + camera[18] * bottom,
        )
    mx, my, mz = camera[0] - prims[i, 1], camera[1] - prims[i, 2], camera[2] - prims[i, 3]
    x, y, z = to_local(prims, i, mx + t * dx, my + t * dy, mz + t * dz)
    red, green, blue = surface_color(prims, i, x, y, z)
    x, y, z = local_normal(prims, i, x, y, z)
    nx = prims[i, 4] * x + prims[i, 7] * y + prims[i, 10] * z
    ny = prims[i, 5] * x + prims[i, 8] * y + prims[i, 11] * z
    nz = prims[i, 6] * x + prims[i, 9] * y + prims[i, 12] * z
    diffuse = max(nx * camera[19] + ny * camera[20] + nz * camera[21], ZERO)
    shade = camera[22] + f32(0.3) * (HALF + HALF * nz) + camera[23] * diffuse
    hx, hy, hz = camera[19] - dx, camera[20] - dy, camera[21] - dz  # half way between the light and the eye
    highlight = max((nx * hx + ny * hy + nz * hz) / max(length3(hx, hy, hz), f32(1e-6)), ZERO)
    highlight = highlight * highlight * highlight
    highlight = highlight * highlight
    highlight = highlight * highlight
    highlight = prims[i, 25] * highlight * highlight * highlight  # the 24th power
    if prims[i, 25] > f32(0.4):  # metals brighten where they face the eye
        shade += f32(0.25) * (max(-(nx * dx + ny * dy + nz * dz), ZERO) - HALF)
    return (
        clamp(red * shade + highlight, ZERO, ONE),
        clamp(green * shade + highlight, ZERO, ONE),
        clamp(blue * shade + highlight, ZERO, ONE),
    )


@function
def draw_pixel(prims, count, camera, column, row, size, samples, picture):
    """Write the mean of samples x samples rays into picture[:, row, column] (uint8)."""
    red, green, blue = ZERO, ZERO, ZERO
    step = ONE / f32(samples)
    pixel = TWO / f32(size)
    for j in range(samples):
        for k in range(samples):
            u = (f32(column) + (f32(k) + HALF) * step) * pixel - ONE
            v = ONE - (f32(row) + (f32(j) + HALF) * step) * pixel
            r, g, b = ray_color(prims, count, camera, u, v)
            red, green, blue = red + r, green + g, blue + b
    level = f32(255) * step * step
    picture[0, row, column] = np.uint8(red * level + HALF)
    picture[1, row, column] = np.uint8(green * level + HALF)
    picture[2, row, column] = np.uint8(blue * level + HALF)


@function
def scramble(state):
    """A 32-bit integer hash (C. Wellons' lowbias32), carried in 64 bits."""
    state = ((state ^ (state >> SHIFT_16)) * MIX_A) & WORD
    state = ((state ^ (state >> SHIFT_15)) * MIX_B) & WORD
    return state ^ (state >> SHIFT_16)


@function
def uniform(state):
    """Next state and a number in [0, 1)."""
    state = scramble((state + STRIDE) & WORD)
    return state, f32(state >> SHIFT_8) * UNIT


@function
def point_on_sphere(state):
    state, u = uniform(state)
    state, v = uniform(state)
    z = TWO * u - ONE
    radius = math.sqrt(max(ONE - z * z, ZERO))
    return state, radius * math.cos(FULL_TURN * v), radius * math.sin(FULL_TURN * v), z


@function
def draw_surface_point(prims, count, seed, point):
    """Write one visible surface point and its colour into point[:6].

    A chord between two random points of a sphere is a uniformly random line, and such lines meet a surface in
    proportion to its area (Crofton). The first thing the chord meets is a point that can be seen from outside.
    """
    state = scramble(np.uint64(seed) & WORD)
    for _ in range(MAX_LAUNCHES):
        state, ox, oy, oz = point_on_sphere(state)
        state, dx, dy, dz = point_on_sphere(state)
        dx, dy, dz = dx - ox, dy - oy, dz - oz
        scale = ONE / max(length3(dx, dy, dz), f32(1e-6))
        dx, dy, dz = dx * scale, dy * scale, dz * scale
        ox, oy, oz = ox * LAUNCH_RADIUS, oy * LAUNCH_RADIUS, oz * LAUNCH_RADIUS
        t, i = first_hit(prims, count, ox, oy, oz, dx, dy, dz)
        if i >= 0:
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            point[0], point[1], point[2] = x, y, z
            x, y, z = to_local(prims, i, x - prims[i, 1], y - prims[i, 2], z - prims[i, 3])
            point[3], point[4], point[5] = surface_color(prims, i, x, y, z)
            return
    for k in range(6):  # no chord of 256 met the object: take the place and colour of its first primitive
        point[k] = prims[0, 1 + k] if k < 3 else prims[0, 14 + k]


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def draw_on_cpu(rows, starts, counts, scene_index, cameras, samples, pictures):
    size = pictures.shape[2]
    for line in numba.prange(pictures.shape[0] * size):
        image, row = line // size, line % size
        scene = scene_index[image]
        start, count = starts[scene], counts[scene]
        for column in range(size):
            draw_pixel(rows[start : start + count], count, cameras[image], column, row, size, samples, pictures[image])


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def sample_on_cpu(rows, starts, counts, seed, points):
    per_scene = points.shape[1]
    for scene in numba.prange(points.shape[0]):
        start, count = starts[scene], counts[scene]
        for k in range(per_scene):
            draw_surface_point(rows[start : start + count], count, seed + scene * per_scene + k, points[scene, k])


@functools.cache
def cuda_kernels() -> tuple[Any, Any]:
    """The two kernels for CUDA: pictures and surface points. Imports numba.cuda, so only when a GPU is asked for."""
    from numba import cuda

    numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = False  # one picture is a block, however few there are

    @cuda.jit(fastmath=True)
    def draw(rows, starts, counts, scene_index, cameras, samples, pictures):
        prims = cuda.shared.array((MAX_PRIMITIVES, PRIM), numba.float32)
        camera = cuda.shared.array(CAM, numba.float32)
        image, thread = cuda.blockIdx.x, cuda.threadIdx.x
        scene = scene_index[image]
        start, count = starts[scene], min(counts[scene], MAX_PRIMITIVES)
        for k in range(thread, count * PRIM, THREADS):
            prims[k // PRIM, k % PRIM] = rows[start + k // PRIM, k % PRIM]
        if thread < CAM:
            camera[thread] = cameras[image, thread]
        cuda.syncthreads()
        size = pictures.shape[2]
        tiles = (size + TILE - 1) // TILE
        for k in range(thread, tiles * tiles * TILE * TILE, THREADS):
            tile, inside = k // (TILE * TILE), k % (TILE * TILE)
            column, row = (tile % tiles) * TILE + inside % TILE, (tile // tiles) * TILE + inside // TILE
            if column < size and row < size:
                draw_pixel(prims, count, camera, column, row, size, samples, pictures[image])

    @cuda.jit(fastmath=True)
    def sample(rows, starts, counts, seed, points):
        prims = cuda.shared.array((MAX_PRIMITIVES, PRIM), numba.float32)
        scene, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, count = starts[scene], min(counts[scene], MAX_PRIMITIVES)
        for k in range(thread, count * PRIM, THREADS):
            prims[k // PRIM, k % PRIM] = rows[start + k // PRIM, k % PRIM]
        cuda.syncthreads()
        per_scene = points.shape[1]
        for k in range(thread, per_scene, THREADS):
            draw_surface_point(prims, count, seed + scene * per_scene + k, points[scene, k])

    return draw, sample


def _launch(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Run a CUDA kernel on torch's current stream; tensors are handed over in place, never copied."""
    from numba import cuda

    handle = torch.cuda.current_stream().cuda_stream
    stream = cuda.external_stream(handle) if handle else cuda.default_stream()
    handed = [cuda.as_cuda_array(a, sync=False) if isinstance(a, torch.Tensor) else a for a in arguments]
    kernel[blocks, THREADS, stream](*handed)


def _table(rows: Any, starts: Any, counts: Any, device: torch.device) -> list[torch.Tensor]:
    if not (isinstance(counts, torch.Tensor) and counts.is_cuda) and len(counts) and int(max(counts)) > MAX_PRIMITIVES:
        raise ValueError(f"a scene has {int(max(counts))} primitives; the renderer takes at most {MAX_PRIMITIVES}")
    if rows.shape[1] != PRIM:
        raise ValueError(f"scene rows have {rows.shape[1]} numbers; expected {PRIM} (see pipeline/embedded/objects.py)")
    return [
        _on(rows, torch.float32, device),
        _on(starts, torch.int32, device),
        _on(counts, torch.int32, device),
    ]


def _on(array: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(array).to(device=device, dtype=dtype).contiguous()


def render(
    rows: Any,
    starts: Any,
    counts: Any,
    scene_index: Any,
    cameras: Any,
    size: int = 64,
    samples: int = 2,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Pictures of scenes: torch.uint8 [n, 3, size, size] on `device`.

    `rows` [P, PRIM] holds the primitives of all scenes, scene k in rows starts[k] .. starts[k] + counts[k];
    `scene_index` [n] and `cameras` [n, CAM] say what each picture shows. Arrays or tensors; those already on the device
    are used in place. samples x samples rays a pixel. ValueError: rows of the wrong width, or a scene too large.
    """
    device = torch.device(device)
    table = _table(rows, starts, counts, device)
    scene_index, cameras = _on(scene_index, torch.int32, device), _on(cameras, torch.float32, device)
    pictures = torch.empty(len(cameras), 3, size, size, dtype=torch.uint8, device=device)
    if not len(pictures):
        return pictures
    if device.type == "cuda":
        _launch(cuda_kernels()[0], len(pictures), *table, scene_index, cameras, samples, pictures)
    else:
        arrays = [tensor.numpy() for tensor in (*table, scene_index, cameras)]
        draw_on_cpu(*arrays, samples, pictures.numpy())
    return pictures


def surface_points(
    rows: Any, starts: Any, counts: Any, points: int, seed: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Visible points of every scene, even in area: torch.float32 [S, points, 6], xyz in the unit ball, rgb in 0..1."""
    device = torch.device(device)
    table = _table(rows, starts, counts, device)
    cloud = torch.empty(len(table[1]), points, 6, dtype=torch.float32, device=device)
    if not cloud.numel():
        return cloud
    if device.type == "cuda":
        _launch(cuda_kernels()[1], len(cloud), *table, seed, cloud)
    else:
        sample_on_cpu(*(tensor.numpy() for tensor in table), seed, cloud.numpy())
    return cloud
