"""Our source opens nothing that can run code, gives no word to a shell, and listens on loopback."""

import ast

import pytest

from tests.support.paths import ROOT

FILES = sorted(
    path for part in ("pipeline", "sctd", "evaluation", "cluster", "examples") for path in (ROOT / part).rglob("*.py")
)
RUNS_CODE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "marshal.load",
    "marshal.loads", "joblib.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "eval", "exec",
    "os.system", "os.popen", "subprocess.getoutput",
}  # fmt: skip
ALLOWED = {
    # Reads the attributes of a TorchScript archive; it finds no class but those it names, so it runs nothing.
    ("evaluation/checkpoints.py", "pickle.Unpickler"),
    # KubeRay's operator asks a RayJob's dashboard over the pods' network, where a token guards it.
    ("cluster/kubernetes/rayjob.py", "0.0.0.0"),
    # A word given to Typer: the shell whose completion script is printed.
    ("pipeline/cli/completion.py", "shell=True"),
    # The user's own objective: the file that --objective names, of the digest that the recipe holds.
    ("sctd/recipe/custom_file.py", "exec"),
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def found_in(tree: ast.AST) -> set[str]:
    """What a file does that it should not."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {dotted(base) for base in node.bases} & RUNS_CODE
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            found.add(node.value)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {word.arg: getattr(word.value, "value", "?") for word in node.keywords}
        if name in RUNS_CODE:
            found.add(name)
        if name == "torch.load" and given.get("weights_only") is not True:
            found.add("torch.load without weights_only=True")
        if given.get("allow_pickle", False) is not False:
            found.add("allow_pickle")
        if given.get("shell", False) is not False:
            found.add("shell=True")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_opens_and_starts_nothing_that_could_run_anothers_code(path):
    name = path.relative_to(ROOT).as_posix()
    found = found_in(ast.parse(path.read_text(encoding="utf-8")))
    assert found == {what for file, what in ALLOWED if file == name}


@pytest.mark.parametrize(
    "line",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "yaml.load(t, Loader=l)",
     "pickle.loads(b)", "eval(t)", "os.system(t)", "subprocess.run(t, shell=True)", "serve('0.0.0.0')",
     "class U(pickle.Unpickler): pass"],
)  # fmt: skip
def test_the_scan_sees_each_of_them(line):
    assert len(found_in(ast.parse(line))) == 1
