"""Point-E (Nichol et al. 2022) for inference: CLIP text vector → coloured point cloud, from OpenAI's checkpoints."""

from sctd.point_e.diffusion import PointClouds, sample_point_clouds, sample_points, to_world, upsample_points
from sctd.point_e.load import PointE, load, load_upsampler, to_files
from sctd.point_e.model import (
    BASE_40M_TEXTVEC,
    UPSAMPLE_40M,
    DiffusionConfig,
    PointDiffusionTransformer,
    PointEConfig,
    PointEError,
    PointUpsampler,
    SamplerConfig,
)

__all__ = [
    "BASE_40M_TEXTVEC",
    "UPSAMPLE_40M",
    "DiffusionConfig",
    "PointClouds",
    "PointDiffusionTransformer",
    "PointE",
    "PointEConfig",
    "PointEError",
    "PointUpsampler",
    "SamplerConfig",
    "load",
    "load_upsampler",
    "sample_point_clouds",
    "sample_points",
    "to_files",
    "to_world",
    "upsample_points",
]
