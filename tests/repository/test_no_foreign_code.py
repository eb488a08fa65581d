"""No module runs code from untrusted data: no pickle, eval, or exec, no YAML objects, and no remote code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen",
    *(f"{module}.{name}" for module in ("pickle", "_pickle", "cPickle", "dill", "marshal", "shelve", "joblib")
      for name in ("load", "loads", "Unpickler", "open")),
    *(f"yaml.{name}" for name in ("load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all")),
    *(f"yaml.{name}" for name in ("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader")),
    "numpy.load", "np.load",
}  # fmt: skip
OWN = {
    ("plugins/executors/ray/mergecore_ray.py", "pickle.loads"),
    ("plugins/testing/mergecore_testing/conformance/readers.py", "pickle.loads"),
}
"""Exceptions: processes of a run exchange pickled jobs, as Ray does, and a check unpickles a reader that it has just
pickled."""

PLAIN_LOADERS = {"yaml.SafeLoader", "yaml.BaseLoader"}


def sources():
    """All code that users and developers run. The tests are excluded, because they create the files to reject."""
    found = [ROOT / "dev", *ROOT.rglob("*.py")]
    hidden = {"tests", "build", "dist"}
    return [p for p in found if not any(part in hidden or part[0] == "." for part in p.relative_to(ROOT).parts)]


def faults(code):
    """Yield constructs in a module that could run untrusted code, with line numbers."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (
                (node.lineno, f"{node.module}.{a.name}") for a in node.names if f"{node.module}.{a.name}" in RISKY
            )
        elif isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in FORBIDDEN:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name.endswith("torch.load") and given.get("weights_only") != "True":
                yield node.lineno, "torch.load without weights_only=True"
            if name == "yaml.load" and given.get("Loader") not in PLAIN_LOADERS:
                yield node.lineno, "yaml.load without a plain loader"
            if given.get("trust_remote_code", "False") != "False":
                yield node.lineno, "trust_remote_code"
            if given.get("shell", "False") != "False":
                yield node.lineno, "shell"


RISKY = {*FORBIDDEN, "torch.load", "yaml.load"}
"""These must not be imported by name either, because the check would not find them."""


def test_nothing_runs_foreign_code():
    assert len(sources()) > 80
    used = set()
    for path in sources():
        for line, fault in faults(path.read_text("utf-8")):
            place = str(path.relative_to(ROOT))
            assert (place, fault) in OWN, f"{place}:{line}: {fault}"
            used.add((place, fault))
    assert used == OWN


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)", "exec(x)", "import pickle\npickle.load(f)", "pickle.Unpickler(f)", "from pickle import loads",
        "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.unsafe_load(x)", "f(x, yaml.FullLoader)",
        "torch.load(x)", "torch.load(x, weights_only=False)", "from torch import load",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "subprocess.run(x, shell=True)", "np.load(x)",
    ],
)  # fmt: skip
def test_the_search_finds(code):
    assert list(faults(code))
