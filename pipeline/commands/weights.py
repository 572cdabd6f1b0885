"""The commands `weights list`, `weights fetch`, `weights check`, `doctor` and `reference`."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.commands.bench import ExecutionOptions, executing
from pipeline.errors import UserError
from pipeline.weights import catalogue, check, models
from pipeline.weights.catalogue import Role
from pipeline.weights.fetch import Network, Progress, fetch

UNKNOWN = "not known"
BUNDLED = "prior", "scorer", "reward", "shape", "reference"


def list_weights(where: str | None, *, as_json: bool) -> None:
    """Print the model, sources, files, licence and folder of every role."""
    weights = folder_of(where)
    if as_json:
        print(json.dumps([_described(role, weights) for role in catalogue.ROLES.values()], indent=2))
        return
    for role in catalogue.ROLES.values():
        print("\n".join(_lines(role, weights)) + "\n")


def fetch_weights(names: Sequence[str], where: str | None, *, offline: bool) -> None:
    """Download the missing files of these roles, or of all roles that a benchmark may need."""
    roles = catalogue.roles(names or catalogue.DEFAULT, catalogue.FETCHED)
    weights = folder_of(where)
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    network = Network(offline, _bar if is_terminal else None)
    for role in roles:
        fetched = fetch(role, weights, network, _log)
        _log(f"{role.name}: {f'{fetched} files downloaded' if fetched else 'complete'}, in {weights / role.folder}")
    print(weights)


def check_weights(names: Sequence[str], where: str | None, golden: Path | None, *, as_json: bool = False) -> bool:
    """Print the results of `pipeline.weights.check` for these roles, or for all. Returns whether all passed."""
    weights = models.resolve(where or models.PUBLISHED)
    if golden is not None and not golden.is_dir():
        raise UserError(f"There is no folder {golden}; pass the folder with the images, or omit --golden.")
    is_bundled = weights.name == models.EMBEDDED
    known = BUNDLED if is_bundled else tuple(catalogue.ROLES)
    has_passed, found = True, list[dict[str, str]]()
    for role in catalogue.roles(names or known, known):
        # The bundled models have other files than the published ones.
        checked = replace(role, groups=()) if is_bundled else role
        may_lack = not names and (role.is_optional or not weights.is_published)
        for result in check.check(checked, weights.folder, golden, is_published=weights.is_published):
            is_optional = may_lack and result.status is check.CheckStatus.MISSING
            status = check.CheckStatus.NOTE if is_optional else result.status
            has_passed = has_passed and status in (check.CheckStatus.OK, check.CheckStatus.NOTE)
            found.append({"role": result.role, "status": str(status), "text": result.text})
            if not as_json:
                print(f"{result.role:10} {status:8} {result.text}", flush=True)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return has_passed


def examine(recipe_name: str, where: str | None, *, as_json: bool) -> bool:
    """Print the findings of `pipeline.weights.doctor`. Returns whether the recipe can run on this machine."""
    from pipeline.plan import recipes
    from pipeline.weights import doctor, machine

    recipe = recipes.named(recipe_name).recipe
    weights = models.resolve(where or models.default_for(recipe_name))
    facts = machine.facts(weights)
    found = doctor.findings(facts, doctor.needs(recipe, weights))
    can_run = doctor.can_run(found)
    if as_json:
        tree = {"recipe": recipe_name, "weights": str(weights.folder), "can_run": can_run, "facts": asdict(facts)}
        print(json.dumps(tree | {"findings": [asdict(finding) for finding in found]}, indent=2))
        return can_run
    for finding in found:
        print(f"{finding.status:8} {finding.what}: {finding.text}")
        if finding.mend and finding.status is not doctor.FindingStatus.OK:
            print(f"{'':8} → {finding.mend}")
    verdict = "can" if can_run else "cannot yet"
    print(f"\nThis machine {verdict} run --recipe {recipe_name} --weights {where or weights.name}.")
    return can_run


def make_reference(
    where: str | None,
    suite: str | None,
    count: int,
    networks: Sequence[str],
    out: Path | None,
    cache: Path | None,
    dtype: str | None,
    execution: ExecutionOptions,
    *,
    keep_images: bool,
) -> int:
    """Write the statistics of the reference images and print their paths. Returns the number of failed shards."""
    from pipeline.prompts import suite as read_suite
    from pipeline.prompts import suite_name

    execution.check()
    weights = models.resolve(where or models.PUBLISHED)
    suite = suite or ("embedded40" if weights.name == models.EMBEDDED else "dreamfusion40")
    prompts = read_suite(suite)
    from pipeline.reference.moments import Request, make, without_weights

    request = Request(
        weights, suite_name(suite), prompts, count, tuple(networks), out or weights.folder, cache, keep_images, dtype
    ).checked()
    if not networks and weights.name != models.EMBEDDED and (lacking := without_weights(weights)):
        _log(f"{weights.folder} has no weights for {', '.join(lacking)}: their references are not computed")
    with executing(execution.executor, execution.workers) as executor:
        files, failures = make(request, executor, execution.workers, _log)
    for line in failures:
        _log(f"failed: {line}")
    for file in files:
        print(file)
    return len(failures)


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


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
