"""Readers of models: safetensors and torch files, the configurations of a prior, and cluster jobs."""

import importlib
import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from cluster.jobs.errors import ManifestError
from evaluation.blip import RewardConfig
from evaluation.checkpoints import read_tensors
from evaluation.errors import EvaluationError
from pipeline.errors import UserError
from pipeline.launch.program import ProgramJob
from pipeline.plan.text_limits import token_counter
from pipeline.weights.models import Weights
from sctd.diffusion.schedule import NoiseSchedule, ScheduleError
from sctd.errors import SctdError
from sctd.point_e.model import PointDiffusionTransformer, PointEConfig, PointEError
from sctd.prior import files
from sctd.prior.files import PriorError
from sctd.recipe import custom_file
from tests.support.cluster_jobs import job
from tests.support.fuzzing import (
    Choices,
    Refused,
    changed,
    chosen,
    damaged,
    fuzz,
    json_files,
    made,
    outcome,
    put,
    to_json,
)

point_e = importlib.import_module("sctd.point_e.load")  # the package has a function of this name
TENSORS = {"a.weight": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.float16), "n": torch.tensor(3)}
SAFE = save(TENSORS)
HEADER_BYTES = int.from_bytes(SAFE[:8], "little")
HEADER, DATA = json.loads(SAFE[8 : 8 + HEADER_BYTES]), SAFE[8 + HEADER_BYTES :]


NO_INTERNALS = re.compile("Traceback")  # the sentences about pickles name torch.load


def safetensors_file(choices: Choices) -> bytes:
    """A changed header, of right or wrong length."""
    header = to_json(changed(HEADER, choices))
    length = choices.of([len(header)] * 6 + [0, 3, 2**31, 2**63])
    return struct.pack("<Q", length) + header + DATA[: choices.of([10**6] * 5 + [0, 7])]


def _saved(tree: object) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


TORCH_FILES = [_saved(TENSORS), _saved({"state_dict": TENSORS}), _saved([1]), _saved({"a": 1})]
SAFE_FILES = st.one_of(made(safetensors_file), damaged(st.just(SAFE)), damaged(made(safetensors_file)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoints(suffix, tmp_path):
    path = Path(tmp_path) / f"model{suffix}"

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: read_tensors(path), EvaluationError)
        if not isinstance(found, Refused):
            assert found
            assert all(isinstance(value, torch.Tensor) for value in found.values())

    fuzz(SAFE_FILES if suffix == ".safetensors" else damaged(chosen([*TORCH_FILES, SAFE])), check)


ORIGINAL = {
    f"{files.UNET}input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3),
    f"{files.UNET}middle.attn2.to_k.weight": torch.zeros(4, 8),
    f"{files.VAE}a": torch.zeros(1),
    f"{files.TEXT_ENCODER}transformer.text_model.a": torch.zeros(1),
    f"{files.TEXT_ENCODER}model.ln_final.weight": torch.zeros(3),
    f"{files.TEXT_ENCODER}model.x.attn.in_proj_weight": torch.zeros(6, 2),
}


@pytest.fixture
def prior(tmp_path) -> Path:
    """The configuration of a prior, without weights."""
    folder = Path(tmp_path) / "prior"
    trees = {
        "unet/config.json": UNET,
        "vae/config.json": VAE,
        "text_encoder/config.json": {"hidden_size": 8},
        "scheduler/scheduler_config.json": SCHEDULER,
        "tokenizer/tokenizer.json": {},
    }
    for name, tree in trees.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(to_json(tree))
    return folder


UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "cross_attention_dim": 8,
    "block_out_channels": [8],
    "addition_embed_type": None,
}
VAE = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "scaling_factor": 0.18215}
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "trained_betas": None, "steps_offset": 1,
}  # fmt: skip


def test_single_files(prior):
    path = prior.parent / "tuned.safetensors"
    intact = save(ORIGINAL)
    length = int.from_bytes(intact[:8], "little")
    header, data = json.loads(intact[8 : 8 + length]), intact[8 + length :]

    def make(choices: Choices) -> bytes:
        content = to_json(changed(header, choices))
        return struct.pack("<Q", len(content)) + content + data

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: files.split(path, prior), PriorError, internals=NO_INTERNALS)
        if not isinstance(found, Refused):
            assert set(found) == set(files.PARTS)
            assert all(found.values())

    fuzz(st.one_of(made(make), damaged(st.just(intact))), check)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_configurations(part, prior):
    path = prior / part / "config.json"
    intact = json.loads(path.read_bytes())

    def read() -> int:
        files.check_architecture(prior)
        (prior.parent / "prior.safetensors").touch()
        return files.image_size(prior.parent / "prior.safetensors")

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(read, PriorError)
        assert isinstance(found, Refused) or 0 < found < 2**31

    fuzz(json_files(st.just(intact)), check)


def test_schedules(prior):
    path = prior / "scheduler" / "scheduler_config.json"
    kinds = [SCHEDULER, SCHEDULER | {"beta_schedule": "linear"}, SCHEDULER | {"beta_schedule": "squaredcos_cap_v2"},
             SCHEDULER | {"trained_betas": [0.1, 0.2, 0.3]}]  # fmt: skip

    def read() -> NoiseSchedule:
        scheduler = files.read_json(path)
        files.check_diffusion(prior, scheduler)
        return NoiseSchedule.from_config(scheduler)

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(read, PriorError, ScheduleError)
        if not isinstance(found, Refused):
            assert found.num_steps > 0
            assert (found.alpha**2 + found.sigma**2 - 1).abs().max() < 1e-6
            assert found.k.isfinite().all()

    fuzz(json_files(chosen(kinds)), check)


INDEX = {
    "metadata": {"total_size": 40},
    "weight_map": {
        "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
        "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
    },
}


def test_indexes_of_shards(prior):
    folder = prior / "unet"
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    for tensor, shard in INDEX["weight_map"].items():
        (folder / shard).write_bytes(save({tensor: torch.zeros(2)}))

    def check(file: bytes) -> None:
        put(path, file)
        outcome(lambda: files.check_index(folder, "diffusion_pytorch_model"), PriorError)

    fuzz(json_files(st.just(INDEX)), check)


def test_point_e(tmp_path):
    folder = Path(tmp_path)
    model = PointDiffusionTransformer(PointEConfig(width=8, layers=1, heads=1))
    config = json.loads(point_e.to_files(model)[point_e.CONFIG])

    def check(parts: tuple[bytes, bytes]) -> None:
        put(folder / point_e.CONFIG, parts[0])
        put(folder / point_e.WEIGHTS, parts[1])
        outcome(lambda: point_e._read_config(folder), PointEError)
        outcome(lambda: point_e._read_weights(folder), PointEError)

    fuzz(st.tuples(json_files(st.just(config)), SAFE_FILES), check)


def test_torch_files_of_point_e(tmp_path):
    path = Path(tmp_path) / "base_40m_textvec.pt"

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: point_e._read_pt(path), PointEError, internals=NO_INTERNALS)
        assert isinstance(found, Refused) or all(isinstance(value, torch.Tensor) for value in found.values())

    fuzz(damaged(chosen(TORCH_FILES)), check)


def test_configurations_of_rewards():
    intact = json.loads(RewardConfig().to_json())

    def check(file: bytes) -> None:
        text = file.decode("utf-8", "replace")
        found = outcome(lambda: RewardConfig.from_json(text), EvaluationError)
        if not isinstance(found, Refused):
            assert RewardConfig.from_json(found.to_json()) == found
            assert len(found.head_widths) == 4
            assert np.isfinite([found.mean, found.std]).all()

    fuzz(json_files(st.just(intact)), check)


def test_tokenizers(tmp_path):
    folder = Path(tmp_path) / "prior" / "tokenizer"
    folder.mkdir(parents=True)
    from tokenizers import Tokenizer, models

    intact = json.loads(Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str()) | {"post_processor": None}
    special = {
        "id": 0,
        "content": "a",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    weights = Weights("tiny", Path(tmp_path))

    def check(parts: tuple[bytes, bytes]) -> None:
        put(folder / "tokenizer_config.json", parts[0])
        put(folder / "tokenizer.json", parts[1])
        found = outcome(lambda: token_counter(weights), UserError)
        if not isinstance(found, Refused):
            count, most = found
            assert most > 0
            assert count("ab") >= 0

    settings = json_files(st.just({"model_max_length": 77, "pad_token": "a"}))
    trees = st.sampled_from([intact, intact | {"added_tokens": [special]}])
    fuzz(st.tuples(settings, json_files(trees)), check)


def test_jobs_of_clusters():
    intact = json.loads(job(("bench", "--prompt", "a cat; b"), storage="claim", gpus=2).text)

    def check(file: bytes) -> None:
        text = file.decode("utf-8", "replace")
        found = outcome(lambda: ProgramJob.from_text(text), ManifestError)
        if not isinstance(found, Refused) and "\\ud800" not in text:
            assert ProgramJob.from_text(found.text) == found

    fuzz(json_files(st.just(intact)), check)


def test_sources_of_objectives(tmp_path):
    path = Path(tmp_path) / "mine.py"
    sources = [
        b"from . import other\n", b"from .other import x\nLIKE = 'sds'\n", b"(" * 5_000, b"-" * 9_000 + b"1", b"\0",
        b"def f(:\n", b"# -*- coding: nothing -*-\n", b"a" + b".b" * 5_000,
    ]  # fmt: skip

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: custom_file.reference(f"{path}:f"), SctdError)
        assert isinstance(found, Refused) or len(found.digest) == 16

    fuzz(st.one_of(damaged(chosen(sources[:2])), damaged(chosen(sources[:2])), chosen(sources)), check)
