"""The commands `weights list`, `weights fetch`, `weights check`, `doctor` and `reference`."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.completion import named
from pipeline.cli.error_handling import CHECK_FAILED, OK, status_of
from pipeline.cli.messages import message
from pipeline.cli.options import AsJson
from pipeline.cli.values import with_options
from pipeline.errors import UserError
from pipeline.option import option
from pipeline.plan import recipes
from pipeline.plan.options import RunOptions
from pipeline.prompts import suite as read_suite
from pipeline.prompts import suite_name
from pipeline.weights import catalogue, check, models
from pipeline.weights.catalogue import Role
from pipeline.weights.fetch import Network, Progress, fetch
from pipeline.work.execution import ExecutionOptions, executing

UNKNOWN = "not known"
BUNDLED = "prior", "scorer", "reward", "shape", "reference"
FOLDER: dict[str, Any] = {
    "metavar": "NAME|DIR",
    "help": "Model weights: published (env var of their folder: SEGMENTDREAMER_WEIGHTS), embedded, or a folder.",
    "show_default": "published",
}
Folder = Annotated[str | None, typer.Option("--weights", **FOLDER)]

weights = typer.Typer()


@weights.command("list")
def list_weights(where: Folder = None, json: AsJson = False) -> None:
    """List the models with their sources, files, licenses and folders.

    Sources are listed in order of preference, files with their size and SHA-256.
    """
    folder = folder_of(where)
    if json:
        print(dumps([_described(role, folder) for role in catalogue.ROLES.values()], indent=2))
        return
    for role in catalogue.ROLES.values():
        print("\n".join(_lines(role, folder)) + "\n")


@weights.command("fetch")
def fetch_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Models to download, for example: prior scorer (see `weights list`).",
            show_default="all that are not optional",
            autocompletion=named("pipeline.weights.catalogue:FETCHED"),
        ),
    ] = None,
    where: Folder = None,
    offline: Annotated[bool, typer.Option(help="Use only the local Hugging Face cache.")] = False,
) -> None:
    """Download published weights and verify sizes and SHA-256 digests.

    An interrupted download resumes, and complete files are not downloaded again.
    """
    roles = catalogue.roles(names or catalogue.DEFAULT, catalogue.FETCHED)
    folder = folder_of(where)
    models.require_own(folder, "--weights")
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    network = Network(offline, _bar if is_terminal else None)
    for role in roles:
        fetched = fetch(role, folder, network, message)
        message(f"{role.name}: {f'{fetched} files downloaded' if fetched else 'complete'}, in {folder / role.folder}")
    print(folder)


@weights.command("check")
def check_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Models to check, for example: prior scorer (see `weights list`).",
            show_default="all",
            autocompletion=named("pipeline.weights.catalogue:ROLES"),
        ),
    ] = None,
    where: Folder = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images with published scores: those of the READMEs of ImageReward and CLIP.",
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Load the models and verify them.

    Verifies digests and tensor shapes, and compares outputs with published values. Exit status: 0 if all models pass or
    are optional and missing, 1 otherwise.
    """
    checked = models.resolve(where or models.PUBLISHED)
    if golden is not None and not golden.is_dir():
        raise UserError(f"There is no folder {golden}; pass the folder with the images, or omit --golden.")
    is_bundled = checked.name == models.EMBEDDED
    known = BUNDLED if is_bundled else tuple(catalogue.ROLES)
    has_passed, found = True, list[dict[str, str]]()
    for role in catalogue.roles(names or known, known):
        # The bundled models have other files than the published ones.
        files = replace(role, groups=()) if is_bundled else role
        may_lack = not names and (role.is_optional or not checked.is_published)
        for result in check.check(files, checked.folder, golden, is_published=checked.is_published):
            is_optional = may_lack and result.status is check.CheckStatus.MISSING
            status = check.CheckStatus.NOTE if is_optional else result.status
            has_passed = has_passed and status in (check.CheckStatus.OK, check.CheckStatus.NOTE)
            found.append({"role": result.role, "status": str(status), "text": result.text})
            if not json:
                print(f"{result.role:10} {status:8} {result.text}", flush=True)
    if json:
        print(dumps(found, indent=2, ensure_ascii=False))
    return OK if has_passed else CHECK_FAILED


@with_options("recipe", "weights", "json")
def doctor(options: RunOptions, json: AsJson = False) -> int:
    """Check whether this machine can run a recipe.

    Each problem is printed with the command that fixes it. Exit status: 0 if the recipe can run, 1 if not.
    """
    from pipeline.weights import doctor, machine

    recipe = recipes.named(options.recipe).recipe
    resolved = models.resolve(options.weights or models.default_for(options.recipe))
    facts = machine.facts(resolved)
    findings = doctor.findings(facts, doctor.needs(recipe, resolved))
    can_run = doctor.can_run(findings)
    if json:
        tree = {"recipe": options.recipe, "weights": str(resolved.folder), "can_run": can_run, "facts": asdict(facts)}
        print(dumps(tree | {"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            print(f"{finding.status:8} {finding.what}: {finding.text}")
            if finding.mend and finding.status is not doctor.FindingStatus.OK:
                print(f"{'':8} → {finding.mend}")
        verdict, name = "can" if can_run else "cannot yet", options.weights or resolved.name
        print(f"\nThis machine {verdict} run --recipe {options.recipe} --weights {name}.")
    return OK if can_run else CHECK_FAILED


@dataclass(frozen=True)
class ReferenceOptions:
    """The options of a reference set."""

    weights: str | None = option(None, **FOLDER)
    suite: str | None = option(
        None,
        metavar="NAME|FILE",
        complete="pipeline.prompts:bundled",
        show_default="dreamfusion40; embedded40 with the bundled models",
        help="Prompt suite.",
    )
    count: int = option(50_000, metavar="N", help="Total number of images, divided equally among the prompts.")
    network: list[str] | None = option(
        None,
        metavar="NAME",
        help="Feature network: scorer, inception, inception_tf, dinov2. Repeatable.",
        show_default="all networks in the weights",
    )
    out: Path | None = option(None, metavar="DIR", show_default="the weights folder", help="Folder for reference*.npz.")
    cache: Path | None = option(
        None,
        metavar="DIR",
        show_default="reference-cache/ in --out",
        help="Cache for features and images. On a cluster, all nodes must have access to it.",
    )
    keep_images: bool = option(
        False,
        "--keep-images",
        help="Keep the images so that features of another network can be computed without resampling.",
    )
    dtype: str | None = option(
        None,
        metavar="NAME",
        help="Data type of the prior: float32, float16, bfloat16.",
        show_default="float16 on a GPU; float32 on CPUs and for the bundled models",
    )


@with_options(
    *("weights", "suite", "count", "network", "out", "cache", "keep_images", "dtype", "workers", "executor"),
    workers={"help": "Number of parallel workers."},
)
def reference(options: ReferenceOptions, execution: ExecutionOptions) -> int:
    """Compute the reference statistics of the Fréchet distances.

    Samples the reference images from the prior and writes the moments of each network's features to reference*.npz.
    Run the same command again to resume; finished work is not repeated.
    """
    execution.check()
    resolved = models.resolve(options.weights or models.PUBLISHED)
    is_bundled = resolved.name == models.EMBEDDED
    suite = options.suite or ("embedded40" if is_bundled else "dreamfusion40")
    prompts = read_suite(suite)
    from pipeline.reference.moments import Request, make, without_weights

    networks = tuple(options.network or ())
    request = Request(
        weights=resolved,
        suite=suite_name(suite),
        prompts=prompts,
        count=options.count,
        metrics=networks,
        out=options.out or resolved.folder,
        cache=options.cache,
        keep_images=options.keep_images,
        dtype=options.dtype,
    ).checked()
    if not networks and not is_bundled and (lacking := without_weights(resolved)):
        message(f"{resolved.folder} has no weights for {', '.join(lacking)}: their references are not computed")
    with executing(execution) as executor:
        files, failures = make(request, executor, execution.workers, message)
    for line in failures:
        message(f"failed: {line}")
    for file in files:
        print(file)
    return status_of(len(failures))


def folder_of(where: str | None) -> Path:
    """The folder of weights to download to or to list; it need not exist."""
    if where == models.EMBEDDED:
        return models.resolve(where).folder
    return models.published_folder() if where in (None, models.PUBLISHED) else Path(where).expanduser().absolute()


def _described(role: Role, weights: Path) -> dict[str, Any]:
    missing = role.missing(weights)
    return {
        "role": role.name,
        "model": role.model,
        "format": role.format,
        "licence": role.licence,
        "about_bytes": role.about_bytes,
        "is_optional": role.is_optional,
        "command": role.command,
        "folder": str(weights / role.folder),
        "missing": missing,
        "groups": [
            {
                "sources": [str(source) for source in group.sources],
                "files": [{"path": file.path, "bytes": file.num_bytes, "sha256": file.sha256} for file in group.files],
            }
            for group in role.groups
        ],
    }


def _lines(role: Role, weights: Path) -> Iterator[str]:
    missing = role.missing(weights)
    state = f"complete, in {weights / role.folder}" if not missing else f"missing ({missing[0]}); run {role.command}"
    optional = ", optional" if role.is_optional else ""
    yield f"{role.name}: {role.model}, about {role.about_bytes / 1e9:.2f} GB, {role.licence}{optional}"
    yield f"  local    {state}"
    yield f"  format   {role.format}"
    for group in role.groups:
        yield f"  sources  {', then '.join(map(str, group.sources))}"
        for file in group.files:
            if not file.path.endswith((".json", "merges.txt")):
                size = f"{file.num_bytes:,} bytes" if file.num_bytes else f"size {UNKNOWN}"
                yield f"  file     {file.path}: {size}, SHA-256 {file.sha256 or UNKNOWN}"


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A progress bar of a download on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=None)
        yield lambda downloaded, total: bars.update(task, completed=downloaded, total=total)
