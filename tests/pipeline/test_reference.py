"""`segmentdreamer reference`: pictures of the prior, shard by shard, to the moments that a distance is taken from."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluation.references import Reference, from_bytes
from pipeline import models, prompts, reference
from pipeline.cli import app
from pipeline.reference import Sampler, Shard, shards

TEXTS = "a red cube", "a blue ball"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(reference, "STEPS", 2)


@pytest.fixture
def suite(tmp_path) -> Path:
    file = tmp_path / "colours.txt"
    file.write_text("\n".join(TEXTS))
    return file


@pytest.fixture
def command(tiny_weights, suite, tmp_path):
    """The command over two prompts, three pictures each; options given later count."""

    def run(*more, out=tmp_path / "reference.npz"):
        given = ["--weights", tiny_weights, "--suite", suite, "--count", 6, "--out", out, *more]
        return CliRunner().invoke(app, ["reference", *map(str, given)])

    return run


def refusal(result) -> str:
    """The one line of a refused command."""
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


def test_it_has_the_moments_of_each_prompts_pictures_from_its_own_seed(command, tiny_weights, tmp_path):
    import torch

    result = command()
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'reference.npz'}\n"
    made = from_bytes((tmp_path / "reference.npz").read_bytes())
    weights = models.resolve(str(tiny_weights))
    sampler = Sampler.load(weights)
    features = []
    for i, text in enumerate(TEXTS):
        images = sampler.prior.sample([text] * 3, 7.5, 2, torch.Generator().manual_seed(2_000_000 + i))
        features.append(sampler.tower((images.permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8)))
    np.testing.assert_array_equal(made.features, np.concatenate(features))
    assert made.moments.count == 6
    np.testing.assert_allclose(made.moments.total, np.concatenate(features).sum(0, dtype=np.float64), rtol=1e-12)
    assert made.made_of == {
        "network": "tiny", "weights": sampler.tower.weights, "prior": weights.digests["prior"],
        "suite": "colours", "prompts": list(TEXTS), "per_prompt": 3, "guidance_scale": 7.5, "steps": 2,
        "seed": 2_000_000,
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if "shards" in path.name] == []


def test_the_packaged_setting_has_the_packaged_key(monkeypatch, packaged_weights, tmp_path):
    """The reference that is shipped would be found, not made again: of the same pictures the key is the same."""
    monkeypatch.setattr(reference, "STEPS", 25)
    monkeypatch.setattr(Sampler, "features", lambda *_: pytest.fail("pictures are made"))
    out = tmp_path / "reference.npz"
    out.write_bytes((packaged_weights / "reference.npz").read_bytes())
    result = CliRunner().invoke(app, ["reference", "--weights", "embedded", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [f"{out} is there already", "50000 pictures, key fe5e989c37e45e2c"]


@pytest.mark.parametrize("after", [0, 1])
def test_interrupted_and_started_again_it_writes_the_same_bytes(after, command, tmp_path, monkeypatch):
    assert command(out=tmp_path / "undisturbed.npz").exit_code == 0
    looked, features = [], Sampler.features

    def stopped(sampler, text, shard):
        if len(looked) == after:
            raise KeyboardInterrupt
        looked.append(text)
        return features(sampler, text, shard)

    monkeypatch.setattr(Sampler, "features", stopped)
    result = command()
    assert result.exit_code == 130
    assert "Start the same command again" in result.stderr
    assert not (tmp_path / "reference.npz").exists()
    assert (tmp_path / "reference.npz.shards").exists() == bool(after)
    again = []
    monkeypatch.setattr(Sampler, "features", lambda *given: again.append(given[1]) or features(*given))
    result = command()
    assert result.exit_code == 0
    assert again == list(TEXTS)[after:]
    assert "0 s left" in result.stderr
    assert (tmp_path / "reference.npz").read_bytes() == (tmp_path / "undisturbed.npz").read_bytes()
    assert not (tmp_path / "reference.npz.shards").exists()


def test_a_finished_one_is_not_made_again_and_never_replaced_by_another(command, tmp_path, monkeypatch):
    command()
    before = (tmp_path / "reference.npz").read_bytes()
    monkeypatch.setattr(Sampler, "features", lambda *_: pytest.fail("pictures are made"))
    assert "is there already" in command().stderr
    assert refusal(command("--count", 4)) == (
        f"Error: {tmp_path}/reference.npz was made with other settings: per_prompt 3, now 2; use those, delete it, or "
        "choose another --out."
    )
    (tmp_path / "reference.npz").write_bytes(before[:1000])
    assert refusal(command()).endswith("delete it, and it is made again.")
    assert not (tmp_path / "reference.npz.shards").exists()


def test_shards_of_other_settings_are_refused_and_kept(command, tmp_path, monkeypatch):
    features = Sampler.features

    def stopped(sampler, text, shard):
        if shard.prompt == 1:
            raise KeyboardInterrupt
        return features(sampler, text, shard)

    monkeypatch.setattr(Sampler, "features", stopped)
    assert command().exit_code == 130
    assert refusal(command("--count", 4)) == (
        f"Error: {tmp_path}/reference.npz.shards was made with other settings: per_prompt 3, now 2; use those, delete "
        "it, or choose another --out."
    )
    (shard,) = (tmp_path / "reference.npz.shards" / "items").iterdir()
    part = from_bytes(shard.read_bytes())
    assert isinstance(part, Reference)
    assert (part.moments.count, part.made_of["shard"]) == (3, [0, 0, 3])


def test_very_many_pictures_of_a_prompt_are_several_shards_and_the_same_pictures(tiny_weights, monkeypatch):
    assert shards(2, 1250) == [Shard(0, 0, 1250), Shard(1, 0, 1250)]
    assert shards(1, 2500) == [Shard(0, 0, 1000), Shard(0, 1000, 1000), Shard(0, 2000, 500)]
    sampler = Sampler.load(models.resolve(str(tiny_weights)))
    whole = sampler.features("a red cube", Shard(0, 0, 12))
    parts = [sampler.features("a red cube", Shard(0, start, 4)) for start in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=0.02)  # a byte of a pixel may round the other way
    monkeypatch.setattr(reference, "SMALL_PIXELS", 8)
    np.testing.assert_allclose(sampler.features("a red cube", Shard(0, 0, 12)), whole, atol=0.02)


EQUALLY = "and each of the 2 prompts of colours has equally many pictures; give"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", 1], f"--count is 1, {EQUALLY} 2 or more, a multiple of 2."),
        (["--count", 7], f"--count is 7, {EQUALLY} 6 or 8."),
        (["--suite", "embeded40"], "the nearest is 'embedded40'."),
        (["--weights", "nowhere"], "or leave --weights out for the packaged models."),
        (
            ["--out", "colours.txt/reference.npz"],
            "colours.txt/reference.npz.shards cannot be written (Not a directory); choose another --out.",
        ),
        (["--out", ".."], ".. is a folder; give a file as --out, as ../reference.npz."),
    ],
)
def test_bad_input_is_one_sentence_before_any_model_is_loaded(more, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr(Sampler, "load", lambda _: pytest.fail("models are loaded"))
    monkeypatch.chdir(tmp_path)
    assert refusal(command(*more)).endswith(message)


def test_a_prompt_the_prior_cannot_read_to_its_end(command, suite):
    suite.write_text("x" * 70)
    assert refusal(command("--count", 2)).endswith("comes to 72 tokens, and this prior reads 64: shorten it.")


def test_missing_models_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path))
    line = refusal(CliRunner().invoke(app, ["reference"]))
    assert line == (
        f"Error: There is no prior (Stable Diffusion 2.1-base) and scorer (CLIP ViT-L/14 of OpenAI (QuickGELU)) in "
        f"{tmp_path}; run segmentdreamer weights fetch prior scorer, or give a folder that has all by --weights DIR."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_default_suites_are_packaged_and_divide_the_default_count():
    assert {name: 50_000 % len(prompts.suite(name)) for name in ("embedded40", "dreamfusion40")} == {
        "embedded40": 0,
        "dreamfusion40": 0,
    }
