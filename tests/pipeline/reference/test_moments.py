"""`segmentdreamer reference`: images of the prior in shards, and their moments for the distances."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cluster.scheduling.executor import InlineExecutor
from evaluation.fid import Moments
from evaluation.references import from_bytes
from pipeline import prompts
from pipeline.cli.app import app
from pipeline.reference import moments as reference
from pipeline.reference import shards
from pipeline.reference.moments import network_of
from pipeline.reference.shards import ReferenceImages, Shard, Span
from pipeline.store import run_folder as store
from pipeline.weights import models
from pipeline.weights.networks import DISTANCES
from pipeline.work import devices
from sctd.prior.stable_diffusion import StableDiffusionPrior
from tests.support import tiny_models

TEXTS = "a red cube", "a blue ball"


@pytest.fixture(scope="module")
def weights(tiny_weights, tmp_path_factory) -> Path:
    """The tiny models in a folder named `tiny`, with a tiny DINOv2: two networks."""
    folder = tmp_path_factory.mktemp("two") / "tiny"
    for part in ("prior", "scorer"):
        shutil.copytree(tiny_weights / part, folder / part)
    tiny_models.write_dinov2(folder / "dinov2")
    return folder


def make_small(monkeypatch) -> None:
    """Use few steps and small shards."""
    monkeypatch.setattr(reference, "STEPS", 2)
    monkeypatch.setattr(shards, "SHARD", 4)


@pytest.fixture(autouse=True)
def few_steps_and_small_shards(monkeypatch):
    make_small(monkeypatch)


def suite_in(folder: Path) -> Path:
    file = folder / "colours.txt"
    file.write_text("\n".join(TEXTS))
    return file


@pytest.fixture
def suite(tmp_path) -> Path:
    return suite_in(tmp_path)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(weights, suite, out):
    """The command with two prompts of six images each, in three shards; later options override."""
    return lambda *more, out=out: invoke(weights, suite, out, *more)


def invoke(weights, suite, out, *more):
    given = ["--weights", weights, "--suite", suite, "--count", 12, "--executor", "inline", "--out", out, *more]
    return CliRunner().invoke(app, ["reference", *map(str, given)])


@pytest.fixture
def sampled(monkeypatch) -> list[int]:
    """The number of images of each batch that the prior has sampled."""
    made, sample_from = [], StableDiffusionPrior.sample_from

    def counted(prior, noise, texts, *arguments):
        made.append(len(texts))
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", counted)
    return made


@pytest.fixture(scope="module")
def undisturbed(weights, tmp_path_factory) -> Path:
    """The folder of both references from the same command without interruptions."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert invoke(weights, suite_in(folder), folder / "out").exit_code == 0
    return folder / "out"


def references(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.npz")}


def shards_of(out: Path, kind: str) -> list[Path]:
    return sorted(out.glob(f"reference-cache/{kind}/*/0*"))


def refusal(result) -> str:
    """The last line of the error output of a command with exit status 2."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr.splitlines()[-1]


# ---- content ------------------------------------------------------------------------------------------------------


def test_a_reference_has_the_moments_of_images_with_one_seed_per_prompt(command, weights, out):
    result = command()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(out / "reference.npz"), str(out / "reference-dinov2.npz")]
    resolved = models.resolve(str(weights))
    prior = StableDiffusionPrior.load(weights / "prior")
    noise = torch.cat(
        [torch.randn(6, *prior.latent_shape, generator=torch.Generator().manual_seed(2_000_000 + i)) for i in (0, 1)]
    )
    texts, images = [TEXTS[0]] * 6 + [TEXTS[1]] * 6, []
    with torch.no_grad():
        for i in (0, 4, 8):
            z_0 = prior.sample_from(noise[i : i + 4], texts[i : i + 4], 7.5, 2, "dpm-solver++(2M)")
            images.append((prior.decode(z_0).permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8))
    for metric in ("fd", "fd_dinov2"):
        tower = DISTANCES[metric].load(resolved, "cpu")
        made = from_bytes((out / DISTANCES[metric].reference).read_bytes())
        features = np.concatenate([tower(views) for views in images])
        np.testing.assert_array_equal(made.features, features)
        assert made.moments.count == 12
        np.testing.assert_allclose(made.moments.outer, Moments.of(features).outer, rtol=1e-12)
        assert made.made_of == {
            "network": tower.name, "weights": tower.weights, "prior": resolved.digests["prior"],
            "suite": "colours", "prompts": list(TEXTS), "per_prompt": 6, "guidance_scale": 7.5, "steps": 2,
            "sampler": "dpm-solver++(2M)", "seed": 2_000_000,
        }  # fmt: skip


def test_the_bundled_reference_exists_and_nothing_is_written(monkeypatch, bundled_weights, sampled):
    """The key of the bundled reference is the key of the same images."""
    monkeypatch.setattr(reference, "STEPS", 25)
    monkeypatch.setattr(store.Store, "prepare", lambda *_: pytest.fail("something is written"))
    result = CliRunner().invoke(app, ["reference", "--weights", "embedded", "--executor", "inline"])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [f"{bundled_weights}/reference.npz already exists"]
    assert result.stdout == f"{bundled_weights}/reference.npz\n"
    assert sampled == []


@pytest.mark.parametrize(("options", "option"), [([], "--out"), (["--cache", "own"], "--out")])
def test_nothing_is_written_beside_the_bundled_models(options, option, monkeypatch, bundled_weights, sampled, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reference, "STEPS", 25)
    monkeypatch.setattr(store.Store, "prepare", lambda *_: pytest.fail("something is written"))
    words = ["reference", "--weights", "embedded", "--executor", "inline", "--keep-images", *options]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {bundled_weights}")
    assert result.stderr.endswith(
        f" belongs to the bundled models, which are part of the package; set {option} to another folder.\n"
    )
    assert sampled == []


def test_every_image_is_in_one_shard_and_has_a_unique_name(monkeypatch):
    """40 prompts of 1,250 images give 50 shards of 1,000, which are independent of the prompts."""
    images = ReferenceImages("", tuple(map(str, range(40))), 1250, "ddim", "float32", 7.5, 25, 0)
    monkeypatch.setattr(shards, "SHARD", 1000)
    assert len(images.shards) == 50
    assert {shard.count for shard in images.shards} == {1000}
    assert list(images.spans(images.shards[2])) == [Span(1, 750, 1250), Span(2, 0, 500)]
    names = [name for shard in images.shards for name in images.names(shard)]
    texts = [text for shard in images.shards for text in images.texts(shard)]
    assert names == [f"{i:04}-{j:06}.png" for i in range(40) for j in range(1250)]
    assert texts == [str(i) for i in range(40) for _ in range(1250)]
    assert sum(len(images.kept_indices(shard)) for shard in images.shards) == 40 * 25
    assert str(images.shards[1]) == "images 1000 to 1999"


def test_made_of_omits_later_fields_with_their_former_values():
    before = ReferenceImages("", ("a",), 2, "ddim", "float32", 7.5, 25, 0).made_of
    assert before.keys() == {"prior", "prompts", "per_prompt", "guidance_scale", "steps", "seed"}
    now = ReferenceImages("", ("a",), 2, "dpm-solver++(2M)", "float16", 7.5, 25, 0).made_of
    assert now == before | {"sampler": "dpm-solver++(2M)", "dtype": "float16"}


def test_images_do_not_depend_on_the_shards(command, undisturbed, tmp_path, monkeypatch):
    """Except for the last bits, which depend on the batch size: a pixel value may be rounded differently."""
    monkeypatch.setattr(shards, "SHARD", 12)
    assert command(out=tmp_path / "whole").exit_code == 0
    for name, content in references(undisturbed).items():
        whole = from_bytes((tmp_path / "whole" / name).read_bytes())
        np.testing.assert_allclose(whole.features, from_bytes(content).features, atol=0.02)


def test_half_precision_gives_another_reference_and_is_the_default_on_a_gpu(command, out, weights, suite, monkeypatch):
    assert command("--dtype", "bfloat16", "--network", "scorer").exit_code == 0
    assert from_bytes((out / "reference.npz").read_bytes()).made_of["dtype"] == "bfloat16"
    assert refusal(command()).endswith(
        "/out/reference.npz was generated with other settings: dtype bfloat16, now float32; use those, delete it, or "
        "choose another --out."
    )
    monkeypatch.setattr(devices, "sees_gpu", lambda: True)
    of_tiny = models.resolve(str(weights))
    request = reference.Request(of_tiny, "", prompts.suite(str(suite)), 2, (), out, None, False, None)
    assert request.images(InlineExecutor()).dtype == "float16"
    bundled = replace(request, weights=models.Weights("embedded", of_tiny.folder)).images(InlineExecutor())
    assert (bundled.dtype, bundled.sampler) == ("float32", "ddim")


# ---- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_command_resumes_and_writes_the_same_bytes(after, command, undisturbed, out, monkeypatch):
    sample_from, made = StableDiffusionPrior.sample_from, []

    def stopped(prior, noise, texts, *arguments):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(texts)
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", stopped)
    result = command()
    assert result.exit_code == 130
    assert "To resume, run: " in result.stderr
    assert references(out) == {}
    assert len(shards_of(out, "features")) == 2 * after
    again = []
    monkeypatch.setattr(
        StableDiffusionPrior, "sample_from", lambda prior, *given: again.append(given[1]) or sample_from(prior, *given)
    )
    result = command()
    assert result.exit_code == 0
    assert len(again) == 3 - after
    assert f"{3 - after} of 3 shards to process, {3 - after} to sample" in result.stderr
    assert references(out) == references(undisturbed)


def test_the_order_of_the_shards_does_not_change_the_bytes(command, undisturbed, out, monkeypatch):
    run = InlineExecutor.run
    monkeypatch.setattr(InlineExecutor, "run", lambda self, stages, todo, watch: run(self, stages, todo[::-1], watch))
    assert command().exit_code == 0
    assert references(out) == references(undisturbed)


def test_two_ray_workers_of_which_one_is_killed_write_the_same_bytes(weights, suite, undisturbed, out):
    small = (
        "from pipeline.cli import app; from pipeline.reference import moments, shards; "
        "moments.STEPS, shards.SHARD = 2, 4; app.main()"
    )
    options = ["--weights", weights, "--suite", suite, "--count", 12, "--workers", 2, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-c", small, "reference", *map(str, options)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines, killed = [], []
    for line in process.stderr:
        lines.append(line)
        if (ready := re.search(r"sample \d: ready \(process (\d+)\)", line)) and not killed:
            killed.append(int(ready[1]))
            os.kill(killed[0], signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == 0, "".join(lines)
    assert any("its process died" in line for line in lines), "".join(lines)
    assert references(out) == references(undisturbed)


def test_a_failed_shard_does_not_affect_the_others_and_is_retried(command, undisturbed, out, monkeypatch):
    sample_from = StableDiffusionPrior.sample_from

    def failing(prior, noise, texts, *arguments):
        if set(texts) == set(TEXTS):  # the second of three shards
            return noise * float("nan")
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", failing)
    result = command()
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-3:] == [
        f"{out}/reference.npz is incomplete: 1 of 3 shards missing; run the same command again",
        f"{out}/reference-dinov2.npz is incomplete: 1 of 3 shards missing; run the same command again",
        "failed: images 4 to 7: NonFiniteImageError: NaN or infinity in images of float32: use another --dtype",
    ]
    assert [file.name for file in shards_of(out, "features")] == ["000000.npz", "000008.npz"] * 2
    monkeypatch.setattr(StableDiffusionPrior, "sample_from", sample_from)
    result = command()
    assert result.exit_code == 0
    assert "1 of 3 shards to process" in result.stderr
    assert references(out) == references(undisturbed)


# ---- caching -----------------------------------------------------------------------------------------------------


def test_an_existing_reference_is_reused_and_never_overwritten(command, out, sampled):
    command("--network", "scorer")
    before = (out / "reference.npz").read_bytes()
    sampled.clear()
    assert "already exists" in command("--network", "scorer").stderr
    assert refusal(command("--count", 4)) == (
        f"Error: {out}/reference.npz was generated with other settings: per_prompt 6, now 2; use those, delete it, or "
        "choose another --out."
    )
    (out / "reference.npz").write_bytes(before[:1000])
    assert refusal(command()).endswith("delete it to generate it again.")
    assert sampled == []
    (out / "reference.npz").unlink()
    assert command("--network", "scorer").exit_code == 0
    assert sampled == [], "the features are cached"
    assert (out / "reference.npz").read_bytes() == before


@pytest.mark.parametrize("keep_images", [True, False])
def test_a_later_network_uses_the_cached_images_or_new_samples(keep_images, command, undisturbed, out, sampled):
    options = ["--keep-images"] if keep_images else []
    assert command("--network", "scorer", *options).exit_code == 0
    assert len(shards_of(out, "images")) == (3 if keep_images else 0)
    sampled.clear()
    result = command("--network", "dinov2")
    assert result.exit_code == 0
    assert sampled == ([] if keep_images else [4, 4, 4])
    counts = "0 to sample and 3 from cached images" if keep_images else "3 to sample and 0 from cached images"
    assert f"features of dinov2: 3 of 3 shards to process, {counts}, in {out}/reference-cache\n" in result.stderr
    assert references(out) == references(undisturbed)


def test_images_to_cache_are_sampled_although_the_references_exist(command, out, sampled):
    assert command().exit_code == 0
    sampled.clear()
    result = command("--keep-images")
    assert result.exit_code == 0
    assert "images: 3 of 3 shards to process" in result.stderr
    assert sampled == [4, 4, 4]
    assert len(shards_of(out, "images")) == 3


def test_other_settings_have_other_cache_folders(command, undisturbed, out, tmp_path, sampled):
    cache = tmp_path / "cache"
    for number, options in enumerate([["--count", 4], ["--dtype", "bfloat16"], []]):
        sampled.clear()
        assert command("--cache", cache, "--network", "scorer", *options, out=tmp_path / str(number)).exit_code == 0
        assert sum(sampled) == (4 if number == 0 else 12)
    folders = sorted(cache.glob("features/*"))
    assert len(folders) == 3
    described = [json.loads((folder / "made_of.json").read_text()) for folder in folders]
    settings = {(made_of["per_prompt"], made_of.get("dtype")) for made_of in described}
    assert settings == {(2, None), (6, "bfloat16"), (6, None)}
    assert (tmp_path / "2" / "reference.npz").read_bytes() == (undisturbed / "reference.npz").read_bytes()


def test_damaged_features_are_reported_and_computed_again(command, undisturbed, out, sampled):
    command("--network", "scorer")
    (out / "reference.npz").unlink()
    first, second, _ = shards_of(out, "features")
    first.write_bytes(first.read_bytes()[:300])
    content = bytearray(second.read_bytes())
    content[150] ^= 1
    second.write_bytes(content)
    sampled.clear()
    result = command("--network", "scorer")
    assert result.exit_code == 0
    assert result.stderr.count("; generating it again\n") == 2
    assert f"{first} is damaged (" in result.stderr
    assert f"{second} is damaged (" in result.stderr
    assert sampled == [4, 4]
    assert (out / "reference.npz").read_bytes() == (undisturbed / "reference.npz").read_bytes()


def test_damaged_images_are_an_error_and_sampled_again_after_deletion(command, undisturbed, out):
    command("--network", "scorer", "--keep-images")
    first, *_ = shards_of(out, "images")
    first.write_bytes(first.read_bytes()[:300])
    result = command()
    assert result.exit_code == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"failed: images 0 to 3: {first} is damaged (")
    assert line.endswith("; delete it to generate it again")
    first.unlink()
    assert command().exit_code == 0
    assert references(out) == references(undisturbed)


# ---- errors -------------------------------------------------------------------------------------------------------

EQUALLY = "but each of the 2 prompts of colours needs the same number of images; pass"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", 1], f"--count is 1, {EQUALLY} 2 or more, a multiple of 2."),
        (["--count", 7], f"--count is 7, {EQUALLY} 6 or 8."),
        (["--suite", "embeded40"], "the nearest is 'embedded40'."),
        (["--weights", "nowhere"], "or omit --weights for the bundled models."),
        (["--network", "dino"], "choose from scorer, inception, inception_tf, dinov2; the nearest is 'dinov2'."),
        (["--dtype", "half"], "Unknown value 'half' for --dtype; choose from float32, float16, bfloat16."),
        (["--workers", "2"], "--workers is 2; expected 1 (inline runs in one process), or omit it."),
        (["--executor", "slurm"], "Unknown value 'slurm' for --executor; choose from ray, inline."),
        (["--out", "reference.npz"], "--out is reference.npz; pass a folder: its file names are fixed."),
    ],
)
def test_invalid_options_are_errors_before_models_are_loaded(more, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "make", lambda *_: pytest.fail("models are loaded"))
    monkeypatch.chdir(tmp_path)
    assert refusal(command(*more)).endswith(message)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--out", "colours.txt"],
            "colours.txt/reference-cache cannot be written (Not a directory); choose another --out.",
        ),
        (["--cache", "colours.txt/c"], "colours.txt/c cannot be written (Not a directory); choose another --cache."),
    ],
)
def test_unwritable_folders_are_errors_before_sampling(more, message, command, tmp_path, monkeypatch, sampled):
    monkeypatch.chdir(tmp_path)
    assert refusal(command(*more)).endswith(message)
    assert sampled == []


def test_free_disk_space_for_the_cache_is_checked(command, monkeypatch, sampled):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**20, 0, 0))
    assert re.search(r"has 0 MiB free and this run may need \d+ MiB; free some space or", refusal(command()))
    assert sampled == []


def test_the_cache_size_of_50000_images_of_512_pixels(monkeypatch, weights, tmp_path):
    """410 MB of features in 2048 dimensions, and less than 40 GB of images."""
    from sctd.prior import files as prior_files

    assert prior_files.image_size(weights / "prior") == tiny_models.IMAGE_PIXELS
    monkeypatch.setattr(prior_files, "image_size", lambda _: 512)
    todo = [Shard(start, 1000, ("fid",)) for start in range(0, 50_000, 1000)]
    for keep_images, expected in ((False, 409_600_000), (True, 409_600_000 + 50_000 * 512 * 512 * 3)):
        request = reference.Request(models.resolve(str(weights)), "", [], 0, (), tmp_path, None, keep_images, None)
        assert reference._needed_bytes(request, todo, {"fid": 2048}) == expected


def test_a_prompt_with_too_many_tokens_is_an_error(command, suite):
    suite.write_text("x" * 70)
    assert refusal(command("--count", 2)).endswith(
        "has 72 tokens, but the text encoder accepts at most 64; shorten it."
    )


def test_missing_models_are_errors_with_the_command_to_fetch_them(tmp_path, monkeypatch, command):
    assert "There is no inception (" in (line := refusal(command("--network", "inception")))
    assert "run segmentdreamer weights fetch inception --weights " in line
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path / "fetched"))
    assert refusal(CliRunner().invoke(app, ["reference"])) == (
        f"Error: There is no prior (Stable Diffusion 2.1-base) and scorer (CLIP ViT-L/14 of OpenAI (QuickGELU)) in "
        f"{tmp_path}/fetched; run segmentdreamer weights fetch prior scorer, or give a complete folder with "
        "--weights DIR."
    )
    assert not (tmp_path / "fetched").exists()


def test_networks_without_weights_are_reported(command, weights):
    assert command().stderr.splitlines()[0] == (
        f"{weights} has no weights for inception, inception_tf: their references are not computed"
    )


def test_a_second_command_with_the_same_cache_is_an_error(command, out):
    cache = store.Store(out / "reference-cache")
    cache.prepare(0)
    with cache.locked():
        assert refusal(command()).endswith("wait for it to finish, or choose another --out.")


def test_the_help_names_every_network():
    text = " ".join(CliRunner().invoke(app, ["reference", "--help"]).stdout.split())
    assert ", ".join(map(network_of, DISTANCES)) in text


def test_the_default_suites_are_bundled_and_divide_the_default_count():
    assert {name: 50_000 % len(prompts.suite(name)) for name in ("embedded40", "dreamfusion40")} == {
        "embedded40": 0,
        "dreamfusion40": 0,
    }
