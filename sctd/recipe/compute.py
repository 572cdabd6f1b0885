"""The part of a recipe that says how the prior's networks compute. A default is the value of `recipes.paper()`."""

from typing import Literal

from sctd.recipe.fields import OURS, RELEASE, Part, field


class Compute(Part):
    """In which numbers the prior's networks compute, and whether a GPU may take the fast path."""

    dtype: Literal["float32", "float16", "bfloat16"] = field(
        "float16", "–", RELEASE, "of the prior's networks; everything else is float32"
    )
    min_gpu_gib: float = field(
        12.0, "GiB", OURS, "memory of a GPU that is large enough; 0: any; it changes no asset", ge=0, le=1024
    )
    cuda_graphs: bool = field(True, "–", OURS, "on a GPU the networks are fused, compiled and recorded as CUDA graphs")
