"""CPU kernels of `hash_grid.py`: the encoding, its gradient on the table and its gradient on the positions.

A kernel divides its points into blocks. For a block and a level, `_corners` computes weights and entries in vectorized
loops; then the points read the table, or add to it, one after another. No two threads add to the same number: the
gradient on the table is divided by levels, the one on the positions by points. So results are bit-identical for any
number of threads. v_x denotes the gradient of the loss with respect to x.

The arguments are: table[entries F], flattened; positions[num, 3]; grid[L, 3], of each level the cells along an edge,
the first entry, and T - 1 if the level is hashed, else 0; encoding[num, L F]; and `features`, a tuple of length F, for
which numba compiles a version with unrolled loops.
"""

import numpy as np

from sctd.render.cpu_projection import inline, kernel, vector_kernel

BLOCK = 256  # points; the scratch arrays of a block fit into the first-level cache
HASH_Y, HASH_Z = 2654435761, 805459861  # π₂ and π₃ of Eq. 4; π₁ is 1

# A Python float would promote float32 to float64, and a Python integer uint32 to int64.
_ZERO, _ONE = np.float32(0), np.float32(1)
_HASH_Y, _HASH_Z = np.uint32(HASH_Y), np.uint32(HASH_Z)


@inline
def _scratch():
    """Of a block: coordinates clamped to [0, 1], fractions of a cell, cells; weights and offsets of the corners."""
    axes = np.empty((3, BLOCK), np.float32), np.empty((3, BLOCK), np.float32), np.empty((3, BLOCK), np.uint32)
    return *axes, np.empty((8, BLOCK), np.float32), np.empty((8, BLOCK), np.uint32)


@kernel
def _clamp(positions, coordinates):
    """Write the positions of a block to coordinates[3, BLOCK], clamped to [0, 1]."""
    for i in range(positions.shape[0]):
        for axis in range(3):
            x = positions[i, axis]
            coordinates[axis, i] = _ZERO if x < _ZERO else _ONE if x > _ONE else x


# Without fast-math: the fractions are rounded as torch rounds them.
@kernel
def _corners(count, level, features, coordinates, fractions, cells, weights, offsets):
    """Weights of the corners of `count` points and offsets of their entries in the flat table.

    Corner c is at x + (c & 1), y + (c >> 1 & 1), z + (c >> 2).
    """
    num_cells, first, mask = np.int32(level[0]), np.uint32(level[1]), np.uint32(level[2])
    for axis in range(3):
        for i in range(count):
            scaled = coordinates[axis, i] * np.float32(num_cells)
            cell = min(np.int32(num_cells - 1), np.int32(scaled) if scaled > _ZERO else np.int32(0))  # 0 if it is NaN
            fractions[axis, i] = scaled - np.float32(cell)
            cells[axis, i] = cell
    row = np.uint32(num_cells + 1)
    factor_y, factor_z = (_HASH_Y, _HASH_Z) if mask else (row, np.uint32(row * row))
    for corner in range(8):
        dx, dy, dz = np.uint32(corner & 1), np.uint32(corner >> 1 & 1), np.uint32(corner >> 2)
        for i in range(count):
            u, v, w = fractions[0, i], fractions[1, i], fractions[2, i]
            u, v, w = u if dx else _ONE - u, v if dy else _ONE - v, w if dz else _ONE - w
            weights[corner, i] = u * v * w
        for i in range(count):
            x = np.uint32(cells[0, i] + dx)
            y, z = np.uint32((cells[1, i] + dy) * factor_y), np.uint32((cells[2, i] + dz) * factor_z)
            entry = np.uint32((x ^ y ^ z) & mask if mask else x + y + z)
            offsets[corner, i] = (first + entry) * np.uint32(len(features))


@vector_kernel
def encode(start, stop, table, positions, grid, features, encoding):
    """Encode points `start` … `stop`-1."""
    coordinates, fractions, cells, w, offsets = _scratch()
    num = len(features)
    for block in range(start, stop, BLOCK):
        past = min(stop, block + BLOCK)
        _clamp(positions[block:past], coordinates)
        for level in range(grid.shape[0]):
            _corners(past - block, grid[level], features, coordinates, fractions, cells, w, offsets)
            output = encoding[block:past, level * num : (level + 1) * num]
            for i in range(past - block):
                a, b, c, d = offsets[0, i], offsets[1, i], offsets[2, i], offsets[3, i]
                e, f, g, h = offsets[4, i], offsets[5, i], offsets[6, i], offsets[7, i]
                for k in range(len(features)):
                    n = np.uint32(k)
                    value = w[0, i] * table[a + n] + w[1, i] * table[b + n]
                    value += w[2, i] * table[c + n] + w[3, i] * table[d + n]
                    value += w[4, i] * table[e + n] + w[5, i] * table[f + n]
                    value += w[6, i] * table[g + n] + w[7, i] * table[h + n]
                    output[i, k] = value


@vector_kernel
def table_backward(start, stop, positions, grid, features, v_encoding, v_table):
    """Add the gradient on the flat table from levels `start` … `stop`-1."""
    coordinates, fractions, cells, weights, offsets = _scratch()
    num = len(features)
    for block in range(0, positions.shape[0], BLOCK):
        past = min(positions.shape[0], block + BLOCK)
        _clamp(positions[block:past], coordinates)
        for level in range(start, stop):
            _corners(past - block, grid[level], features, coordinates, fractions, cells, weights, offsets)
            v_output = v_encoding[block:past, level * num : (level + 1) * num]
            for i in range(past - block):
                for corner in range(8):
                    weight, offset = weights[corner, i], offsets[corner, i]
                    for k in range(len(features)):
                        v_table[offset + np.uint32(k)] += weight * v_output[i, k]


@vector_kernel
def _add_slopes(count, num_cells, dots, fractions, slopes):
    """Add to slopes[3, BLOCK] the derivative of the interpolation of the corners' `dots` along each axis."""
    for axis in range(3):
        # The other two axes, and the steps from a corner to its neighbours along each axis.
        p, q = (axis + 1) % 3, (axis + 2) % 3
        step, step_p, step_q = 1 << axis, 1 << p, 1 << q
        for i in range(count):
            a = dots[step, i] - dots[0, i]
            b = dots[step + step_p, i] - dots[step_p, i]
            c = dots[step + step_q, i] - dots[step_q, i]
            d = dots[7, i] - dots[step_p + step_q, i]
            near, far = a + fractions[p, i] * (b - a), c + fractions[p, i] * (d - c)
            slopes[axis, i] += np.float32(num_cells) * (near + fractions[q, i] * (far - near))


@vector_kernel
def positions_backward(start, stop, table, positions, grid, features, v_encoding, v_positions):
    """Write the gradient on points `start` … `stop`-1; coordinates outside [0, 1] get none."""
    coordinates, fractions, cells, weights, offsets = _scratch()
    dots, slopes = np.empty((8, BLOCK), np.float32), np.empty((3, BLOCK), np.float32)
    num = len(features)
    for block in range(start, stop, BLOCK):
        past = min(stop, block + BLOCK)
        _clamp(positions[block:past], coordinates)
        slopes[:] = _ZERO
        for level in range(grid.shape[0]):
            _corners(past - block, grid[level], features, coordinates, fractions, cells, weights, offsets)
            v_output = v_encoding[block:past, level * num : (level + 1) * num]
            for i in range(past - block):
                for corner in range(8):
                    dot, offset = _ZERO, offsets[corner, i]
                    for k in range(len(features)):
                        dot += v_output[i, k] * table[offset + np.uint32(k)]
                    dots[corner, i] = dot
            _add_slopes(past - block, grid[level, 0], dots, fractions, slopes)
        for i in range(past - block):
            for axis in range(3):
                inside = _ZERO <= positions[block + i, axis] <= _ONE
                v_positions[block + i, axis] = slopes[axis, i] if inside else _ZERO
