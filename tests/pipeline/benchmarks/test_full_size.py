"""pipeline.benchmarks.full_size: the optional scorers have the sizes of the published files, on the meta device."""

import pytest
import torch

from evaluation.preference import load_aesthetic
from pipeline.benchmarks import full_size
from pipeline.weights.catalogue import ROLES


def num_parameters(build):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def test_hps_has_as_many_parameters_as_the_published_file_in_float16():
    """The rest of the file is the names of 500 tensors."""
    (file,) = ROLES["hps"].files
    assert 0 < file.num_bytes - 2 * num_parameters(full_size.hps_model) < 0.0003 * file.num_bytes


def test_pickscore_is_the_same_architecture_in_float32():
    count = num_parameters(full_size.pickscore_model)
    assert count == num_parameters(full_size.hps_model)
    assert 4 * count == pytest.approx(ROLES["pickscore"].about_bytes, rel=0.005)


def test_the_aesthetic_predictor_has_the_published_layers(tmp_path):
    full_size.write(tmp_path, ["aesthetic"])
    weight, _ = load_aesthetic(tmp_path / "aesthetic")
    assert weight.shape == (768,)
    (file,) = ROLES["aesthetic"].files
    assert (tmp_path / "aesthetic" / file.path).stat().st_size == pytest.approx(file.num_bytes, rel=0.002)
