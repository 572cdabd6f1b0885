"""CPU kernels, first half: projection. This is the only module that imports numba.

The semantics are those of gsplat 1.5.3 (Kerbl et al. 2023; Ye et al. 2025): a Gaussian is projected by the affine
approximation of EWA splatting (Zwicker et al. 2001), widened by 0.3 px², and bounded where its opacity falls to 1/255.
`cpu_tiles` composites; `cpu_autograd` wraps both halves in autograd functions. Projection uses float64 because it is
cheap. A Gaussian that is not finite is not drawn. v_x denotes the gradient of the loss with respect to x.

numba caches compiled code next to the source (or in NUMBA_CACHE_DIR) until that file changes. After editing a constant
here, touch `cpu_tiles.py` too.
"""

import inspect
import math

import numpy as np
from numba import njit

BLUR = 0.3  # px², added to both variances of the projected Gaussian
NEAR, FAR = 0.01, 1e10  # world units
ALPHA_MIN = 1 / 255  # smaller alphas are skipped
FRUSTUM_MARGIN = 0.3  # the Jacobian is clamped to this share of the half field of view outside the image
EXTENT_MAX = 3.33  # standard deviations at which opacity 1 falls to ALPHA_MIN
EXTENT_CAP = 1e9  # px, so that a radius fits into an integer


def kernel(function, **options):
    """Compile a function and cache the result; nogil, so that threads can run in parallel."""
    return njit(cache=True, nogil=True, error_model="numpy", **options)(inspect.unwrap(function))


def vector_kernel(function):
    """A kernel with a vectorized inner loop; fast-math only fuses multiply-add and ignores the sign of zero."""
    return kernel(function, fastmath={"contract", "nsz"})


def inline(function):
    """An inlined part of a kernel."""
    # The type checker of the tests wraps every function; numba needs the unwrapped one.
    return njit(inline="always", error_model="numpy")(inspect.unwrap(function))


@inline
def _rotation(quat, n, R):
    """Write R(q / |q|) to R and return the norm of q."""
    w, x, y, z = float(quat[n, 0]), float(quat[n, 1]), float(quat[n, 2]), float(quat[n, 3])
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    R[0, 0], R[0, 1], R[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return norm


@inline
def _in_camera(view, means, n):
    """The mean in camera coordinates."""
    a, b, c = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
    x = view[0, 0] * a + view[0, 1] * b + view[0, 2] * c + view[0, 3]
    y = view[1, 0] * a + view[1, 1] * b + view[1, 2] * c + view[1, 3]
    z = view[2, 0] * a + view[2, 1] * b + view[2, 2] * c + view[2, 3]
    return x, y, z


@inline
def _slope_limits(focal, center, size):
    """The range to which x / z (or y / z) is clamped in the Jacobian."""
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    return -(center / focal + margin), (size - center) / focal + margin


@inline
def _half_covariance(view, R, scales, n, f_x, f_y, u, v, A, B):
    """B = J W R S, so that the projected covariance is B Bᵀ; A = W R S. `u`, `v` are the clamped x / z and y / z."""
    for k in range(3):
        s = float(scales[n, k])
        for i in range(3):
            A[i, k] = (view[i, 0] * R[0, k] + view[i, 1] * R[1, k] + view[i, 2] * R[2, k]) * s
        B[0, k] = f_x * (A[0, k] - u * A[2, k])
        B[1, k] = f_y * (A[1, k] - v * A[2, k])


@kernel
def project(start, stop, means, quats, scales, opacities, views, intrinsics, width, height, antialiased,
            means2d, depths, conics, compensations, extents):  # fmt: skip
    """Project Gaussians `start` … `stop`-1 into every view. Outputs must be zero on entry; invisible ones stay zero.

    means2d[V, N, 2] px, depths[V, N], conics[V, N, 3] = inverse covariance (xx, xy, yy) in px⁻², compensations[V, N],
    extents[V, N, 2] = half the bounding box in px of the region where alpha is at least ALPHA_MIN.
    """
    R, A, B = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
    for n in range(start, stop):
        _rotation(quats, n, R)
        for i in range(views.shape[0]):
            x, y, z = _in_camera(views[i], means, n)
            if not NEAR <= z <= FAR:
                continue
            K = intrinsics[i]
            left, right = _slope_limits(K[0, 0], K[0, 2], width)
            top, bottom = _slope_limits(K[1, 1], K[1, 2], height)
            u, v = min(right, max(left, x / z)), min(bottom, max(top, y / z))
            _half_covariance(views[i], R, scales, n, K[0, 0] / z, K[1, 1] / z, u, v, A, B)
            xx = B[0, 0] * B[0, 0] + B[0, 1] * B[0, 1] + B[0, 2] * B[0, 2]
            xy = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
            yy = B[1, 0] * B[1, 0] + B[1, 1] * B[1, 1] + B[1, 2] * B[1, 2]
            det_sharp = xx * yy - xy * xy
            xx, yy = xx + BLUR, yy + BLUR
            det = xx * yy - xy * xy
            compensation = math.sqrt(max(0.0, det_sharp / det))
            opacity = opacities[n] * (compensation if antialiased else 1.0)
            if not (0 < det < math.inf and opacity >= ALPHA_MIN):
                continue
            reach = min(EXTENT_MAX, math.sqrt(2 * math.log(opacity / ALPHA_MIN)))
            extent_x, extent_y = min(reach * math.sqrt(xx), EXTENT_CAP), min(reach * math.sqrt(yy), EXTENT_CAP)
            radius_x, radius_y = math.ceil(extent_x), math.ceil(extent_y)
            m_x, m_y = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
            if not (m_x + radius_x > 0 and m_x - radius_x < width and m_y + radius_y > 0 and m_y - radius_y < height):
                continue
            means2d[i, n, 0], means2d[i, n, 1], depths[i, n] = m_x, m_y, z
            conics[i, n, 0], conics[i, n, 1], conics[i, n, 2] = yy / det, -xy / det, xx / det
            compensations[i, n] = compensation
            extents[i, n, 0], extents[i, n, 1] = extent_x, extent_y


@inline
def _rotation_backward(n, quats, norm, v_R, v_quats):
    """v_R to v_quats[n]: differentiate R by the unit quaternion, then remove the component along the quaternion."""
    w, x, y, z = quats[n, 0] / norm, quats[n, 1] / norm, quats[n, 2] / norm, quats[n, 3] / norm
    sum_xy, sum_xz, sum_yz = v_R[0, 1] + v_R[1, 0], v_R[0, 2] + v_R[2, 0], v_R[1, 2] + v_R[2, 1]
    turn_x, turn_y, turn_z = v_R[2, 1] - v_R[1, 2], v_R[0, 2] - v_R[2, 0], v_R[1, 0] - v_R[0, 1]
    v_w = 2 * (x * turn_x + y * turn_y + z * turn_z)
    v_x = 2 * (w * turn_x + y * sum_xy + z * sum_xz - 2 * x * (v_R[1, 1] + v_R[2, 2]))
    v_y = 2 * (w * turn_y + x * sum_xy + z * sum_yz - 2 * y * (v_R[0, 0] + v_R[2, 2]))
    v_z = 2 * (w * turn_z + x * sum_xz + y * sum_yz - 2 * z * (v_R[0, 0] + v_R[1, 1]))
    along = w * v_w + x * v_x + y * v_y + z * v_z
    v_quats[n, 0], v_quats[n, 1] = (v_w - along * w) / norm, (v_x - along * x) / norm
    v_quats[n, 2], v_quats[n, 3] = (v_y - along * y) / norm, (v_z - along * z) / norm


@kernel
def project_backward(start, stop, means, quats, scales, views, intrinsics, width, height, conics, compensations,
                     extents, v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales):  # fmt: skip
    """Backpropagate from the outputs of `project` to means, quats and scales, adding views in their order."""
    R, A, B, v_B, v_A = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty((3, 3))
    v_M = np.empty((3, 3))  # of M = R S
    for n in range(start, stop):
        norm = _rotation(quats, n, R)
        v_M[:] = 0
        a, b, c = 0.0, 0.0, 0.0
        for i in range(views.shape[0]):
            if extents[i, n, 0] == 0:
                continue
            view, K = views[i], intrinsics[i]
            x, y, z = _in_camera(view, means, n)
            left, right = _slope_limits(K[0, 0], K[0, 2], width)
            top, bottom = _slope_limits(K[1, 1], K[1, 2], height)
            u, v = min(right, max(left, x / z)), min(bottom, max(top, y / z))
            f_x, f_y = K[0, 0] / z, K[1, 1] / z
            _half_covariance(view, R, scales, n, f_x, f_y, u, v, A, B)

            # Q = C⁻¹, so v_C = -Q v_Q Q.
            p, q, r = float(conics[i, n, 0]), float(conics[i, n, 1]), float(conics[i, n, 2])
            v_p, v_q, v_r = float(v_conics[i, n, 0]), 0.5 * v_conics[i, n, 1], float(v_conics[i, n, 2])
            upper_left, upper_right = p * v_p + q * v_q, p * v_q + q * v_r  # of Q v_Q
            lower_left, lower_right = q * v_p + r * v_q, q * v_q + r * v_r
            v_xx, v_yy = -(upper_left * p + upper_right * q), -(lower_left * q + lower_right * r)
            v_xy = -(upper_left * q + upper_right * r)
            # compensation² = |C - BLUR| / |C|
            compensation = float(compensations[i, n])
            v_square = 0.5 * v_compensations[i, n] / max(compensation, 1e-6)
            rest, v_det = 1 - compensation * compensation, BLUR * (p * r - q * q)
            v_xx += v_square * (rest * p - v_det)
            v_xy += v_square * rest * q
            v_yy += v_square * (rest * r - v_det)

            v_u, v_v, v_x, v_y, v_z = 0.0, 0.0, 0.0, 0.0, float(v_depths[i, n])
            for j in range(3):
                v_B[0, j] = 2 * (v_xx * B[0, j] + v_xy * B[1, j])
                v_B[1, j] = 2 * (v_xy * B[0, j] + v_yy * B[1, j])
                v_A[0, j], v_A[1, j] = f_x * v_B[0, j], f_y * v_B[1, j]
                v_A[2, j] = -u * v_A[0, j] - v * v_A[1, j]
                v_u -= v_A[0, j] * A[2, j]
                v_v -= v_A[1, j] * A[2, j]
                v_z -= (v_B[0, j] * B[0, j] + v_B[1, j] * B[1, j]) / z
            v_mx, v_my = float(v_means2d[i, n, 0]), float(v_means2d[i, n, 1])
            v_u = v_u if left <= x / z <= right else 0.0
            v_v = v_v if top <= y / z <= bottom else 0.0
            v_x, v_y = (v_u / z + f_x * v_mx), (v_v / z + f_y * v_my)
            v_z -= (v_x * x + v_y * y) / z
            a += view[0, 0] * v_x + view[1, 0] * v_y + view[2, 0] * v_z
            b += view[0, 1] * v_x + view[1, 1] * v_y + view[2, 1] * v_z
            c += view[0, 2] * v_x + view[1, 2] * v_y + view[2, 2] * v_z
            for j in range(3):
                for axis in range(3):
                    v_M[j, axis] += view[0, j] * v_A[0, axis] + view[1, j] * v_A[1, axis] + view[2, j] * v_A[2, axis]
        v_means[n, 0], v_means[n, 1], v_means[n, 2] = a, b, c
        for j in range(3):
            v_scales[n, j] = R[0, j] * v_M[0, j] + R[1, j] * v_M[1, j] + R[2, j] * v_M[2, j]
            for i in range(3):
                v_M[i, j] *= scales[n, j]  # now of R
        _rotation_backward(n, quats, norm, v_M, v_quats)
