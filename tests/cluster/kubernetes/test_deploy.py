"""The Dockerfiles, tested without a container engine: lint, copied files, installed packages."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from cluster.kubernetes.pod_template import USER
from tests.support.paths import ROOT

FILES = sorted((ROOT / "cluster" / "deploy").glob("Dockerfile.?pu"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments; continued lines are joined and comments removed."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_there_are_two_dockerfiles():
    assert [path.name for path in FILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_finds_no_problem(path):
    linter = shutil.which("hadolint")
    assert linter, "uv sync installs it"
    done = subprocess.run([linter, "--no-color", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_copied_files_exist_and_are_the_whole_build_context(path):
    sources = [words.split()[:-1] for verb, words in instructions(path) if verb == "COPY" and "--from" not in words]
    copied = {source for line in sources for source in line}
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packages["packages"]) <= copied


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_images_are_pinned_run_as_a_user_and_hold_no_secret(path):
    steps = instructions(path)
    images = [words.split()[0] for verb, words in steps if verb == "FROM"]
    assert all(re.search(r":(\d+\.\d+\.\d+|\$\{CUDA\})-", image) for image in images), images
    assert [words for verb, words in steps if verb == "USER"] == [str(USER)]
    installs = [line for verb, words in steps if verb == "RUN" for line in words.split("&&") if "pip install" in line]
    assert all("-c constraints.txt" in line or "--no-deps" in line or "uv==" in line for line in installs), installs
    declared = " ".join(words for verb, words in steps if verb in ("ARG", "ENV"))
    assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY", declared, re.IGNORECASE)


def test_the_gpu_image_has_the_cuda_of_its_torch():
    (cuda,) = re.findall(r"^ARG CUDA=(\d+\.\d+)", FILES[1].read_text(encoding="utf-8"), re.MULTILINE)
    assert f"cuda-toolkit=={cuda}." in CONSTRAINTS


def run_uv(*words: str, folder: Path) -> str:
    """The output of `uv pip …`. Skips the test if no package index answers."""
    uv = shutil.which("uv")
    if not uv:
        pytest.skip("uv is not on the PATH")
    done = subprocess.run([uv, "pip", *words], capture_output=True, text=True, check=False, cwd=folder, timeout=120)
    if done.returncode and re.search("network|connect|dns|timed out|error sending request", done.stderr, re.IGNORECASE):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_libraries_of_the_images_resolve_against_the_constraints():
    (line,) = re.findall(r"-r pyproject\.toml(.*) -c constraints", FILES[1].read_text(encoding="utf-8"))
    extras = [*line.split(), "--extra", "gpu"]
    assert {"kubernetes", "kubeflow", "s3", "gcs"} <= set(extras), "runs can be stored in buckets"
    found = run_uv(
        "compile", "-q", "pyproject.toml", *extras, "-c", "constraints.txt", "--python-version", "3.12", folder=ROOT
    )
    wanted = re.findall(r"gsplat==(\S+)", FILES[1].read_text(encoding="utf-8"))
    assert wanted == re.findall(r"^gsplat==(\S+)", found, re.MULTILINE)
    assert re.findall(r"^torch==\S+", found, re.MULTILINE) == re.findall(r"^torch==\S+", CONSTRAINTS, re.MULTILINE)


def test_the_program_installs_from_the_copied_files(tmp_path):
    """The last step of both builds, in a folder with only the copied files."""
    for verb, words in instructions(FILES[0]):
        for source in words.split()[:-1] if verb == "COPY" and "--from" not in words else []:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, tmp_path / source)
    run_uv("install", "-q", "--no-deps", "--target", str(tmp_path / "installed"), ".", folder=tmp_path)
    assert (tmp_path / "installed" / "bin" / "segmentdreamer").exists()
    assert (tmp_path / "installed" / "pipeline" / "embedded").is_dir()
