"""sctd.errors: one base class for every error of the package."""

import importlib
import pkgutil

import sctd
from sctd.errors import SctdError


def test_all_errors_of_sctd_have_one_base_class():
    errors = {}
    for module in pkgutil.walk_packages(sctd.__path__, "sctd."):
        if module.name in ("sctd.prior.group_norm_triton", "sctd.prior.cuda_graphs", "sctd.render.gsplat_backend"):
            continue  # these need a GPU's libraries, and define no errors
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("sctd."):
                errors[name] = value
    assert len(errors) > 15
    assert [name for name, error in errors.items() if not issubclass(error, SctdError)] == []
