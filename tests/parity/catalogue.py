"""Which number of which original is compared with ours, how closely they must agree and why, in which environment."""

from dataclasses import dataclass

from tests.parity.comparison import Original, Quantity
from tests.parity.environments import Environment
from tests.parity.inputs import FEATURES, FID_VIEWS, PHRASES, PROMPTS
from tests.parity.ours import RESIZED

PAIRS = f"{len(PHRASES)} views × {len(PROMPTS)} prompts"
SETS = f"2 × {FID_VIEWS} images"
FLOAT32 = "float32 sums in another order, through all layers"

# image-reward does not declare clip, which it imports. The others came out by then, and run in the same environment.
OF_2023 = Environment(
    "2023",
    (
        "image-reward==1.5",
        "openai-clip==1.0.1",
        "open_clip_torch==2.20.0",
        "torchmetrics==1.0.1",
        "clean-fid==0.1.35",
        "pytorch-fid==0.3.0",
        "torch-fidelity==0.3.0",
    ),
    newest="2023-08-01",
    python="3.11",
)
# The newest torchmetrics beside the last transformers that its CLIPScore works with.
TRANSFORMERS_4 = Environment(
    "transformers-4",
    ("torchmetrics", "torch", "torchvision", "transformers<5"),
    without=("transformers", "tokenizers", "huggingface_hub", "huggingface-hub"),
)
CURRENT = Environment(
    "current", ("torch", "torchvision", "transformers", "open_clip_torch", "torchmetrics", "torch-fidelity")
)


# Only to call its matrix root. The newest scipy needs Python 3.12.
NEWEST_SCIPY = Environment("scipy", ("scipy>=1.18",), python="3.12", alone=True)


@dataclass(frozen=True)
class Trial:
    """An original that is not among the current libraries.

    `dependencies` are installed, at any version, if its own requirements conflict with the current libraries.
    `matrix_root`: it calls scipy's.
    """

    package: str
    requirements: tuple[str, ...]
    dependencies: tuple[str, ...] = ()
    matrix_root: bool = False


TRIALS = (
    Trial("pytorch-fid", ("pytorch-fid==0.3.0",), matrix_root=True),
    Trial("clean-fid", ("clean-fid==0.1.35", "pytorch-fid==0.3.0"), matrix_root=True),
    Trial("openai-clip", ("openai-clip==1.0.1",)),
    Trial(
        "image-reward",
        ("image-reward==1.5",),
        ("openai-clip==1.0.1", "fairscale", "accelerate", "datasets", "diffusers"),
    ),
    Trial("torchmetrics", ("torchmetrics",)),
)
HELP = "setuptools<81"
"""The last with pkg_resources, which openai-clip imports without declaring it."""

REWARD = Quantity("reward", f"reward, {PAIRS}", 1e-4, FLOAT32, relative=False)
CLIP_L14 = Quantity("clip_l14", f"100 cos, ViT-L/14 (QuickGELU), {PAIRS}", 1e-4, FLOAT32, relative=False)
CLIP_B32 = Quantity("clip_b32", f"100 cos, ViT-B/32 (GELU), {PAIRS}", 1e-4, FLOAT32, relative=False)
FRECHET = Quantity(
    "frechet",
    f"Fréchet distance of given features, {' and '.join(f'{n} × {d}' for n, d in FEATURES.values())}",
    1e-9,
    "float64 throughout; another matrix root",
)
KID = Quantity("kid", "KID of given features, 2 × 300 × 64", 1e-9, "float64 throughout")


def features(key: str, what: str) -> Quantity:
    return Quantity(f"features_{key}", f"2048 features, {what}, {SETS}", 2e-6, "their float32, our float64")


def distance(key: str, what: str) -> Quantity:
    return Quantity(f"fid_{key}", f"FID, {what}, {SETS}", 1e-5, "float32 features; 24 in 2048 dimensions")


def kernel(key: str) -> Quantity:
    """Absolute: the values of the kernel are about 1, so their float32 rounding is 1e-7, however small the distance."""
    return Quantity(f"kid_{key}", f"KID, {SETS}", 1e-6, "the kernel of float32 features in float32", relative=False)


def resized(name: str) -> Quantity:
    return Quantity(f"resized_{name}", f"pixels resized from {name.replace('x', ' × ')} px", 0.0, "the same arithmetic")


CLIP = (CLIP_L14, CLIP_B32)
OF_CLEAN_FID = (
    *(resized(name) for name in RESIZED),
    features("clean", "its resize"),
    distance("clean", "whole command"),
    kernel("clean"),
    FRECHET,
    KID,
)
OF_PYTORCH_FID = (
    features("half_pixel", "its resize"),
    distance("half_pixel", "whole command, its resize in ours"),
    FRECHET,
)
OF_TORCH_FIDELITY = (features("tf", "TensorFlow 1's resize"), distance("tf", "whole command"), kernel("tf"), KID)
VISION = ("torch", "numpy", "scipy", "pillow")
ORIGINALS = (
    Original("image-reward", "with_image_reward", OF_2023, (REWARD,), ("torch", "transformers", "timm", "pillow")),
    Original("openai-clip", "with_openai_clip", OF_2023, (CLIP_L14,), ("torch", "pillow")),
    Original("open_clip_torch", "with_open_clip", OF_2023, CLIP, ("torch", "timm", "pillow")),
    Original("open_clip_torch", "with_open_clip", CURRENT, CLIP, ("torch", "timm", "pillow")),
    Original("torchmetrics", "with_torchmetrics", OF_2023, (CLIP_L14,), ("torch", "transformers", "pillow")),
    Original("torchmetrics", "with_torchmetrics", TRANSFORMERS_4, (CLIP_L14,), ("torch", "transformers", "pillow")),
    Original("clean-fid", "with_clean_fid", OF_2023, OF_CLEAN_FID, VISION),
    Original("pytorch-fid", "with_pytorch_fid", OF_2023, OF_PYTORCH_FID, VISION),
    Original("torch-fidelity", "with_torch_fidelity", OF_2023, OF_TORCH_FIDELITY, VISION),
    Original("torch-fidelity", "with_torch_fidelity", CURRENT, OF_TORCH_FIDELITY, VISION),
)
