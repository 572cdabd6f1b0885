"""The start of workers: where compiled kernels are kept, garbage collection, and the settings of the device."""

import gc
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.reference import moments
from pipeline.store.run_folder import Store
from pipeline.work import devices, flow
from pipeline.work.execution import ExecutionOptions
from pipeline.work.placement import Placement

IMPORT = """
import os
from pipeline.work import devices
devices.sees_gpu = lambda: True
with devices.loading():
    import sctd.prior.stable_diffusion  # imports diffusers, and with it torch's compiler
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(cache_dir(), *(os.environ[name] for name in devices.COMPILED), sep="\\n")
"""


@pytest.fixture
def variables(monkeypatch, tmp_path):
    """No variable says where to keep compiled kernels; the user's cache folder is in `tmp_path`."""
    for name in devices.COMPILED:
        monkeypatch.setenv(name, "unset below, and again after the test")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: [os.environ.get(name) for name in devices.COMPILED]


def test_torch_compiles_into_the_users_cache_although_diffusers_imports_its_compiler(variables, tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == [str(tmp_path / "segmentdreamer" / "compiled")] * 3


@pytest.fixture
def is_loading(monkeypatch):
    """Whether the code that calls it runs inside `devices.loading()`."""
    inside = []

    @contextmanager
    def loading():
        inside.append(True)
        yield
        inside.clear()

    monkeypatch.setattr(devices, "loading", loading)
    return lambda *_: bool(inside)


def test_every_worker_is_built_inside_loading(is_loading, monkeypatch, run_of, tmp_path):
    for name, classes in {
        "pipeline.work.generate": ("AssetGenerator", "Sharing"),
        "pipeline.work.evaluate": ("Evaluator",),
        "pipeline.reference.worker": ("Sampler",),
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**dict.fromkeys(classes, is_loading)))
    run, store, placement = run_of(), Store(tmp_path), Placement(1, 0.0, 0.0)
    assert flow.generation(run, store, placement, ExecutionOptions()).make_worker()
    assert flow.evaluation(store, run.weights, placement, run.protocol, [], "digest").make_worker()
    assert moments._sampler()


def test_the_speed_benchmark_is_imported_inside_loading(is_loading, monkeypatch, tiny_weights):
    class Benchmark:
        def __getattr__(self, name):
            imported[name] = is_loading()
            return lambda *_: ""

    imported = {}
    monkeypatch.setitem(sys.modules, "pipeline.benchmarks.speed", Benchmark())
    assert CliRunner().invoke(app, ["benchmark", "speed", "--weights", str(tiny_weights)]).exit_code == 0
    assert imported["measure"]


def test_a_folder_that_cannot_be_made_and_variables_that_are_set_change_nothing(variables, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    devices.keep_compiled()
    assert variables() == [None, None]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(devices.COMPILED[1], "elsewhere")
    devices.keep_compiled()
    assert variables() == [str(tmp_path / "segmentdreamer" / "compiled"), "elsewhere"]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_no_garbage_is_collected_while_loading(is_enabled, monkeypatch):
    monkeypatch.setattr(devices, "sees_gpu", lambda: False)
    set_enabled, before = {True: gc.enable, False: gc.disable}, gc.isenabled()
    set_enabled[is_enabled]()
    try:
        with suppress(KeyError), devices.loading():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is is_enabled
    finally:
        set_enabled[before]()


@pytest.mark.parametrize(("gpu", "kind"), [(True, "cuda"), (False, "cpu")])
def test_a_process_computes_in_one_thread_on_every_device(gpu, kind, variables, monkeypatch):
    monkeypatch.setattr(devices, "sees_gpu", lambda: gpu)
    monkeypatch.setattr(devices, "can_use_gpus", lambda: True)
    matmul, cudnn, threads = torch.backends.cuda.matmul, torch.backends.cudnn, torch.get_num_threads()
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    torch.set_num_threads(2)
    try:
        assert devices.prepare().type == kind
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
