"""Generate Markdown for the site from docstrings (read by griffe, without importing) and from the commands."""

from collections.abc import Iterator
from pathlib import Path

import griffe
import typer
from typer.cli import get_docs_for_click

from sctd.recipe.objective import ENTRIES

ROOT = Path(__file__).parents[1]
COLUMNS = 96  # longer signatures have one parameter per line
MODULES = {
    "sctd": (
        *("recipe.presets", "recipe.recipe", "recipe.objective", "recipe.methods", "recipe.effects"),
        *("objectives", "objectives.weights"),
        *(entry.function.partition(":")[0].removeprefix("sctd.") for entry in ENTRIES.values()),
        *("diffusion.schedule", "diffusion.solver", "diffusion.segments", "diffusion.times"),
        *("diffusion.guidance", "diffusion.perp_neg"),
        *("train.optimize", "train.initialization", "train.regularize"),
        *("scene.gaussians", "scene.cameras", "scene.densify", "scene.brightness"),
        *("render.rasterize", "prior.stable_diffusion", "point_e.load", "formats.ply"),
    ),
    "evaluation": (
        *("views", "clip_score", "image_reward", "features", "fid", "references"),
        *("metrics", "distance_metrics", "statistics", "ranking"),
    ),
    "cluster": (
        *("scheduling.executor", "scheduling.workers", "scheduling.protocol", "scheduling.failures"),
        *("scheduling.retries", "scheduling.scheduler", "jobs.description", "jobs.launcher"),
    ),
    "pipeline": (
        "plan.run",
        "plan.jobs",
        "plan.sweep",
        "store.run_folder",
        "leaderboard.table",
        "leaderboard.comparison",
    ),
}


def documented() -> set[str]:
    """Return the modules that have a section on the site."""
    return {f"{package}.{name}" for package, names in MODULES.items() for name in names}


def modules(package: str) -> str:
    """Return the public API of a package: a section per module, an entry per public name with a docstring."""
    tree = griffe.load(package, search_paths=[ROOT], allow_inspection=False, resolve_aliases=False)
    return "\n".join(line for name in MODULES[package] for line in _module(tree[name]))


def commands() -> str:
    """Return every command with its arguments and options."""
    from pipeline.cli.app import loaded

    root = loaded()
    _tidy(root)
    text = get_docs_for_click(obj=root, ctx=typer.Context(root, info_name="segmentdreamer"), name="segmentdreamer")
    return "\n".join("#" + line if line.startswith("#") else line for line in text.splitlines())


def _tidy(command) -> None:
    """Remove hidden commands, and use the whole first paragraph in lists of commands."""
    paragraphs = (command.help or "").split("\n\n")
    command.short_help = " ".join(paragraphs[0].split())
    if hasattr(command, "commands"):
        command.commands = {name: sub for name, sub in command.commands.items() if not sub.hidden}
        for sub in command.commands.values():
            _tidy(sub)


def _module(module: griffe.Module) -> Iterator[str]:
    yield from (f"## `{module.path}`", "", f"```{{py:module}} {module.path}", "```", "", _text(module))
    for member in _public(module):
        yield from _entry(member, fence=6)


def _public(parent: griffe.Object) -> list[griffe.Object]:
    found = [each for each in parent.members.values() if not (each.is_alias or each.is_module or each.is_private)]
    return [each for each in sorted(found, key=lambda each: each.lineno) if each.is_class or _is_documented(each)]


def _is_documented(member: griffe.Object) -> bool:
    return member.has_docstring or ("instance-attribute" in member.labels and member.annotation is not None)


def _entry(member: griffe.Object, fence: int) -> Iterator[str]:
    """A directive of Sphinx's Python domain; the members of a class are nested in it."""
    ticks, inner = "`" * fence, ()
    if member.is_class:
        bases = ", ".join(str(base) for base in member.bases)
        kind, line = "class", f"{member.name}({bases})" if bases else member.name
        inner = tuple(line for each in _public(member) for line in _entry(each, fence - 1))
    elif member.is_function:
        kind = "method" if member.parent.is_class else "function"
        line = " ".join(member.signature(return_type=True).split()).replace("(self, ", "(").replace("(self)", "()")
    else:
        kind, line = "attribute" if member.parent.is_class else "data", member.name
        line += f": {member.annotation}" if member.annotation else ""
    # The directive's line has the name only; the type of an attribute is the option `:type:`.
    name, _, annotation = line.partition(": ") if kind in ("attribute", "data") else (line, "", "")
    yield from (f"{ticks}{{py:{kind}}} {name}", f":module: {member.module.path}")
    if annotation:
        yield f":type: {annotation}"
    yield from ("", _text(member), "", *inner, ticks, "")


def _text(member: griffe.Object) -> str:
    return member.docstring.value if member.docstring else ""
