"""No function of the source takes more than 8 parameters: what belongs together is passed as one value."""

import ast
from collections.abc import Iterator

from tests.support.paths import ROOT

PACKAGES = "pipeline", "sctd", "evaluation", "cluster"
MOST = 8
COMPILED = {"kernel", "vector_kernel", "inline", "function", "jit"}  # numba and triton take arrays and numbers only
EXEMPT = {
    "sctd.objectives.sctd.sctd": "the symbols of Eq. 10",
    "sctd.objectives.gcs.gcs": "the symbols of the paper's equations",
    "sctd.objectives.csd.csd": "what the objective asks for",
    "sctd.objectives.vsd.vsd": "what the objective asks for",
    "sctd.objectives.cfd.cfd": "what the objective asks for",
    "sctd.scene.cameras.random_views": "one range per camera parameter, by keyword",
    "sctd.render.cpu_autograd.forward": "autograd passes tensors one by one",
    "pipeline.benchmarks.torch_render._view": "one tensor per attribute of the projected Gaussians",
    "pipeline.embedded.views._cameras": "one array per column of the result",
    "pipeline.embedded.training.fit": "the hyperparameters of an optimizer, by keyword",
    "pipeline.embedded.train_shape.run": "the hyperparameters of a training, by keyword",
}


def functions(text: str) -> Iterator[tuple[str, int, set[str]]]:
    """Each function's name, number of parameters (without self and cls), and the names of its decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            decorators = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
            yield node.name, len(names) - (names[:1] in (["self"], ["cls"])), {_name(each) for each in decorators}


def _name(decorator: ast.expr) -> str:
    return decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")


def long_signatures() -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name, count, decorators in functions(path.read_text(encoding="utf-8")):
                if count > MOST and not decorators & COMPILED:
                    found.add(f"{module}.{name}")
    return found


def test_no_function_has_more_than_eight_parameters():
    assert long_signatures() - set(EXEMPT) == set()


def test_every_exemption_is_needed():
    assert set(EXEMPT) - long_signatures() == set()


def test_parameters_are_counted():
    text = "class A:\n    def f(self, a, /, b, *, c, d=1): ...\n@numba.jit(cache=True)\nasync def g(x): ..."
    assert list(functions(text)) == [("g", 1, {"jit"}), ("f", 4, set())]
