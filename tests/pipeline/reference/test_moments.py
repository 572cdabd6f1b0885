"""`segmentdreamer reference`: pictures of the prior, shard by shard, to the moments that distances are taken from."""

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
from pipeline.reference.moments import Pictures, Shard, Span, network_of
from pipeline.store import run_folder as store
from pipeline.weights import models
from pipeline.weights.networks import DISTANCES
from pipeline.work import devices
from sctd.prior.stable_diffusion import StableDiffusionPrior
from tests.support import tiny_models

TEXTS = "a red cube", "a blue ball"


@pytest.fixture(scope="module")
def weights(tiny_weights, tmp_path_factory) -> Path:
    """The tiny models, called `tiny`, and a tiny DINOv2: two networks."""
    folder = tmp_path_factory.mktemp("two") / "tiny"
    for part in ("prior", "scorer"):
        shutil.copytree(tiny_weights / part, folder / part)
    tiny_models.write_dinov2(folder / "dinov2")
    return folder


def make_small(monkeypatch) -> None:
    """Few steps and small shards."""
    monkeypatch.setattr(reference, "STEPS", 2)
    monkeypatch.setattr(reference, "SHARD", 4)


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
    """The command over two prompts, six pictures each, in three shards; options given later count."""
    return lambda *more, out=out: invoke(weights, suite, out, *more)


def invoke(weights, suite, out, *more):
    given = ["--weights", weights, "--suite", suite, "--count", 12, "--executor", "inline", "--out", out, *more]
    return CliRunner().invoke(app, ["reference", *map(str, given)])


@pytest.fixture
def sampled(monkeypatch) -> list[int]:
    """The number of pictures of each batch that the prior has made since."""
    made, sample_from = [], StableDiffusionPrior.sample_from

    def counted(prior, noise, texts, *arguments):
        made.append(len(texts))
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", counted)
    return made


@pytest.fixture(scope="module")
def undisturbed(weights, tmp_path_factory) -> Path:
    """Where the same command has made both references in peace."""
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
    """The one line of a refused command."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr.splitlines()[-1]


# ---- what it is ---------------------------------------------------------------------------------------------------


def test_it_has_the_moments_of_each_prompts_pictures_from_its_own_seed(command, weights, out):
    result = command()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(out / "reference.npz"), str(out / "reference-dinov2.npz")]
    resolved = models.resolve(str(weights))
    prior = StableDiffusionPrior.load(weights / "prior")
    noise = torch.cat(
        [torch.randn(6, *prior.latent_shape, generator=torch.Generator().manual_seed(2_000_000 + i)) for i in (0, 1)]
    )
    texts, pictures = [TEXTS[0]] * 6 + [TEXTS[1]] * 6, []
    with torch.no_grad():
        for i in (0, 4, 8):
            z_0 = prior.sample_from(noise[i : i + 4], texts[i : i + 4], 7.5, 2, "dpm-solver++(2M)")
            pictures.append((prior.decode(z_0).permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8))
    for metric in ("fd", "fd_dinov2"):
        tower = DISTANCES[metric].load(resolved, "cpu")
        made = from_bytes((out / DISTANCES[metric].reference).read_bytes())
        features = np.concatenate([tower(views) for views in pictures])
        np.testing.assert_array_equal(made.features, features)
        assert made.moments.count == 12
        np.testing.assert_allclose(made.moments.outer, Moments.of(features).outer, rtol=1e-12)
        assert made.made_of == {
            "network": tower.name, "weights": tower.weights, "prior": resolved.digests["prior"],
            "suite": "colours", "prompts": list(TEXTS), "per_prompt": 6, "guidance_scale": 7.5, "steps": 2,
            "sampler": "dpm-solver++(2M)", "seed": 2_000_000,
        }  # fmt: skip


def test_the_packaged_reference_is_found_and_nothing_is_written(monkeypatch, packaged_weights, sampled):
    """The reference that is shipped would be found, not made again: of the same pictures the key is the same."""
    monkeypatch.setattr(reference, "STEPS", 25)
    monkeypatch.setattr(store.Store, "prepare", lambda *_: pytest.fail("something is written"))
    result = CliRunner().invoke(app, ["reference", "--weights", "embedded", "--executor", "inline"])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [f"{packaged_weights}/reference.npz is there already"]
    assert result.stdout == f"{packaged_weights}/reference.npz\n"
    assert sampled == []


def test_every_picture_is_in_one_shard_under_its_own_name(monkeypatch):
    """Of 40 prompts of 1,250 there are 50 shards of 1,000, which begin and end where they like."""
    pictures = Pictures("", tuple(map(str, range(40))), 1250, "ddim", "float32", 7.5, 25, 0)
    monkeypatch.setattr(reference, "SHARD", 1000)
    assert len(pictures.shards) == 50
    assert {shard.count for shard in pictures.shards} == {1000}
    assert list(pictures.spans(pictures.shards[2])) == [Span(1, 750, 1250), Span(2, 0, 500)]
    names = [name for shard in pictures.shards for name in pictures.names(shard)]
    texts = [text for shard in pictures.shards for text in pictures.texts(shard)]
    assert names == [f"{i:04}-{j:06}.png" for i in range(40) for j in range(1250)]
    assert texts == [str(i) for i in range(40) for _ in range(1250)]
    assert sum(len(pictures.kept(shard)) for shard in pictures.shards) == 40 * 25
    assert str(pictures.shards[1]) == "pictures 1000 to 1999"


def test_a_description_names_what_came_later_only_where_it_is_otherwise():
    before = Pictures("", ("a",), 2, "ddim", "float32", 7.5, 25, 0).made_of
    assert before.keys() == {"prior", "prompts", "per_prompt", "guidance_scale", "steps", "seed"}
    now = Pictures("", ("a",), 2, "dpm-solver++(2M)", "float16", 7.5, 25, 0).made_of
    assert now == before | {"sampler": "dpm-solver++(2M)", "dtype": "float16"}


def test_pictures_do_not_depend_on_the_shards(command, undisturbed, tmp_path, monkeypatch):
    """But for the last bits of a batch of another size: a byte of a pixel may round the other way."""
    monkeypatch.setattr(reference, "SHARD", 12)
    assert command(out=tmp_path / "whole").exit_code == 0
    for name, content in references(undisturbed).items():
        whole = from_bytes((tmp_path / "whole" / name).read_bytes())
        np.testing.assert_allclose(whole.features, from_bytes(content).features, atol=0.02)


def test_half_precision_is_another_reference_on_a_gpu_the_default(command, out, weights, suite, monkeypatch):
    assert command("--dtype", "bfloat16", "--network", "scorer").exit_code == 0
    assert from_bytes((out / "reference.npz").read_bytes()).made_of["dtype"] == "bfloat16"
    assert refusal(command()).endswith(
        "/out/reference.npz was made with other settings: dtype bfloat16, now float32; use those, delete it, or choose "
        "another --out."
    )
    monkeypatch.setattr(devices, "sees_gpu", lambda: True)
    of_tiny = models.resolve(str(weights))
    request = reference.Request(of_tiny, "", prompts.suite(str(suite)), 2, (), out, None, False, None)
    assert request.pictures(InlineExecutor()).dtype == "float16"
    packaged = replace(request, weights=models.Weights("embedded", of_tiny.folder)).pictures(InlineExecutor())
    assert (packaged.dtype, packaged.sampler) == ("float32", "ddim")


# ---- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2])
def test_interrupted_and_started_again_it_writes_the_same_bytes(after, command, undisturbed, out, monkeypatch):
    sample_from, made = StableDiffusionPrior.sample_from, []

    def stopped(prior, noise, texts, *arguments):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(texts)
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", stopped)
    result = command()
    assert result.exit_code == 130
    assert "Start the same command again" in result.stderr
    assert references(out) == {}
    assert len(shards_of(out, "features")) == 2 * after
    again = []
    monkeypatch.setattr(
        StableDiffusionPrior, "sample_from", lambda prior, *given: again.append(given[1]) or sample_from(prior, *given)
    )
    result = command()
    assert result.exit_code == 0
    assert len(again) == 3 - after
    assert f"{3 - after} of 3 shards to make, {3 - after} to be sampled" in result.stderr
    assert references(out) == references(undisturbed)


def test_whoever_makes_which_shard_when_the_bytes_are_the_same(command, undisturbed, out, monkeypatch):
    run = InlineExecutor.run
    monkeypatch.setattr(InlineExecutor, "run", lambda self, stages, todo, watch: run(self, stages, todo[::-1], watch))
    assert command().exit_code == 0
    assert references(out) == references(undisturbed)


def test_on_ray_two_workers_of_which_one_is_killed_write_the_same_bytes(weights, suite, undisturbed, out):
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
        if (born := re.search(r"sample \d: ready \(process (\d+)\)", line)) and not killed:
            killed.append(int(born[1]))
            os.kill(killed[0], signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == 0, "".join(lines)
    assert any("its process died" in line for line in lines), "".join(lines)
    assert references(out) == references(undisturbed)


def test_a_shard_that_fails_leaves_the_others_and_is_tried_again(command, undisturbed, out, monkeypatch):
    sample_from = StableDiffusionPrior.sample_from

    def failing(prior, noise, texts, *arguments):
        if set(texts) == set(TEXTS):  # the second of three shards
            return noise * float("nan")
        return sample_from(prior, noise, texts, *arguments)

    monkeypatch.setattr(StableDiffusionPrior, "sample_from", failing)
    result = command()
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-3:] == [
        f"{out}/reference.npz waits for 1 of 3 shards: start the same command again",
        f"{out}/reference-dinov2.npz waits for 1 of 3 shards: start the same command again",
        "failed: pictures 4 to 7: NumericError: NaN or infinity in pictures of float32: use another --dtype",
    ]
    assert [file.name for file in shards_of(out, "features")] == ["000000.npz", "000008.npz"] * 2
    monkeypatch.setattr(StableDiffusionPrior, "sample_from", sample_from)
    result = command()
    assert result.exit_code == 0
    assert "1 of 3 shards to make" in result.stderr
    assert references(out) == references(undisturbed)


# ---- what is kept -------------------------------------------------------------------------------------------------


def test_a_finished_one_is_not_made_again_and_never_replaced_by_another(command, out, sampled):
    command("--network", "scorer")
    before = (out / "reference.npz").read_bytes()
    sampled.clear()
    assert "is there already" in command("--network", "scorer").stderr
    assert refusal(command("--count", 4)) == (
        f"Error: {out}/reference.npz was made with other settings: per_prompt 6, now 2; use those, delete it, or "
        "choose another --out."
    )
    (out / "reference.npz").write_bytes(before[:1000])
    assert refusal(command()).endswith("delete it, and it is made again.")
    assert sampled == []
    (out / "reference.npz").unlink()
    assert command("--network", "scorer").exit_code == 0
    assert sampled == [], "the features were kept"
    assert (out / "reference.npz").read_bytes() == before


@pytest.mark.parametrize("keeps", [True, False])
def test_a_network_that_comes_later_sees_the_kept_pictures_or_they_are_made_again(
    keeps, command, undisturbed, out, sampled
):
    options = ["--keep-images"] if keeps else []
    assert command("--network", "scorer", *options).exit_code == 0
    assert len(shards_of(out, "images")) == (3 if keeps else 0)
    sampled.clear()
    result = command("--network", "dinov2")
    assert result.exit_code == 0
    assert sampled == ([] if keeps else [4, 4, 4])
    told = "0 to be sampled and 3 from kept pictures" if keeps else "3 to be sampled and 0 from kept pictures"
    assert f"features of dinov2: 3 of 3 shards to make, {told}, in {out}/reference-cache\n" in result.stderr
    assert references(out) == references(undisturbed)


def test_pictures_that_shall_be_kept_are_made_though_the_references_are_there(command, out, sampled):
    assert command().exit_code == 0
    sampled.clear()
    result = command("--keep-images")
    assert result.exit_code == 0
    assert "pictures: 3 of 3 shards to make" in result.stderr
    assert sampled == [4, 4, 4]
    assert len(shards_of(out, "images")) == 3


def test_other_settings_have_folders_of_their_own(command, undisturbed, out, tmp_path, sampled):
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


def test_damaged_features_are_named_and_made_again(command, undisturbed, out, sampled):
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
    assert result.stderr.count("; it is made again\n") == 2
    assert f"{first} is damaged (" in result.stderr
    assert f"{second} is damaged (" in result.stderr
    assert sampled == [4, 4]
    assert (out / "reference.npz").read_bytes() == (undisturbed / "reference.npz").read_bytes()


def test_damaged_pictures_are_named_and_made_again_once_deleted(command, undisturbed, out):
    command("--network", "scorer", "--keep-images")
    first, *_ = shards_of(out, "images")
    first.write_bytes(first.read_bytes()[:300])
    result = command()
    assert result.exit_code == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"failed: pictures 0 to 3: {first} is damaged (")
    assert line.endswith("; delete it, and it is made again")
    first.unlink()
    assert command().exit_code == 0
    assert references(out) == references(undisturbed)


# ---- refusals -----------------------------------------------------------------------------------------------------

EQUALLY = "and each of the 2 prompts of colours has equally many pictures; give"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", 1], f"--count is 1, {EQUALLY} 2 or more, a multiple of 2."),
        (["--count", 7], f"--count is 7, {EQUALLY} 6 or 8."),
        (["--suite", "embeded40"], "the nearest is 'embedded40'."),
        (["--weights", "nowhere"], "or leave --weights out for the packaged models."),
        (["--network", "dino"], "choose from scorer, inception, inception_tf, dinov2; the nearest is 'dinov2'."),
        (["--dtype", "half"], "--dtype is half; choose from float32, float16, bfloat16."),
        (["--workers", "2"], "--workers is 2; give 1 (inline works in one process), or leave it out."),
        (["--executor", "slurm"], "There is no executor 'slurm'; choose from ray, inline."),
        (["--out", "reference.npz"], "--out is reference.npz; give a folder: the files in it have names of their own."),
    ],
)
def test_bad_input_is_one_sentence_before_any_model_is_loaded(more, message, command, tmp_path, monkeypatch):
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
def test_folders_that_cannot_be_written_are_said_before_work(more, message, command, tmp_path, monkeypatch, sampled):
    monkeypatch.chdir(tmp_path)
    assert refusal(command(*more)).endswith(message)
    assert sampled == []


def test_room_for_what_is_kept_is_looked_for(command, monkeypatch, sampled):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**20, 0, 0))
    assert re.search(r"has 0 MiB free and this run may need \d+ MiB; free some space or", refusal(command()))
    assert sampled == []


def test_what_is_kept_of_50000_pictures_of_512_pixels(monkeypatch, weights, tmp_path):
    """410 MB of features of 2048, and less than 40 GB of pictures."""
    from sctd.prior import files as prior_files

    assert prior_files.image_size(weights / "prior") == tiny_models.IMAGE_PIXELS
    monkeypatch.setattr(prior_files, "image_size", lambda _: 512)
    todo = [Shard(start, 1000, ("fid",)) for start in range(0, 50_000, 1000)]
    for keeps, expected in ((False, 409_600_000), (True, 409_600_000 + 50_000 * 512 * 512 * 3)):
        request = reference.Request(models.resolve(str(weights)), "", [], 0, (), tmp_path, None, keeps, None)
        assert reference._needed_bytes(request, todo, {"fid": 2048}) == expected


def test_a_prompt_the_prior_cannot_read_to_its_end(command, suite):
    suite.write_text("x" * 70)
    assert refusal(command("--count", 2)).endswith("comes to 72 tokens, and this prior reads 64: shorten it.")


def test_missing_models_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch, command):
    assert "There is no inception (" in (line := refusal(command("--network", "inception")))
    assert "run segmentdreamer weights fetch inception --weights " in line
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path / "fetched"))
    assert refusal(CliRunner().invoke(app, ["reference"])) == (
        f"Error: There is no prior (Stable Diffusion 2.1-base) and scorer (CLIP ViT-L/14 of OpenAI (QuickGELU)) in "
        f"{tmp_path}/fetched; run segmentdreamer weights fetch prior scorer, or give a folder that has all by "
        "--weights DIR."
    )
    assert not (tmp_path / "fetched").exists()


def test_networks_without_weights_are_named(command, weights):
    assert command().stderr.splitlines()[0] == (
        f"{weights} has no weights of inception, inception_tf: no reference of theirs is made"
    )


def test_a_second_command_waits_its_turn(command, out):
    cache = store.Store(out / "reference-cache")
    cache.prepare(0)
    with cache.locked():
        assert refusal(command()).endswith("wait for it to end, or choose another --out.")


def test_the_help_names_every_network():
    text = " ".join(CliRunner().invoke(app, ["reference", "--help"]).stdout.split())
    assert ", ".join(map(network_of, DISTANCES)) in text


def test_the_default_suites_are_packaged_and_divide_the_default_count():
    assert {name: 50_000 % len(prompts.suite(name)) for name in ("embedded40", "dreamfusion40")} == {
        "embedded40": 0,
        "dreamfusion40": 0,
    }
