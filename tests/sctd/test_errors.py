"""sctd.errors: one base class for every error of the package."""

import importlib
import pkgutil

import pytest

import sctd
from sctd.errors import SctdError, one_line


def test_all_errors_of_sctd_have_one_base_class():
    errors = {}
    for module in pkgutil.walk_packages(sctd.__path__, "sctd."):
        if module.name.endswith("_triton") or module.name in ("sctd.prior.cuda_graphs", "sctd.render.gsplat_backend"):
            continue  # these need a GPU's libraries, and define no errors
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("sctd."):
                errors[name] = value
    assert len(errors) > 15
    assert [name for name, error in errors.items() if not issubclass(error, SctdError)] == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("first\n  second"), "first second"),
        (KeyError("a"), "its content does not follow the format"),
        (ValueError("not enough values to unpack"), "its content does not follow the format"),
        (ValueError(""), "its content does not follow the format"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        ("Invalid JSON: recursion limit exceeded at line 1 column 128", "it is nested too deeply"),
        (ValueError("x" * 200), "x" * 159 + "…"),
    ],
)
def test_texts_of_libraries_are_one_line_without_python(error, text):
    assert one_line(error) == text
