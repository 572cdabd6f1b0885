"""Facts about libraries, from the metadata and files of packages that the tests write."""

import sys

import pytest

from pipeline.weights import installed
from pipeline.weights.installed import Driver


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes the metadata of a distribution into a folder that comes first on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, version, *requirements):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requirements)]
        (folder / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")

    return write


def package(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')")


def torch_for(tmp_path, cuda):
    folder = tmp_path / "torch"
    folder.mkdir(exist_ok=True)
    (folder / "version.py").write_text(f"__version__ = '2.9.0'\ncuda: Optional[str] = {cuda!r}\nhip = None\n")
    return folder


def torchvision_with(tmp_path, library):
    folder = tmp_path / "torchvision"
    folder.mkdir(exist_ok=True)
    (folder / "_C.so").write_bytes(b"\x7fELF\0libtorch.so\0" + library + b"\0")
    return folder


def test_a_library_that_is_not_installed_has_no_version_and_no_folder():
    assert installed.version("no-such-library") is None
    assert installed.folder("no_such_library") is None


def test_a_library_without_its_files_or_its_requirements_cannot_be_imported(site, tmp_path):
    site(
        "someframe", "1.0", "numpy", "nvidia-cudnn-cu99==9.1", 'winlib; platform_system == "Nowhere"', 'x; extra == "x"'
    )
    assert installed.problem("someframe") == "its files are missing"
    package(tmp_path, "someframe")
    assert installed.problem("someframe") == "nvidia-cudnn-cu99 is not installed"
    site("nvidia_cudnn_cu99", "9.1")
    assert installed.problem("someframe") is None
    assert "someframe" not in sys.modules


@pytest.mark.parametrize("cuda", [None, "12.8", "13.2"])
def test_the_cuda_version_of_torch_is_read_from_its_version_file(tmp_path, cuda):
    assert installed.torch_cuda(torch_for(tmp_path, cuda)) == cuda


def test_an_absent_torch_has_no_cuda_version(tmp_path):
    assert installed.torch_cuda(None) is None
    assert installed.torch_cuda(tmp_path) is None


@pytest.mark.parametrize(
    ("library", "cuda", "problem"),
    [
        (b"libcudart.so.13", "13.2", None),
        (b"libcudart.3eda8113.so.13", "13.0", None),
        (b"libtorch_cpu.so", None, None),
        (b"libtorch_cpu.so", "13.2", None),
        (b"libcudart.so.13", None, "it is built for CUDA 13, torch without CUDA"),
        (b"libcudart.so.12", "13.2", "it is built for CUDA 12, torch for CUDA 13.2"),
    ],
)
def test_torchvision_needs_a_torch_for_the_same_cuda(site, tmp_path, library, cuda, problem):
    site("torch", "2.9.0")
    site("torchvision", "0.24.0", "torch (==2.9.0)")
    assert installed.torchvision_problem(torch_for(tmp_path, cuda), torchvision_with(tmp_path, library)) == problem


def test_torchvision_needs_the_version_of_torch_that_it_names(site, tmp_path):
    site("torch", "2.8.0+cu128")
    site("torchvision", "0.24.0", "numpy", "torch (==2.9.0)")
    folders = torch_for(tmp_path, "12.8"), torchvision_with(tmp_path, b"libcudart.so.12")
    assert installed.torchvision_problem(*folders) == "it needs torch ==2.9.0"


@pytest.mark.parametrize(
    ("cuda", "driver", "sees"),
    [
        ("13.2", Driver((13, 0), 1), True),
        ("12.8", Driver((13, 0), 8), True),
        ("13.2", Driver((12, 9), 1), False),
        ("13.2", Driver((13, 2), 0), False),
        ("13.2", None, False),
        (None, Driver((13, 2), 1), False),
    ],
)
def test_torch_sees_a_gpu_if_the_driver_supports_its_major_cuda_version(cuda, driver, sees):
    assert installed.torch_sees_gpu(cuda, driver) is sees
