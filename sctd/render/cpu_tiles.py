"""CPU kernels, second half: compositing in tiles, with the semantics of gsplat 1.5.3.

From near to far, every Gaussian contributes alpha T to a pixel, where T is the transmittance of the nearer ones. Tiles
are 8 × 16 pixels: eight pixels of a row fill one vector register. No two threads add to the same number: the gradient
of a Gaussian in one tile has its own slot, and slots are added in order. So results are bit-identical for any division
of the work. Compositing uses float32.
"""

import math

import numpy as np

from sctd.render.cpu_projection import ALPHA_MIN, inline, kernel, vector_kernel

ALPHA_MAX = 0.999  # larger alphas are clamped and get no gradient
TRANSMITTANCE_MIN = 1e-4  # a pixel stops before the Gaussian that would lower its transmittance to this value

LANES, ROWS = 8, 16  # a tile is LANES wide and ROWS high
PIXELS = LANES * ROWS
CHANNELS = 4  # composited together: red, green, blue and depth
MOMENTS = 6  # Σ v, Σ v dx, Σ v dy, Σ v dx², Σ v dx dy, Σ v dy² with v the gradient of a pixel's exponent
SLOT = MOMENTS + CHANNELS

# One scratch array per tile, so that the compiler knows the offsets of its parts: transmittance, the entry that stopped
# the pixel, colours (backwards: their gradient), the contribution from behind, and the sums.
T, STOP, COLOR = 0, PIXELS, 2 * PIXELS
BEHIND = COLOR + CHANNELS * PIXELS
SUMS = BEHIND + PIXELS
SCRATCH = SUMS + SLOT * LANES

# A Python float would promote float32 to float64.
_f = np.float32
_HALF, _ONE, _ZERO = _f(0.5), _f(1), _f(0)
_ALPHA_MIN, _ALPHA_MAX, _TRANSMITTANCE_MIN = _f(ALPHA_MIN), _f(ALPHA_MAX), _f(TRANSMITTANCE_MIN)
_LOG2_E, _NEVER = _f(math.log2(math.e)), _f(1e9)
# 2^x on [-1/2, 1/2] by its Taylor series; the remainder is about the rounding error of float32.
_E1, _E2, _E3, _E4, _E5, _E6 = (_f(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))


@inline
def _first_and_past(mean, extent, size):
    """Pixels first … past-1 of 0 … size-1 whose centres are within `extent` + 0.01 pixel of `mean`."""
    first = math.ceil(min(float(size), max(0.0, mean - extent - 0.51)))
    past = math.floor(min(float(size), max(0.0, mean + extent + 0.51)))
    return int(first), int(past)


@inline
def _near_to_far(depths, extents):
    """Indices of visible Gaussians, nearest first and stable for equal depths: a radix sort of the depths' bits."""
    visible = np.empty(depths.size, np.int32)
    count = 0
    for n in range(depths.size):
        if extents[n, 0] > 0:
            visible[count] = n
            count += 1
    order, other = visible[:count], np.empty(count, np.int32)
    keys = depths.view(np.int32)  # positive floats have the order of their bits
    starts = np.empty(2049, np.int64)
    for shift in (0, 11, 22):
        starts[:] = 0
        for i in order:
            starts[((keys[i] >> shift) & 2047) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for i in order:
            digit = (keys[i] >> shift) & 2047
            other[starts[digit]] = i
            starts[digit] += 1
        order, other = other, order
    return order


@kernel
def bin_to_tiles(means2d, depths, extents, width, height):
    """List the Gaussians of every tile of one view, from near to far.

    Returns tile_starts[tiles + 1] into `gaussians` and `slots`, row by row of tiles, and slot_starts[N + 1]: Gaussian n
    has the slots slot_starts[n] … slot_starts[n + 1] - 1, one for every tile that it overlaps.
    """
    num, tiles_x, tiles_y = depths.size, -(-width // LANES), -(-height // ROWS)
    slot_starts, tile_starts = np.zeros(num + 1, np.int64), np.zeros(tiles_x * tiles_y + 1, np.int64)
    boxes = np.zeros((num, 4), np.int32)  # tiles: first and past in x, first and past in y
    for n in range(num):
        if extents[n, 0] > 0:
            first, past = _first_and_past(means2d[n, 0], extents[n, 0], width)
            top, bottom = _first_and_past(means2d[n, 1], extents[n, 1], height)
            if first < past and top < bottom:
                boxes[n, 0], boxes[n, 1] = first // LANES, -(-past // LANES)
                boxes[n, 2], boxes[n, 3] = top // ROWS, -(-bottom // ROWS)
                for tile_y in range(boxes[n, 2], boxes[n, 3]):
                    for tile_x in range(boxes[n, 0], boxes[n, 1]):
                        tile_starts[tile_y * tiles_x + tile_x + 1] += 1
        slot_starts[n + 1] = slot_starts[n] + (boxes[n, 1] - boxes[n, 0]) * (boxes[n, 3] - boxes[n, 2])
    for tile in range(tiles_x * tiles_y):
        tile_starts[tile + 1] += tile_starts[tile]
    ends = tile_starts[:-1].copy()
    gaussians, slots = np.empty(slot_starts[num], np.int32), np.empty(slot_starts[num], np.int64)
    for n in _near_to_far(depths, extents):
        slot = slot_starts[n]
        for tile_y in range(boxes[n, 2], boxes[n, 3]):
            for tile_x in range(boxes[n, 0], boxes[n, 1]):
                end = ends[tile_y * tiles_x + tile_x]
                gaussians[end], slots[end] = n, slot
                ends[tile_y * tiles_x + tile_x] += 1
                slot += 1
    return tile_starts, gaussians, slots, slot_starts


@inline
def _exp(x):
    """e^x in float32 for -80 ≤ x ≤ 0 with vectorizable operations: 2^(n + f) with |f| ≤ 1/2."""
    x = x * _LOG2_E
    n = np.floor(x + _HALF)
    f = x - n
    power = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
    return power * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@vector_kernel
def _composite_rows(s, first, past, position, m_x, m_y, a, b, c, opacity, red, green, blue, depth):
    """Composite one Gaussian, the `position`-th of a tile, behind the existing content of rows `first` … `past`-1."""
    for y in range(first, past):
        dy = _f(y) - m_y
        row = (y & (ROWS - 1)) * LANES  # y itself; the mask proves the range, which vectorization needs
        for lane in range(LANES):
            dx = _f(lane) - m_x
            exponent = -_HALF * (a * dx * dx + c * dy * dy) - b * dx * dy
            alpha = min(_ALPHA_MAX, opacity * _exp(max(_f(-80), exponent)))
            before, stop_at = s[T + row + lane], s[STOP + row + lane]
            drawn = (exponent <= _ZERO) & (alpha >= _ALPHA_MIN) & (position < stop_at)
            alpha = alpha if drawn else _ZERO
            after = before * (_ONE - alpha)
            refused = after <= _TRANSMITTANCE_MIN
            s[STOP + row + lane] = position if refused else stop_at
            weight = _ZERO if refused else alpha * before
            s[T + row + lane] = before if refused else after
            s[COLOR + row + lane] += weight * red
            s[COLOR + PIXELS + row + lane] += weight * green
            s[COLOR + 2 * PIXELS + row + lane] += weight * blue
            s[COLOR + 3 * PIXELS + row + lane] += weight * depth


@vector_kernel
def composite(start, stop, tile_starts, gaussians, means2d, conics, extents, opacities, colors, image, transmittance,
              stops):  # fmt: skip
    """Composite tiles `start` … `stop`-1 of one view: image[4, H, W] without background, transmittance[H, W].

    stops[H, W] is the position in the tile's list at which a pixel stopped, for the backward pass.
    """
    height, width = transmittance.shape
    tiles_x = -(-width // LANES)
    s = np.empty(SCRATCH, np.float32)
    for tile in range(start, stop):
        x_0, y_0 = (tile % tiles_x) * LANES, (tile // tiles_x) * ROWS
        rows = min(ROWS, height - y_0)
        for i in range(PIXELS):
            s[T + i], s[STOP + i] = _ONE, _NEVER
        for i in range(COLOR, COLOR + CHANNELS * PIXELS):
            s[i] = _ZERO
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            n = gaussians[entry]
            position = _f(entry - tile_starts[tile])
            a, b, c, opacity = conics[n, 0], conics[n, 1], conics[n, 2], opacities[n]
            red, green, blue, depth = colors[n, 0], colors[n, 1], colors[n, 2], colors[n, 3]
            m_x, m_y = means2d[n, 0] - _f(x_0) - _HALF, means2d[n, 1] - _f(y_0) - _HALF
            first, past = _first_and_past(means2d[n, 1] - y_0, extents[n, 1], rows)
            _composite_rows(s, first, past, position, m_x, m_y, a, b, c, opacity, red, green, blue, depth)
            if (entry - tile_starts[tile]) % 32 == 31 and _all_stopped(s):
                break
        for y in range(rows):
            for x in range(min(LANES, width - x_0)):
                i = y * LANES + x
                transmittance[y_0 + y, x_0 + x], stops[y_0 + y, x_0 + x] = s[T + i], s[STOP + i]
                for channel in range(CHANNELS):
                    image[channel, y_0 + y, x_0 + x] = s[COLOR + channel * PIXELS + i]


@inline
def _all_stopped(s):
    running = 0
    for i in range(STOP, STOP + PIXELS):
        running += s[i] == _NEVER
    return running == 0


@vector_kernel
def _composite_rows_backward(s, first, past, position, m_x, m_y, a, b, c, opacity, red, green, blue, depth):
    """Remove one Gaussian from rows `first` … `past`-1 of a tile and add its gradients there to the sums."""
    for y in range(first, past):
        dy = _f(y) - m_y
        row = (y & (ROWS - 1)) * LANES
        for lane in range(LANES):
            dx = _f(lane) - m_x
            exponent = -_HALF * (a * dx * dx + c * dy * dy) - b * dx * dy
            full = opacity * _exp(max(_f(-80), exponent))
            alpha = min(_ALPHA_MAX, full)
            drawn = (exponent <= _ZERO) & (alpha >= _ALPHA_MIN) & (position < s[STOP + row + lane])
            alpha = alpha if drawn else _ZERO
            left = _ONE / (_ONE - alpha)
            before, behind = s[T + row + lane] * left, s[BEHIND + row + lane]
            weight = alpha * before
            v_red, v_green = s[COLOR + row + lane], s[COLOR + PIXELS + row + lane]
            v_blue, v_depth = s[COLOR + 2 * PIXELS + row + lane], s[COLOR + 3 * PIXELS + row + lane]
            v_weight = v_red * red + v_green * green + v_blue * blue + v_depth * depth
            v_alpha = before * v_weight - left * behind
            v = full * v_alpha if drawn & (full <= _ALPHA_MAX) else _ZERO
            s[T + row + lane] = before
            s[BEHIND + row + lane] = behind + weight * v_weight
            s[SUMS + lane] += v
            s[SUMS + LANES + lane] += v * dx
            s[SUMS + 2 * LANES + lane] += v * dy
            s[SUMS + 3 * LANES + lane] += v * dx * dx
            s[SUMS + 4 * LANES + lane] += v * dx * dy
            s[SUMS + 5 * LANES + lane] += v * dy * dy
            s[SUMS + 6 * LANES + lane] += weight * v_red
            s[SUMS + 7 * LANES + lane] += weight * v_green
            s[SUMS + 8 * LANES + lane] += weight * v_blue
            s[SUMS + 9 * LANES + lane] += weight * v_depth


@vector_kernel
def composite_backward(start, stop, tile_starts, gaussians, slots, means2d, conics, extents, opacities, colors,
                       transmittance, stops, v_image, v_transmittance, sums):  # fmt: skip
    """Gradients of every Gaussian in tiles `start` … `stop`-1: sums[slots, SLOT], which must be zero on entry.

    Runs back to front, because the transmittance before a Gaussian follows from its alpha and the one after it.
    """
    height, width = transmittance.shape
    tiles_x = -(-width // LANES)
    s = np.empty(SCRATCH, np.float32)
    for tile in range(start, stop):
        x_0, y_0 = (tile % tiles_x) * LANES, (tile // tiles_x) * ROWS
        rows = min(ROWS, height - y_0)
        s[:] = _ZERO
        last = _ZERO
        for y in range(rows):
            for x in range(min(LANES, width - x_0)):
                i = y * LANES + x
                s[T + i], s[STOP + i] = transmittance[y_0 + y, x_0 + x], stops[y_0 + y, x_0 + x]
                s[BEHIND + i] = s[T + i] * v_transmittance[y_0 + y, x_0 + x]
                last = max(last, s[STOP + i])
                for channel in range(CHANNELS):
                    s[COLOR + channel * PIXELS + i] = v_image[channel, y_0 + y, x_0 + x]
        length = min(tile_starts[tile + 1] - tile_starts[tile], int(last))
        for reverse in range(length):
            entry = tile_starts[tile] + length - 1 - reverse
            n = gaussians[entry]
            position = _f(length - 1 - reverse)
            a, b, c, opacity = conics[n, 0], conics[n, 1], conics[n, 2], opacities[n]
            red, green, blue, depth = colors[n, 0], colors[n, 1], colors[n, 2], colors[n, 3]
            m_x, m_y = means2d[n, 0] - _f(x_0) - _HALF, means2d[n, 1] - _f(y_0) - _HALF
            first, past = _first_and_past(means2d[n, 1] - y_0, extents[n, 1], rows)
            for i in range(SUMS, SUMS + SLOT * LANES):
                s[i] = _ZERO
            _composite_rows_backward(s, first, past, position, m_x, m_y, a, b, c, opacity, red, green, blue, depth)
            slot = slots[entry]
            for k in range(SLOT):
                o = SUMS + k * LANES
                low, high = (s[o] + s[o + 1]) + (s[o + 2] + s[o + 3]), (s[o + 4] + s[o + 5]) + (s[o + 6] + s[o + 7])
                sums[slot, k] = low + high


@kernel
def gather(start, stop, slot_starts, sums, conics, opacities, v_means2d, v_conics, v_opacities, v_colors):
    """Add the slots of Gaussians `start` … `stop`-1 of one view in order and convert the moments to gradients."""
    total = np.empty(SLOT)
    for n in range(start, stop):
        if slot_starts[n] == slot_starts[n + 1]:
            continue
        total[:] = 0
        for slot in range(slot_starts[n], slot_starts[n + 1]):
            for k in range(SLOT):
                total[k] += sums[slot, k]
        a, b, c = conics[n, 0], conics[n, 1], conics[n, 2]
        v_means2d[n, 0], v_means2d[n, 1] = a * total[1] + b * total[2], b * total[1] + c * total[2]
        v_conics[n, 0], v_conics[n, 1], v_conics[n, 2] = -0.5 * total[3], -total[4], -0.5 * total[5]
        v_opacities[n] = total[0] / opacities[n]
        for channel in range(CHANNELS):
            v_colors[n, channel] = total[MOMENTS + channel]
