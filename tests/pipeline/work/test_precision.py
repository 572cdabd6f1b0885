"""pipeline.work.precision: the choice of bfloat16 for runs on a CPU, and what fixes it."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded import frozen
from pipeline.errors import UserError
from pipeline.plan.options import RunOptions
from pipeline.store import manifest
from pipeline.store.manifest import Manifest
from pipeline.store.run_folder import ASSET, Store
from pipeline.weights import installed, machine, models
from pipeline.work import devices, precision
from pipeline.work.execution import ExecutionOptions
from pipeline.work.generate import AssetGenerator
from pipeline.work.precision import BFLOAT16, FLOAT32, KEY, VARIABLE
from sctd.recipe.compute import ComputeConfig
from sctd.recipe.recipe import value_of

SETTINGS = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]
INLINE, RAY = ExecutionOptions(executor="inline"), ExecutionOptions()
OLD, AVX, AMX = "avx2 avx512f", "avx2 avx512f avx512_bf16", "avx512_bf16 amx_bf16 amx_tile"
BY_AVX = (
    "The prior's networks run in bfloat16, because this processor has AVX512-BF16; "
    "--set compute.dtype=float32 for float32."
)


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Function that gives this machine a processor with these flags, no GPU and no cluster."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(devices, "will_use_gpu", lambda: False)

    def give(flags: str) -> None:
        text = (
            "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {0} sse\n\nprocessor\t: 1\nflags\t\t: fpu {0} sse\n"
        )
        (tmp_path / "cpuinfo").write_text(text.format(flags))
        monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")

    give(OLD)
    return give


def dtypes(run) -> list[str]:
    return [value_of(recipe, KEY) for recipe in run.recipes]


def in_folder(root: Path):
    """The folder of each run: one for all, as with --out, or one for each precision, as without."""
    return lambda run: Store(root / run.name if root.name == "default" else root)


def begun(run, root: Path) -> None:
    """Write the run.json of a run that has begun in its folder."""
    store = in_folder(root)(run)
    manifest.write(store, Manifest.of(run, store).with_session(["bench"]))


# ---- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "instructions"),
    [
        (f"flags\t\t: {OLD}\n", None),
        (f"flags\t\t: {AVX}\n", "AVX512-BF16"),
        (f"flags\t\t: {AMX}\n", "AMX"),
        ("flags\t\t: not_avx512_bf16 avx512_bf16x\n", None),
        (f"model name\t: {AVX}\nvmx flags\t: {AVX}\nflags\t: fpu\n", None),
        ("Features\t: fp asimd bf16\n", None),
        ("", None),
    ],
)
def test_instructions_are_read_from_the_flags_of_the_processor(text, instructions, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.bfloat16_instructions() == instructions


def test_no_instructions_are_known_without_the_file_of_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "none")
    assert machine.bfloat16_instructions() is None


@pytest.mark.parametrize("is_installed", [False, True])
@pytest.mark.parametrize("cuda", [None, "13.0"])
@pytest.mark.parametrize("driver", [None, installed.Driver((13, 0), 0), installed.Driver((13, 0), 1)])
def test_a_worker_will_use_a_gpu_that_torch_and_gsplat_can_use(is_installed, cuda, driver, monkeypatch):
    monkeypatch.setattr(devices, "can_use_gpus", lambda: is_installed)
    monkeypatch.setattr(installed, "torch_cuda", lambda _: cuda)
    monkeypatch.setattr(installed, "cuda_driver", lambda: driver)
    assert devices.will_use_gpu() == (is_installed and cuda is not None and driver is not None and driver.num_gpus > 0)


@pytest.mark.parametrize("variable", ["", "auto", FLOAT32, BFLOAT16])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("address", ["", "local", "10.0.0.1:6379", "auto"])
@pytest.mark.parametrize("execution", [INLINE, RAY])
@pytest.mark.parametrize("flags", [OLD, AVX, AMX])
def test_bfloat16_is_preferred_on_the_cpu_of_this_machine_if_it_computes_in_it(
    flags, execution, address, gpu, variable, processor, monkeypatch
):
    processor(flags)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(devices, "will_use_gpu", lambda: gpu)
    is_here = execution is INLINE or address in ("", "local")
    is_wanted = variable == BFLOAT16 or (variable != FLOAT32 and flags != OLD)
    reason = {AVX: "this processor has AVX512-BF16", AMX: "this processor has AMX"}.get(flags)
    expected = (FLOAT32, "")
    if is_here and is_wanted and not gpu:
        expected = BFLOAT16, f"{VARIABLE} is bfloat16" if variable == BFLOAT16 else reason
    assert precision.preference(execution, {VARIABLE: variable}) == expected


def test_an_unknown_dtype_in_the_environment_is_an_error():
    with pytest.raises(UserError) as caught:
        precision.preference(INLINE, {VARIABLE: "float16"})
    assert str(caught.value) == "SEGMENTDREAMER_CPU_DTYPE is 'float16'; expected auto, float32 or bfloat16."


# ---- the choice ---------------------------------------------------------------------------------------------------


def test_job_ids_of_float32_runs_stay_and_those_of_bfloat16_are_as_if_set(processor, run_of, tmp_path):
    run = run_of(objectives=("sctd", "sds"))
    assert precision.chosen(run, in_folder(tmp_path / "a"), INLINE) == (run, None)
    processor(AVX)
    choice = precision.chosen(run, in_folder(tmp_path / "a"), INLINE)
    as_set = run_of(objectives=("sctd", "sds"), settings=[*SETTINGS, "compute.dtype=bfloat16"])
    assert choice == (as_set, BY_AVX)
    assert [job.id for job in choice.run.jobs] == [job.id for job in as_set.jobs]
    assert not {job.id for job in choice.run.jobs} & {job.id for job in run.jobs}


def test_recipes_in_another_dtype_never_change(processor, run_of, tmp_path):
    processor(AVX)
    run = run_of(settings=[*SETTINGS, "compute.dtype=float16"])
    assert precision.chosen(run, in_folder(tmp_path / "a"), INLINE) == (run, None)
    mixed = run_of(swept=["compute.dtype=float16,float32"])
    assert dtypes(precision.in_bfloat16(mixed)) == ["float16", BFLOAT16]


@pytest.mark.parametrize("root", ["out", "default"])
@pytest.mark.parametrize("flags", [OLD, AVX])
@pytest.mark.parametrize("before", [FLOAT32, BFLOAT16])
def test_an_existing_run_folder_decides(before, flags, root, processor, run_of, tmp_path):
    processor(flags)
    runs = {FLOAT32: run_of(), BFLOAT16: run_of(settings=[*SETTINGS, "compute.dtype=bfloat16"])}
    begun(runs[before], tmp_path / root)
    choice = precision.chosen(runs[FLOAT32], in_folder(tmp_path / root), INLINE)
    assert choice.run == runs[before]
    assert manifest.check_same(in_folder(tmp_path / root)(choice.run), choice.run) is not None
    other = FLOAT32 if before == BFLOAT16 else BFLOAT16
    slow = " (slow on this processor)" if (before, flags) == (BFLOAT16, OLD) else ""
    place = in_folder(tmp_path / root)(choice.run).root
    note = (
        f"The prior's networks run in {before}{slow}, as in the earlier run {place}; "
        f"--set compute.dtype={other} and another --out for {other}."
    )
    assert choice.note == (None if (before, flags) == (FLOAT32, OLD) else note)


@pytest.mark.parametrize(("flags", "expected"), [(OLD, FLOAT32), (AVX, BFLOAT16)])
def test_of_two_existing_default_folders_the_machines_precision_is_resumed(
    flags, expected, processor, run_of, tmp_path
):
    processor(flags)
    begun(run_of(), tmp_path / "default")
    begun(run_of(settings=[*SETTINGS, "compute.dtype=bfloat16"]), tmp_path / "default")
    assert dtypes(precision.chosen(run_of(), in_folder(tmp_path / "default"), INLINE).run) == [expected]


def test_a_method_that_is_added_to_a_folder_gets_the_precision_of_the_others(processor, run_of, tmp_path):
    processor(AVX)
    begun(run_of(), tmp_path / "out")
    choice = precision.chosen(run_of(objectives=("sctd", "sds")), in_folder(tmp_path / "out"), INLINE)
    assert dtypes(choice.run) == [FLOAT32, FLOAT32]


def test_the_error_about_a_folder_with_other_settings_does_not_name_the_chosen_dtype(processor, run_of, tmp_path):
    processor(AVX)
    begun(run_of(settings=["iterations=9", "initialization.kind=ball"]), tmp_path / "out")
    run = precision.chosen(run_of(), in_folder(tmp_path / "out"), INLINE).run
    with pytest.raises(UserError, match=r"other settings: iterations 9, now 4; use those, or choose another --out\.$"):
        manifest.check_same(Store(tmp_path / "out"), run)


def test_a_baseline_decides_for_a_nightly_run_on_any_processor(processor, run_of, tmp_path):
    half = run_of(settings=[*SETTINGS, "compute.dtype=bfloat16"])
    for flags in (OLD, AVX):
        processor(flags)
        of_half = Manifest.of(half, Store(tmp_path)).recipes
        slow = " (slow on this processor)" if flags == OLD else ""
        note = f"The prior's networks run in bfloat16{slow}, as in the baseline; --set {KEY}=float32 for float32."
        assert precision.like(run_of(), of_half) == (half, note)
        assert precision.like(run_of(), Manifest.of(run_of(), Store(tmp_path)).recipes) == (run_of(), None)
        assert precision.like(run_of(), {"sctd": "damaged"}) == (run_of(), None)


# ---- what sets the key --------------------------------------------------------------------------------------------


def test_options_and_recipe_files_set_a_key(tmp_path):
    files = {
        "nested": "compute:\n  dtype: float32\n",
        "dotted": "compute.dtype: float32\n",
        "swept": "sweep:\n  compute:\n    dtype: [float32, bfloat16]\n",
        "one of two": "sweep:\n  - {guidance.scale: [5]}\n  - {compute.dtype: [float32]}\n",
        "other": "iterations: 3\ncompute:\n  cuda_graphs: false\nsweep:\n  guidance.scale: [5, 10]\n",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
        assert RunOptions(recipe=str(tmp_path / f"{name}.yaml")).sets(KEY) == (name != "other"), name
    assert RunOptions(recipe=str(tmp_path / "other.yaml")).sets("compute.cuda_graphs")
    assert RunOptions(set_=["compute.fast=false"]).sets("compute.cuda_graphs")
    assert RunOptions(set_=["compute.dtype=float32"]).sets(KEY)
    assert RunOptions(sweep=["compute.dtype=float32,bfloat16"]).sets(KEY)
    for preset in ("embedded", "paper", "embedded-avatar"):
        assert not RunOptions(recipe=preset, set_=["iterations=3"], sweep=["guidance.scale=5,10"]).sets(KEY)


# ---- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_command(tiny_weights, tmp_path, monkeypatch):
    """Function that runs a command on two tiny assets, in tmp_path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("a red cube\na blue ball\n")

    def run(verb: str, *arguments: object):
        small = [word for setting in SETTINGS for word in ("--set", setting)]
        prompts = [] if verb == "generate" else ["--suite", "two.txt", "--views", "4", "--no-report"]
        command = [verb, *prompts, *small, "--weights", tiny_weights, "--executor", "inline", *arguments]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 0, result.output
        return result

    return run


def notes(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if "networks run in" in line]


def stored_dtypes(folder: Path) -> list[str]:
    return [recipe["compute"]["dtype"] for recipe in json.loads((folder / "run.json").read_text())["recipes"].values()]


def assets(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob(f"items/*/{ASSET}")}


def test_bench_says_once_what_it_chose_and_run_json_has_it(processor, run_command, tmp_path):
    processor(AVX)
    first = run_command("bench")
    assert notes(first) == [BY_AVX]
    (folder,) = (tmp_path / "runs").iterdir()
    assert stored_dtypes(folder) == [BFLOAT16]
    assert notes(run_command("bench", "--set", "compute.dtype=bfloat16")) == []  # nothing to do: the same run
    assert len(assets(folder)) == 2
    processor(OLD)
    again = run_command("bench")
    assert "All 2 assets are generated and scored, nothing to do" in again.stderr
    assert notes(again) == []
    assert list((tmp_path / "runs").iterdir()) == [folder]


def test_the_dtype_that_is_set_stays(processor, run_command, tmp_path):
    processor(AVX)
    assert notes(run_command("bench", "--set", "compute.dtype=float32", "--out", "single")) == []
    assert notes(run_command("bench", "--sweep", "compute.dtype=float32,bfloat16", "--out", "sweep")) == []
    assert stored_dtypes(tmp_path / "single") == [FLOAT32]
    assert stored_dtypes(tmp_path / "sweep") == [FLOAT32, BFLOAT16]
    in_single, in_sweep = assets(tmp_path / "single"), assets(tmp_path / "sweep")
    assert in_single.items() < in_sweep.items()
    assert len(set(in_sweep.values())) == 4


@pytest.mark.parametrize(("begun_on", "resumed_on", "dtype"), [(OLD, AVX, FLOAT32), (AVX, OLD, BFLOAT16)])
def test_a_run_that_is_resumed_on_another_processor_keeps_its_dtype_and_bytes(
    begun_on, resumed_on, dtype, processor, run_command, tmp_path
):
    processor(begun_on)
    run_command("bench", "--out", "run")
    before = assets(tmp_path / "run")
    assert len(before) == 2
    shutil.rmtree(tmp_path / "run" / "items" / min(before))
    processor(resumed_on)
    resumed = run_command("bench", "--out", "run")
    other = {FLOAT32: BFLOAT16, BFLOAT16: FLOAT32}[dtype]
    slow = " (slow on this processor)" if dtype == BFLOAT16 else ""
    (note,) = notes(resumed)
    assert note.startswith(
        f"The prior's networks run in {dtype}{slow}, as in the earlier run run; --set {KEY}={other} "
    )
    assert assets(tmp_path / "run") == before
    assert stored_dtypes(tmp_path / "run") == [dtype]


def test_generate_chooses_like_bench(processor, run_command, tmp_path):
    processor(AMX)
    made = run_command("generate", "a red cube")
    assert notes(made) == [BY_AVX.replace("AVX512-BF16", "AMX")]
    (folder,) = (tmp_path / "runs").iterdir()
    assert stored_dtypes(folder) == [BFLOAT16]
    processor(OLD)
    assert run_command("generate", "a red cube").stdout == made.stdout
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize(("accepted_on", "dtype"), [(OLD, FLOAT32), (AVX, BFLOAT16)])
def test_nightly_runs_keep_the_dtype_of_their_baseline(
    accepted_on, dtype, processor, run_command, tmp_path, monkeypatch
):
    monkeypatch.setattr(frozen, "check", list)  # it has its own tests
    processor(accepted_on)
    run_command("bench", "--out", "release")
    accepted = CliRunner().invoke(app, ["nightly", "accept", "release", "--baseline", "pinned", "--reason", "first"])
    assert accepted.exit_code == 0, accepted.output
    (tmp_path / "gates.toml").write_text("[clip]\ndelta = 100.0\n")  # no gate of time or memory
    nightly = "nightly", "--baseline", "pinned", "--gates", "gates.toml"
    for flags in (OLD, AVX):
        processor(flags)
        result = run_command(*nightly, "--out", f"night-{flags}")
        assert stored_dtypes(tmp_path / f"night-{flags}") == [dtype]
        assert assets(tmp_path / f"night-{flags}") == assets(tmp_path / "release")
        assert "compute.dtype changed" not in result.stdout
    other = {FLOAT32: BFLOAT16, BFLOAT16: FLOAT32}[dtype]
    changed = run_command(*nightly, "--out", "set", "--set", f"compute.dtype={other}")
    assert f"compute.dtype changed from '{dtype}' to '{other}'" in changed.stdout


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_interrupted_asset_in_bfloat16_resumes_to_the_same_bytes(engine, tiny_weights, run_of, tmp_path):
    pytest.importorskip(engine)
    settings = [*SETTINGS, "compute.dtype=bfloat16", f"compute.cpu_engine={engine}"]
    job, weights = run_of(settings=settings).jobs[0], models.resolve(str(tiny_weights))
    half = ComputeConfig(dtype=BFLOAT16, cpu_engine=engine)

    def generator(name: str) -> AssetGenerator:
        return AssetGenerator(Store(tmp_path / name), weights, 0.0, half)

    work = generator("interrupted")(job)
    for _ in range(3):
        next(work)
    work.close()
    (*_, last) = generator("interrupted")(job)
    (*_, whole) = generator("whole")(job)
    assert (last.done, whole.done) == (4, 4)
    folders = [tmp_path / name / "items" / job.id for name in ("interrupted", "whole")]
    resumed, undisturbed = ((folder / ASSET).read_bytes() for folder in folders)
    assert json.loads((folders[0] / "generation.json").read_text())["resumed_from"] == 2
    assert resumed == undisturbed


def test_the_engine_of_the_u_net_is_part_of_job_ids_unless_it_is_torch(run_of):
    plain, named = run_of(), run_of(settings=[*SETTINGS, "compute.cpu_engine=torch"])
    other = run_of(settings=[*SETTINGS, "compute.cpu_engine=openvino"])
    assert [job.id for job in named.jobs] == [job.id for job in plain.jobs]
    assert not {job.id for job in other.jobs} & {job.id for job in plain.jobs}
    assert "cpu_engine" not in plain.recipes[0].stored()["compute"]
    assert other.recipes[0].stored()["compute"]["cpu_engine"] == "openvino"


@pytest.mark.parametrize(
    ("dtype", "is_installed", "message"),
    [
        ("float32", True, None),
        ("bfloat16", True, None),
        (
            "float16",
            True,
            (
                "compute.cpu_engine is openvino, which computes in float32 or bfloat16, not float16; set compute.dtype "
                "or compute.cpu_engine."
            ),
        ),
        (
            "float32",
            False,
            "compute.cpu_engine is openvino, which is not installed; pip install 'segmentdreamer[cpu]', or set torch.",
        ),
    ],
)
def test_an_engine_that_cannot_work_is_an_error_before_work_begins(dtype, is_installed, message, run_of, monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: name if is_installed else None)
    monkeypatch.setattr(precision.devices, "will_use_gpu", lambda: False)
    run = run_of(settings=[*SETTINGS, f"compute.dtype={dtype}", "compute.cpu_engine=openvino"])
    if message is None:
        precision.check_engine(run, INLINE)
        return
    with pytest.raises(UserError) as caught:
        precision.check_engine(run, INLINE)
    assert str(caught.value) == message


def test_the_engine_is_not_checked_where_this_cpu_does_not_compute(run_of, monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    run = run_of(settings=[*SETTINGS, "compute.cpu_engine=openvino"])
    monkeypatch.setattr(precision.devices, "will_use_gpu", lambda: True)
    precision.check_engine(run, INLINE)
    monkeypatch.setattr(precision.devices, "will_use_gpu", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    precision.check_engine(run, RAY)
