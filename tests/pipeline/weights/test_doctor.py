"""Findings from facts: each possible problem on an otherwise complete machine, then the facts of this machine."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.weights import doctor, machine, models
from pipeline.weights.catalogue import ROLES
from pipeline.weights.doctor import FindingStatus, Needs
from pipeline.weights.machine import Facts, Gpu
from sctd.recipe.presets import embedded, paper
from sctd.recipe.recipe import with_overrides
from tests.support.paths import ROOT

GB = 10**9
WHOLE = Facts(
    python=(3, 12, 1),
    system="Linux x86_64",
    num_cores=16,
    memory_bytes=128 * GB,
    free_bytes=64 * GB,
    bfloat16=None,
    torch="2.15.0",
    torch_error=None,
    torch_cuda="13.2",
    torch_sees_gpu=True,
    torchvision="0.29.2",
    torchvision_error=None,
    gpus=(Gpu("NVIDIA H200", 150 * GB, "580.95"),),
    gsplat="1.5.3",
    is_gsplat_built=True,
    has_nvcc=True,
    has_ninja=True,
    has_triton=True,
    has_compiler=True,
    ray="2.60.0",
    ray_error=None,
    ray_address=None,
    ray_answers=False,
    ffmpeg="/usr/bin/ffmpeg",
    weights_name="published",
    weights_folder="/cache/weights",
    missing_files=dict.fromkeys(ROLES, ()),
    missing_of_distances={"fid": (), "fid_tf": (), "fd_dinov2": ("dinov2", "reference-dinov2.npz")},
)
ALL = Needs(("prior", "scorer", "reward", "shape", "reference"), gpu=True, compiles=True)


def problems(facts: Facts, needed: Needs = ALL) -> list[tuple[str, str, str, str | None]]:
    """All findings that are not OK."""
    found = doctor.findings(facts, needed)
    return [(f.status.value, f.what, f.text, f.mend) for f in found if f.status is not FindingStatus.OK]


def test_a_complete_machine_can_run_the_paper_recipe():
    assert problems(WHOLE) == []
    assert doctor.can_run(doctor.findings(WHOLE, ALL))


@pytest.mark.parametrize(
    ("instructions", "text"),
    [
        (None, "no AMX or AVX512-BF16; on the CPU, the embedded recipes use float32"),
        ("AMX", "AMX; on the CPU, the embedded recipes use bfloat16 unless compute.dtype is set"),
    ],
)
def test_the_processor_decides_the_precision_on_the_cpu(instructions, text):
    found = doctor.findings(replace(WHOLE, bfloat16=instructions), ALL)
    assert [(f.status.value, f.text) for f in found if f.what == "processor"] == [("ok", text)]


def test_cuda_graphs_need_triton_and_a_c_compiler_unless_disabled():
    for absent, text, steps in (
        ({"has_compiler": False}, "a C compiler", "apt-get install gcc"),
        ({"has_triton": False}, "triton", "pip install triton"),
        (
            {"has_triton": False, "has_compiler": False},
            "triton and a C compiler",
            "pip install triton && apt-get install gcc",
        ),
    ):
        facts = replace(WHOLE, **absent)
        sentence = f"compiling the networks requires {text}"
        assert problems(facts) == [("missing", "cuda graphs", sentence, f"{steps}, or --set compute.cuda_graphs=false")]
        assert problems(facts, replace(ALL, compiles=False)) == []
    slow = with_overrides(paper(), {"compute.cuda_graphs": False})
    weights = models.Weights("published", Path("published"))
    assert not doctor.needs(slow, weights).compiles
    assert doctor.needs(paper(), weights).compiles


CUDA_BUILD = "it is built for CUDA 13, torch without CUDA"
MISSING = [
    (
        {"python": (3, 10, 9)},
        ("python", "3.10.9; 3.11 or later is required", "uv python install 3.12"),
    ),
    ({"torch": None}, ("torch", "not installed", "pip install torch torchvision")),
    (
        {"torch": "2.8.1+cpu"},
        ("torch", "2.8.1+cpu; 2.9 or later is required", "pip install --upgrade torch torchvision"),
    ),
    (
        {"torch_error": "nvidia-cudnn-cu13 is not installed"},
        (
            "torch",
            "2.15.0 cannot be imported: nvidia-cudnn-cu13 is not installed",
            "pip install --force-reinstall torch torchvision",
        ),
    ),
    ({"torchvision": None}, ("torchvision", "not installed", "pip install torchvision")),
    (
        {"torch": "2.15.0+cpu", "torchvision_error": CUDA_BUILD},
        (
            "torchvision",
            f"0.29.2 does not match torch 2.15.0+cpu: {CUDA_BUILD}",
            "pip install --force-reinstall torch torchvision",
        ),
    ),
    ({"ffmpeg": None}, ("ffmpeg", "not found", "pip install imageio-ffmpeg")),
    (
        {"gpus": ()},
        ("gpu", "none, but these models need one", "use a machine with an NVIDIA GPU, or --weights embedded"),
    ),
    (
        {"torch_sees_gpu": False, "torch_cuda": None},
        (
            "gpu",
            "torch cannot use it: torch is built without CUDA",
            "pip install --force-reinstall torch torchvision",
        ),
    ),
    (
        {"torch_sees_gpu": False},
        ("gpu", "torch cannot use it: the driver is too old for CUDA 13.2", "update the driver"),
    ),
    (
        {"gsplat": None},
        ("gsplat", "not installed; everything runs on the CPU without it", "pip install 'segmentdreamer[gpu]'"),
    ),
    (
        {"is_gsplat_built": False, "has_nvcc": False, "has_ninja": False},
        (
            "gsplat",
            "1.5.3, not compiled; compiling it requires nvcc and ninja",
            f"{doctor.COMPILER} && pip install ninja && {doctor.BUILD}",
        ),
    ),
    (
        {"is_gsplat_built": False, "has_ninja": False},
        (
            "gsplat",
            "1.5.3, not compiled; compiling it requires ninja",
            f"pip install ninja && {doctor.BUILD}",
        ),
    ),
    (
        {"ray_error": "its files are missing"},
        (
            "ray",
            "2.60.0 cannot be imported: its files are missing",
            "pip install 'ray[default]', or use --executor inline",
        ),
    ),
    ({"free_bytes": 0}, ("disk", "full", "free disk space")),
    (
        {"ray": None},
        ("ray", "not installed", "pip install 'ray[default]', or use --executor inline"),
    ),
    (
        {"ray_address": "10.0.0.1:6379"},
        (
            "ray",
            "2.60.0; no cluster is reachable at RAY_ADDRESS=10.0.0.1:6379",
            "ray start --head on that machine, or unset RAY_ADDRESS",
        ),
    ),
    (
        {"missing_files": {"prior": ("prior/vae/config.json", "prior/unet/config.json")}},
        (
            "weights: prior",
            "/cache/weights lacks prior/vae/config.json and 1 more",
            "segmentdreamer weights fetch prior",
        ),
    ),
    (
        {"missing_files": {"reference": ("reference.npz",)}},
        ("weights: reference", "/cache/weights lacks reference.npz", "segmentdreamer reference"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), MISSING)
def test_each_problem_has_the_command_that_fixes_it(change, expected):
    facts = replace(WHOLE, **change)
    assert problems(facts) == [("missing", *expected)]
    assert not doctor.can_run(doctor.findings(facts, ALL))


@pytest.mark.parametrize(
    ("missing", "notes"),
    [
        (
            {"fid": ("reference-inception.npz",), "fid_tf": ("reference-inception_tf.npz",)},
            [
                (f"metric: {metric}", f"not measured: /cache/weights lacks {file}", "segmentdreamer reference")
                for metric, file in [("fid", "reference-inception.npz"), ("fid_tf", "reference-inception_tf.npz")]
            ],
        ),
        (
            {"fid": ("inception", "reference-inception.npz"), "fid_tf": ("inception", "reference-inception_tf.npz")},
            [
                (
                    "metric: fid",
                    "not measured: /cache/weights lacks inception and reference-inception.npz",
                    "segmentdreamer weights fetch inception && segmentdreamer reference",
                )
            ],
        ),
        (
            {"fd_dinov2": ("dinov2",)},
            [
                (
                    "metric: fd_dinov2",
                    "not measured: /cache/weights lacks dinov2",
                    "segmentdreamer weights fetch dinov2",
                )
            ],
        ),
    ],
)
def test_a_distance_that_is_not_measured_is_a_note(missing, notes):
    """`fid` even if both of its parts are missing, since published tables report it. The run works without it."""
    facts = replace(WHOLE, missing_of_distances=WHOLE.missing_of_distances | missing)
    assert problems(facts) == [("note", *note) for note in notes]
    assert doctor.can_run(doctor.findings(facts, ALL))
    assert problems(replace(facts, weights_name="embedded")) == [], "nothing is fetched into the bundled models"


@pytest.mark.parametrize(
    "change",
    [
        {"gpus": ()},
        {"gsplat": None},
        {"torch_sees_gpu": False, "torch_cuda": None},
        {"is_gsplat_built": False, "has_nvcc": False},
    ],
)
def test_gpu_problems_are_notes_if_no_gpu_is_needed(change):
    found = problems(replace(WHOLE, **change), replace(ALL, gpu=False))
    assert [status for status, *_ in found] == ["note"]


def test_an_uncompiled_gsplat_with_a_compiler_is_a_note():
    ((status, what, text, mend),) = problems(replace(WHOLE, is_gsplat_built=False))
    assert (status, what, mend) == ("note", "gsplat", doctor.BUILD)
    assert text == "1.5.3, not compiled; the first use takes about 9 CPU minutes to compile"


def test_missing_weights_that_the_recipe_does_not_need_are_notes():
    missing = WHOLE.missing_files | {"dinov2": ("dinov2/config.json",), "control": ("control",)}
    assert problems(replace(WHOLE, missing_files=missing)) == [
        ("note", "weights: dinov2", "/cache/weights lacks dinov2/config.json", "segmentdreamer weights fetch dinov2"),
        ("note", "weights: control", "/cache/weights lacks control", "put your own model into control/"),
    ]


def test_needs_follow_from_the_recipe_and_the_weights():
    published, bundled = models.Weights("published", Path("/cache")), models.Weights("embedded", Path("/packaged"))
    scorers = {"scorer", "reward", "reference"}
    of_paper = doctor.needs(paper(), published)
    assert of_paper.gpu
    assert set(of_paper.roles) == {"prior", "shape", *scorers}
    assert not doctor.needs(embedded(), bundled).gpu
    ball = with_overrides(embedded(), {"initialization.kind": "ball"})
    assert set(doctor.needs(ball, bundled).roles) == {"prior", *scorers}
    controlled = with_overrides(embedded(), {"guidance.control": "depth"})
    assert "control" in doctor.needs(controlled, bundled).roles


def test_gpus_are_parsed_from_the_drivers_list():
    text = "NVIDIA H200, 143771, 580.95.05\nNVIDIA H200, 143771, 580.95.05\n"
    assert machine.parsed_gpus(text) == (Gpu("NVIDIA H200", 143771 * 2**20, "580.95.05"),) * 2
    assert machine.parsed_gpus("\n") == ()


def test_an_open_port_is_listening():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert machine.is_listening(f"127.0.0.1:{port}")
        assert machine.is_listening(f"ray://127.0.0.1:{port}")
    assert not machine.is_listening(f"127.0.0.1:{port}")
    assert not machine.is_listening("nonsense")


def test_compiled_kernels_are_found_in_torchs_extensions_folder(tmp_path, monkeypatch):
    package = tmp_path / "gsplat"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('gsplat was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    assert not machine._is_gsplat_built(environment)
    built = tmp_path / "extensions" / "py311_cu130" / "gsplat_cuda"
    built.mkdir(parents=True)
    (built / "gsplat_cuda.so").write_bytes(b"")
    assert machine._is_gsplat_built(environment)
    assert "gsplat" not in sys.modules


# ---- this machine -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here():
    return machine.facts(models.resolve("embedded"), {})


@pytest.fixture
def looked_up(here, monkeypatch, tmp_path):
    """Makes the command use the facts of this machine without fetched weights."""
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path))

    def facts(weights):
        missing = {name: machine.missing(role, weights) for name, role in ROLES.items()}
        return replace(here, weights_name=weights.name, weights_folder=str(weights.folder), missing_files=missing)

    monkeypatch.setattr(machine, "facts", facts)


def test_facts_of_this_machine_match_torch(here):
    import torch

    assert here.torch
    assert here.torch_error is None
    assert here.torch_cuda == torch.version.cuda
    assert here.torch_sees_gpu == torch.cuda.is_available()
    assert here.torchvision_error is None
    assert here.ray_error is None
    assert here.memory_bytes > GB
    assert here.num_cores >= 1


def test_status_1_if_the_recipe_cannot_run_and_every_reason_has_its_command(looked_up):
    result = CliRunner().invoke(app, ["doctor", "--recipe", "paper", "--json"])
    tree = json.loads(result.stdout)
    assert (result.exit_code, tree["can_run"]) == (1, False)
    lacking = {finding["what"]: finding["mend"] for finding in tree["findings"] if finding["status"] == "missing"}
    assert lacking["weights: prior"] == "segmentdreamer weights fetch prior"
    assert lacking["weights: reference"] == "segmentdreamer reference"
    assert all(lacking.values())


def test_status_0_if_the_recipe_can_run(looked_up, bundled_weights):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "This machine can run --recipe embedded --weights embedded."


# ---- the other commands -------------------------------------------------------------------------------------------


def test_unknown_sizes_and_digests_are_listed_as_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path))
    text = CliRunner().invoke(app, ["weights", "list"]).stdout
    assert "prior: Stable Diffusion 2.1-base, about 5.17 GB, CreativeML Open RAIL++-M" in text
    assert "  file     ImageReward.pt: size not known, SHA-256 not known" in text
    tree = json.loads(CliRunner().invoke(app, ["weights", "list", "--json"]).stdout)
    assert [role["role"] for role in tree] == list(ROLES)
    assert tree[0]["missing"][0] == "prior/model_index.json"


def test_fetching_offline_and_checking_missing_weights_are_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path / "weights"))
    fetched = CliRunner().invoke(app, ["weights", "fetch", "shape", "--offline"])
    assert fetched.exit_code == 2
    (line,) = fetched.stderr.splitlines()
    assert line.startswith(
        "Error: base_40m_textvec.pt of the shape (Point-E base, 40M, text vectors) could not be fetched"
    )
    assert [path.name for path in (tmp_path / "weights").rglob("*") if path.is_file()] == [".lock"]
    checked = CliRunner().invoke(app, ["weights", "check", "shape"])
    assert checked.exit_code == 1
    place = tmp_path / "weights" / "shape"
    assert checked.stdout == f"shape      missing  there is no {place}; run segmentdreamer weights fetch shape\n"
    assert CliRunner().invoke(app, ["weights", "check", "--golden", str(tmp_path / "no")]).exit_code == 2


def test_the_bundled_models_pass_the_checks(bundled_weights):
    checked = CliRunner().invoke(app, ["weights", "check", "reward", "reference", "--weights", "embedded"])
    assert checked.exit_code == 0, checked.output
    assert "reward     ok       loads; all tensors have the expected names and shapes\n" in checked.stdout
    assert "reference  ok       opens and is unchanged since it was generated\n" in checked.stdout


def test_missing_weights_are_an_error_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from pipeline.cli.app import main\n"
        "sys.argv[1:] = ['bench', '--recipe', 'paper', '--prompt', 'a cube']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'ray', 'diffusers'} & set(sys.modules)))"
    )
    environment = {
        "SEGMENTDREAMER_WEIGHTS": str(tmp_path / "none"),
        "PATH": "",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == "2 []\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: There is no prior (Stable Diffusion 2.1-base), ")
    assert f"in {tmp_path / 'none'}; run segmentdreamer weights fetch prior " in line
    assert list(tmp_path.iterdir()) == []
