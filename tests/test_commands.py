"""Every command in README, CONTRIBUTING, docs and `--help` is valid; those that can run here run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import trimesh
from typer.testing import CliRunner

from pipeline.cli import error_handling, examples
from pipeline.cli.app import app, loaded
from pipeline.store.run_folder import Store
from sctd.formats import ply
from sctd.recipe.methods import ON_NERF
from tests.support import finished_run, tiny_models
from tests.support.page_commands import PAGES, ROOT, check, check_verb, of_line, of_page

SHOWN = {page: of_page(page.read_text(encoding="utf-8")) for page in PAGES}
WITH_COMMANDS = [page for page in PAGES if SHOWN[page]]
CANNOT_RUN = {
    r"pytest": "runs this",
    r"python -m": "trains, measures for minutes, or needs a path; each has its own tests",
    r".*--recipe paper": "real weights, and a GPU",
    r".*--weights (FOLDER|DIR|my_weights|published)": "needs the reader's weights",
    r"segmentdreamer weights (fetch|check)": "fetches or opens 9 GB",
    r"segmentdreamer reference": "real weights; tests/pipeline/reference/test_moments.py",
    r"segmentdreamer benchmark speed": "measures; tests/pipeline/benchmarks/test_speed.py",
    r"segmentdreamer (submit|schedule|job)": "a cluster; tests/pipeline/cli/test_cluster.py runs them on emulated ones",
    r".*--live": "needs a port; tests/pipeline/report/test_live.py",
    r".*s3://": "a bucket; tests/pipeline/store/test_object_store.py",
    r"segmentdreamer nightly": "needs the golden scores of the bundled models; tests/pipeline/commands/test_nightly.py",
    r"segmentdreamer study (serve|results|published)": "serves forever or needs votes; tests/pipeline/study",
    r"segmentdreamer export .*--to html": "fetches from npm; tests/browser/test_report.py",
    r"segmentdreamer (view|viewer)\b": "serves until Ctrl-C, or fetches from npm; tests/pipeline/report/test_viewer.py",
}  # fmt: skip


OBJECTS = "red car", *(f"{colour} ball" for colour in ("red", "green", "blue", "pink", "grey", "teal", "gold"))


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_is_valid(page):
    wrong = {}
    for shown in SHOWN[page]:
        try:
            check(shown)
        except (Exception, SystemExit) as error:
            wrong[str(shown)] = getattr(error, "message", None) or repr(error)
    assert wrong == {}


def test_commands_are_extracted_from_pages():
    assert sum(map(len, SHOWN.values())) > 120
    assert of_line("PYTHON=3 uv run segmentdreamer bench --limit 1 && segmentdreamer status RUN | cat > a  # c") == [
        ("segmentdreamer", "bench", "--limit", "1"), ("segmentdreamer", "status", "RUN"),
    ]  # fmt: skip
    assert of_line('eval "$(segmentdreamer completion bash)"') == [("segmentdreamer", "completion", "bash")]


@pytest.mark.parametrize(
    "line",
    [
        "segmentdreamer bensh",
        "segmentdreamer bench --limits 1",
        "segmentdreamer bench --limit many",
        "segmentdreamer bench --objective sctd,sdss",
        "segmentdreamer bench --set guidance.scal=1",
        "segmentdreamer bench --set guidance.scale=high",
        "segmentdreamer bench --sweep guidance.scal=1",
        "segmentdreamer bench --sweep times.interval=80,90",
        "segmentdreamer bench --objective sctd,sds --set times.num_segments=3",
        "segmentdreamer bench --suite embedded41",
        "segmentdreamer bench --recipe papers",
        "segmentdreamer bench --recipe examples/figure5.yaml",
        "segmentdreamer bench extra",
        "segmentdreamer export asset.ply --to stl",
        "segmentdreamer weights chek",  # codespell:ignore
        "segmentdreamer nightly acept RUN",  # codespell:ignore
        "segmentdreamer job status kubray paper",
        "segmentdreamer submit local -- bench --limits 1",
        "python -m sctd.testbeds",
        "python -m sctd.experiments.testbed --sed 1",
        "python -m sctd.experiments.testbed --objective sdss",
        "python -m sctd.experiments.testbed --set times.num_segment=3",
        "python -m sctd.experiments.theorem 1",
        "uv run pytest tests/none.py",
    ],
)
def test_invalid_commands_are_detected(line):
    (shown,) = of_page(f"```\n{line}\n```")
    with pytest.raises((Exception, SystemExit)):
        check(shown)


def verbs(command, before=""):
    for name, verb in command.commands.items():
        if not verb.hidden:
            if getattr(verb, "commands", None):
                yield from verbs(verb, f"{before}{name} ")
            if verb.params and not (hasattr(verb, "commands") and not verb.epilog):
                yield f"{before}{name}", verb


VERBS = dict(verbs(loaded()))


def test_every_command_shows_its_examples():
    assert {*VERBS, ""} == set(examples.EXAMPLES)
    for name in VERBS:
        shown = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
        assert "\n  Examples:\n" in shown, name
        for line in examples.lines(name):
            assert f"\n    {line}\n" in shown
            assert line.startswith(f"segmentdreamer {name} ".rstrip()) or "$(" in line or name == "completion"


@pytest.mark.parametrize("verb", examples.EXAMPLES)
def test_examples_are_valid(verb):
    for line in examples.lines(verb):
        (words,) = of_line(line)
        if words[-1] != "--help":
            check_verb(list(words[1:]))


# ---- running the commands -------------------------------------------------------------------------------------------


def reason_against(words):
    """Why a command cannot run here; None if it can."""
    text = " ".join(words)
    return next((reason for pattern, reason in CANNOT_RUN.items() if re.match(pattern, text)), None)


def runnable(page):
    """The commands in code blocks that can run, each once. Placeholders are kept as names."""
    blocks = dict.fromkeys(shown.words for shown in SHOWN[page] if not shown.is_inline)
    return [words for words in blocks if reason_against(words) is None]


def test_every_reason_for_not_running_a_command_applies():
    texts = [" ".join(shown.words) for page in PAGES for shown in SHOWN[page] if not shown.is_inline]
    assert [pattern for pattern in CANNOT_RUN if not any(re.match(pattern, text) for text in texts)] == []
    assert sum(len(runnable(page)) for page in PAGES) >= 35


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs of one method each, and tiny weights."""
    root = tmp_path_factory.mktemp("finished")
    texts = [f"a {name}" for name in OBJECTS]
    for name, method in (("first", "sctd"), ("second", "sds")):
        finished_run.write(Store(root / name), root / "scorers", texts, [method])
    return root, tiny_models.write(root / "tiny")


def copy_runs(words, finished):
    """Copy finished runs and items to the paths that a command names."""
    if words[1] in ("bench", "generate"):
        return
    for name in (name for word in words for name in word.split(",") if re.match(r"(runs/|RUN$|DIR$|studies/)", name)):
        root, _, item = name.partition("/items/")
        run = finished / ("second" if root.endswith(("/b", "/two")) else "first")
        if not Path(root).exists() and not root.startswith("studies/"):
            shutil.copytree(run, root)
        if item and not Path(name).exists():
            shutil.copytree(next(run.rglob("asset.ply")).parent, name)


def with_small_options(words, tiny):
    """The command with options that make it fast enough for a test."""
    options = []
    if words[1] in ("bench", "generate"):
        options += ["--weights", str(tiny), "--executor", "inline", "--set", "iterations=2"]
        if not any("initialization.kind" in word for word in words):
            options += ["--set", "initialization.kind=ball"]
            if not any(name in word for word in words for name in (*ON_NERF, "nerf")):  # which have no such number
                options += ["--set", "initialization.count=100"]
    if words[1] == "bench":
        options += ["--views", "3", "--limit", "1", "--no-report"]
    if words[1] == "warmup":
        options += ["--weights", str(tiny)]
    if words[1] == "evaluate":
        options += ["--weights", str(tiny), "--views", "3", "--executor", "inline"]
    return [*map(shortened, words[1:]), *options]


def shortened(word):
    """A list of values or objectives with its first two, as each objective has a page; without shell variables."""
    key, equals, values = word.rpartition("=")
    few = ",".join(values.split(",")[:2])
    is_list = values.count(",") > 1 and re.fullmatch(r"[\w.,-]+", values)
    return f"{key}{equals}{few}" if is_list else word.replace("$seed", "0")


def test_commands_that_can_run_succeed(finished, tmp_path, monkeypatch):
    """Commands run page by page in order and share files; a command on several pages runs once."""
    done = set()
    runs, tiny = finished
    for page in WITH_COMMANDS:
        here = tmp_path / name_of(page).replace("/", "-")
        here.mkdir()
        monkeypatch.chdir(here)
        write_files_of_reader(here)
        for words in runnable(page):
            if words in done and words[1] in ("bench", "generate") and "--out" not in words:
                continue
            done.add(words)
            copy_runs(words, runs)
            monkeypatch.setenv(error_handling.DEBUG, "")
            monkeypatch.setattr("sys.argv", list(words))
            ended = CliRunner().invoke(app, with_small_options(words, tiny))
            assert ended.exit_code == error_handling.OK, f"{name_of(page)}: {shlex.join(words)}\n{ended.output[-1500:]}"
            assert ended.output.strip()


def write_files_of_reader(here):
    """Write the files that the reader of a page has."""
    (here / "examples").symlink_to(ROOT / "examples")
    (here / "my_prompts.txt").write_text("a red cube\n# not this\na blue ball | a ball\n", encoding="utf-8")
    (here / "my_recipe.yaml").write_text("base: embedded\nguidance:\n  scale: 10\n", encoding="utf-8")
    for name in ("trellis", "meshes"):
        (here / name).mkdir()
    (here / "trellis" / "1.ply").write_bytes(ply.to_ply(finished_run.asset()))
    trimesh.creation.box().export(here / "meshes" / "1.ply")
    (here / "trellis.csv").write_text(f"file,prompt\n1.ply,a {OBJECTS[0]}\n", encoding="utf-8")
    opinions = "".join(f"sctd,a {name},{number}\n" for number, name in enumerate(OBJECTS))
    (here / "ratings.csv").write_text(f"method,prompt,Geometry\n{opinions}", encoding="utf-8")
    for name in ("asset.ply", "head.ply"):
        (here / name).write_bytes(ply.to_ply(finished_run.asset()))
    for name in ("robot.glb", "head.stl"):
        trimesh.creation.box().export(here / name)
