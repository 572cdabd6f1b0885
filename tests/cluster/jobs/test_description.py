"""Job descriptions: commands that pass through two shells unchanged, and the folders that they write to."""

import json
import subprocess
from subprocess import list2cmdline

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.jobs import description as jobs

BASE = {"name": "night", "image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}
HOSTILE = ["bench", "--prompt", "a \"red\" $(touch x) `touch y` ${HOME} 'cube'; touch z & | > w \\ %41 \n ü ~ * ! #"]


def through_two_shells(entrypoint: str, folder) -> list[str]:
    """The arguments that a program gets: KubeRay's bash splits, Ray's client joins, and Ray's supervisor runs sh."""
    program = folder / jobs.PROGRAM
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
    job = jobs.job(**BASE | {"storage": None}, command=tuple(HOSTILE))
    verb, *words = through_two_shells(job.entrypoint, tmp_path)
    assert (verb, jobs.decoded(words)) == ("encoded", HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == [jobs.PROGRAM]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
@settings(max_examples=200, deadline=None)
def test_encoding_is_plain_and_reversible(words):
    plain = jobs.encoded(words)
    assert jobs.decoded(plain) == words
    assert not set("".join(plain)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/=:,+@%~")


def test_a_command_without_out_writes_to_the_storage():
    def words(**options):
        return jobs.job(**BASE | options).words

    assert words(command=("bench",)) == ["bench", "--out", "/storage/night"]
    assert words(command=("bench", "--out", "/storage/x")) == ["bench", "--out", "/storage/x"]
    assert words(command=("bench", "--out=/storage/x")) == ["bench", "--out=/storage/x"]
    assert words(command=("reference",), weights="published") == ["reference", "--out", "/storage"]
    assert words(command=("reference",), weights="models") == ["reference"]
