"""`with_options`: a command takes a whole value, such as `RunOptions`, of which each field is an option."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from pipeline.cli import completion

Attributes = Mapping[str, Any]  # of an option: `pipeline.option.option`'s, and `type` and `default`
Command = Callable[..., Any]


def with_options(*names: str, **changes: Attributes) -> Callable[[Command], Command]:
    """Offer an option for each field of those parameters of a command that are annotated with a class of options.

    A class of options is a dataclass with fields by `pipeline.option.option`, or a pydantic model whose fields have a
    description, and other attributes in `json_schema_extra`. `names`: the parameters and fields in the order of --help;
    by default all. A field that is not named, or that has the name of a
    parameter, keeps its default. `changes`: attributes of fields that differ here.
    """

    def decorated(command: Command) -> Command:
        given = inspect.signature(command).parameters
        own = {name for name, parameter in given.items() if not _is_class_of_options(parameter.annotation)}
        shown: dict[str, Parameter] = {}
        values: dict[str, tuple[type, list[str]]] = {}  # by parameter: its class, and the fields that are offered
        for name, parameter in given.items():
            if name in own:
                shown[name] = parameter.replace(kind=Parameter.KEYWORD_ONLY)
                continue
            fields_of = {
                k: about for k, about in _described(parameter.annotation) if k in (names or [k]) and k not in own
            }
            values[name] = parameter.annotation, list(fields_of)
            shown |= {key: _parameter(key, {**about, **changes.get(key, {})}) for key, about in fields_of.items()}

        @functools.wraps(command)
        def run(**options: Any) -> Any:
            whole = {name: kind(**{key: options.pop(key) for key in keys}) for name, (kind, keys) in values.items()}
            return command(**options, **whole)

        parameters = [shown[name] for name in names or shown]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorated


def _is_class_of_options(annotation: Any) -> bool:
    return is_dataclass(annotation) or hasattr(annotation, "model_fields")


def _described(kind: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of a class of options, and the attributes of its option."""
    if is_dataclass(kind):
        types = get_type_hints(kind)
        for each in fields(kind):
            default = Parameter.empty if each.default is MISSING else each.default
            yield each.name, {"type": types[each.name], "default": default, **each.metadata}
        return
    for name, info in kind.model_fields.items():
        default = Parameter.empty if info.is_required() else info.default
        about = {"type": info.annotation, "default": default, "help": info.description}
        yield name, about | (info.json_schema_extra or {})


def _parameter(name: str, attributes: Attributes) -> Parameter:
    about = dict(attributes)
    kind, default, flags = about.pop("type"), about.pop("default"), about.pop("flags", ())
    if complete := about.pop("complete", None):
        about["autocompletion"] = completion.named(complete)
    annotation = Annotated[kind, typer.Option(*flags, **about)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
