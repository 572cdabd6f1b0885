"""GPU backend: gsplat 1.5.3 with the signature of `cpu_autograd.rasterize`.

Import this module only for CUDA tensors: gsplat may compile its kernels on import, which takes minutes.
"""

import importlib
import os
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from sctd.render.contract import Rasterized, RenderError, Splats
from sctd.scene.cameras import Cameras

LOCK = "segmentdreamer-gsplat.lock"


def load_kernels() -> None:
    """Load gsplat's kernels, which one process compiles while the others of a machine wait.

    Each process that loads them removes torch's lock of a compilation in progress, and then compiles as well: without
    our lock, eight workers on a new machine compile eight times at once, into the same folder.
    """
    from torch.utils.cpp_extension import get_default_build_root

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be written has no compilation either
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / LOCK))
        importlib.import_module("gsplat.cuda._backend")


try:
    load_kernels()
    from gsplat import rasterization
except ImportError as error:
    raise RenderError(
        "The Gaussians are on a GPU, and rendering there needs gsplat, which is not installed:"
        " pip install 'segmentdreamer[gpu]', or move them to the CPU."
    ) from error


def rasterize(
    splats: Splats, cameras: Cameras, backgrounds: Float[Tensor, "views channels"], *, antialiased: bool = False
) -> Rasterized:
    """Splat Gaussians into every camera.

    gsplat accumulates gradients with atomics, so they differ in the last bits from run to run. Images do not.
    """
    image_and_depth, alpha, info = rasterization(
        *splats[:4],
        splats.colors.contiguous(),
        cameras.world_to_camera,
        cameras.intrinsics,
        cameras.width,
        cameras.height,
        packed=False,  # all N in every view, so that means2d has the shape of the contract
        backgrounds=backgrounds.contiguous(),
        render_mode="RGB+D",  # the last channel is Σ z α T with background 0
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    means2d = info["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()
    visible_radii = torch.where((info["radii"] > 0).all(dim=-1), info["radii"].amax(dim=-1), 0)
    image_and_depth = image_and_depth.permute(0, 3, 1, 2)
    return Rasterized(image_and_depth[:, :-1], alpha[..., 0], image_and_depth[:, -1], means2d, visible_radii)
