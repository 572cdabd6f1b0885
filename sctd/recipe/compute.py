"""Recipe settings for the computation of the prior's networks. Defaults are those of `presets.paper()`."""

from typing import Literal

from sctd.recipe.fields import OURS, RELEASE, Config, field


class ComputeConfig(Config):
    """Dtype of the prior's networks, required GPU memory, and whether to use the CUDA-graph path."""

    dtype: Literal["float32", "float16", "bfloat16"] = field(
        "float16",
        "–",
        RELEASE,
        "dtype of the prior's networks; everything else is float32; on a CPU, bfloat16 may replace float32 if unset",
    )
    min_gpu_gib: float = field(
        12.0, "GiB", OURS, "minimum GPU memory; 0: any GPU; does not change assets", ge=0, le=1024
    )
    cpu_engine: Literal["torch", "openvino"] = field(
        "torch", "–", OURS, "on a CPU, what computes the U-Net; openvino is faster and needs the extra cpu"
    )
    cuda_graphs: bool = field(True, "–", OURS, "on a GPU, fuse and compile the networks and capture CUDA graphs")

    @property
    def unstored(self) -> set[str]:
        """Keys that `run.json` and job ids leave out: one that the first release did not have, at its default."""
        return {"cpu_engine"} if self.cpu_engine == "torch" else set()
