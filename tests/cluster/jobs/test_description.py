"""Job descriptions: commands that pass through two shells unchanged, and the folders that they write to."""

import json
import subprocess
from subprocess import list2cmdline

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.jobs.description import decoded, encoded
from cluster.jobs.errors import ManifestError
from pipeline.launch.program import NAME, ProgramJob
from tests.support.cluster_jobs import job

BASE = {"name": "night", "image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}
HOSTILE = ["bench", "--prompt", "a \"red\" $(touch x) `touch y` ${HOME} 'cube'; touch z & | > w \\ %41 \n ü ~ * ! #"]


def through_two_shells(entrypoint: str, folder) -> list[str]:
    """The arguments that a program gets: KubeRay's bash splits, Ray's client joins, and Ray's supervisor runs sh."""
    program = folder / NAME
    program.write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin:/usr/local/bin"}
    first = ["bash", "-ce", "--", f"printf '%s\\0' {entrypoint}"]
    split = subprocess.run(first, capture_output=True, check=True, cwd=folder, env=environment).stdout.decode()
    second = subprocess.run(
        list2cmdline(split.split("\0")[:-1]), shell=True, capture_output=True, check=True, cwd=folder, env=environment
    )
    return json.loads(second.stdout)


def test_a_prompt_passes_two_shells_unchanged(tmp_path):
    verb, *words = through_two_shells(job(**BASE | {"storage": None}, command=tuple(HOSTILE)).entrypoint, tmp_path)
    assert (verb, decoded(words)) == ("encoded", HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
@settings(max_examples=200, deadline=None)
def test_encoding_is_plain_and_reversible(words):
    plain = encoded(words)
    assert decoded(plain) == words
    assert not set("".join(plain)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/=:,+@%~")


def test_a_command_without_out_writes_to_the_storage():
    def words(**options):
        return job(**BASE | options).words

    assert words(command=("bench",)) == ["bench", "--out", "/storage/night"]
    assert words(command=("bench", "--out", "/storage/x")) == ["bench", "--out", "/storage/x"]
    assert words(command=("bench", "--out=/storage/x")) == ["bench", "--out=/storage/x"]
    assert words(command=("reference",), weights="published") == ["reference", "--out", "/storage"]
    assert words(command=("reference",), weights="models") == ["reference"]
    assert words(command=("generate", "--", "a cube")) == ["generate", "--out", "/storage/night", "--", "a cube"]


def test_digests_and_texts_of_released_jobs_are_kept():
    """A job that was submitted by an earlier version is attached to."""
    first = job(**BASE, command=("bench", "--prompt", "a $(red) cube"), secrets=("hub=HF_TOKEN",), gpus=8)
    assert first.digest == "deea4f093c5c8536"
    assert ProgramJob.from_text(first.text) == first
    assert "$(red)" not in first.text


def test_deadline_of_a_pipeline_run():
    made = job(**BASE, run_deadline_hours=1.5)
    assert ProgramJob.from_text(made.text) == made
    assert made.digest != job(**BASE).digest
    for hours in (0, -1.5):
        with pytest.raises(ManifestError) as error:
            job(**BASE, run_deadline_hours=hours)
        assert str(error.value) == (f"`run_deadline_hours` is {hours}; it must be above 0, or omitted for the default.")


@pytest.mark.parametrize("options", [{"gpus": "many"}, {"gpu": 1}, {"deadline_hours": float("nan")}, {"gpus": -1}])
def test_invalid_fields_raise_one_kind_of_error(options):
    with pytest.raises(ManifestError, match=r"gpus? is ('many'|1)|`gpus` is -1|deadline_hours is nan"):
        job(**BASE | options)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"command": {}}', '{"command": {"words": 3}, "name": "a"}']
)
def test_a_damaged_text_of_a_job_is_refused(text):
    with pytest.raises(ManifestError, match=r"^The text of the job is damaged; submit the job again\."):
        ProgramJob.from_text(text)
