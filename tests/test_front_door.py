"""What a notebook imports: public names, their version, and the examples in docstrings."""

import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

PACKAGES = "sctd", "evaluation"


def objects(package):
    module = import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_is_documented_and_listed(package):
    module, found = import_module(package), objects(package)
    assert set(found) <= set(dir(module))
    assert [name for name, value in found.items() if callable(value) and not inspect.getdoc(value)] == []
    with pytest.raises(AttributeError, match="leap"):
        _ = module.leap


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_no_large_library(package):
    code = f"import sys, {package}; print(*{{'torch', 'numpy', 'pydantic', 'pandas', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", [*PACKAGES, "pipeline"])
def test_the_version_is_that_of_the_installed_package(package):
    assert import_module(package).__version__ == version("segmentdreamer")


@pytest.mark.parametrize("package", PACKAGES)
def test_examples_in_docstrings_run(package):
    """Those of the package and of its public names; `tests/evaluation/test_metrics.py` runs those that need views."""
    attempted = 0
    for name, value in {package: import_module(package), **objects(package)}.items():
        if not getattr(value, "__module__", "").endswith("metrics"):
            for example in doctest.DocTestFinder(recurse=False).find(value, name):
                result = doctest.DocTestRunner().run(example)
                attempted += result.attempted
                assert result.failed == 0, name
    assert attempted > 0
