"""Import rules, the structure of packages, and the modules that start-up can load."""

import ast
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CORE = {"mergecore"}
PLUGIN_DOORS = {"mergecore.api", "mergecore.errors"}
PACKAGES = sorted(path.parent for kind in ("plugins/*", "plugins/*/*", "architectures/*")
                  for path in ROOT.glob(f"{kind}/pyproject.toml"))  # fmt: skip


def imports(path: Path) -> set[str]:
    """Return every module that a file imports at any level, as a dotted name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def modules(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if "tests" not in path.parts and ".venv" not in path.parts]


def room(folder: Path) -> str:
    return folder.relative_to(ROOT).parts[1] if folder.is_relative_to(ROOT / "plugins") else "architectures"


def allowed(package: Path, name: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    own = {path.stem if path.suffix else path.name for path in package.glob("mergecore_*")}
    if top in own or not (top == "mergecore" or top.startswith("mergecore_")):
        return True
    if room(package) == "numerics":
        return False
    if top == "mergecore_numerics":
        return room(package) != "testing"
    if top == "mergecore_eval":
        return package.name == "search"  # it searches for the best evaluation results
    if room(package) in ("tools", "testing"):
        return top == "mergecore"
    if room(package) == "executors" and name.startswith("mergecore.builtin.threads"):
        return True  # shared by all executors to run a job
    return name == "mergecore" or any(name == door or name.startswith(f"{door}.") for door in PLUGIN_DOORS)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_what_its_room_may(package):
    for path in modules(package):
        wrong = {name for name in imports(path) if not allowed(package, name)}
        wrong -= {"mergecore"} if any(name.startswith("mergecore.api") for name in imports(path)) else set()
        assert not wrong, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(wrong))}"


def test_core_imports_no_plugin():
    for path in modules(ROOT / "mergecore"):
        assert not {name for name in imports(path) if name.startswith("mergecore_")}, path


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("stevedore", {"entry_points"}),
        ("pluggy", {"registry", "contracts", "hookspecs", "__init__"}),
        ("huggingface_hub", {"hub", "hub_errors"}),
    ],
)
def test_a_library_has_one_door(library, only):
    users = {p.stem for p in modules(ROOT / "mergecore") if any(n.split(".")[0] == library for n in imports(p))}
    assert users <= only


def test_architectures_hold_no_code():
    for package in ROOT.glob("architectures/*"):
        for path in modules(package):
            assert path.name == "__init__.py" and not path.read_text().strip(), f"{path} must be empty"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_file_follows_the_convention(package):
    data = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))
    project = data["project"]
    core = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert data["build-system"]["build-backend"] == "flit_core.buildapi"
    assert project["version"] == core["version"], "the same version everywhere"
    assert project["requires-python"] == core["requires-python"]
    assert project["license"] == "Apache-2.0"
    assert project["description"].endswith(", for mergecore.")
    assert not any("==" in dependency for dependency in project.get("dependencies", ())), "version ranges, no pins"
    prefix = "mergecore-arch-" if room(package) == "architectures" else "mergecore-"
    assert project["name"].startswith(prefix)
    module = project["name"].replace("-", "_")
    assert (package / module).is_dir() or (package / f"{module}.py").is_file(), f"the module must be {module}"
    assert package.name.replace("_", "-") == project["name"].removeprefix(prefix)
    assert {path.name for path in package.iterdir()} - {"__pycache__"} <= {
        "pyproject.toml",
        module,
        f"{module}.py",
        "tests",
        "README.md",
    }


def test_every_entry_point_of_the_tree_is_installed():
    for package in PACKAGES:
        project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
        for group, entries in project.get("entry-points", {}).items():
            installed = {point.name: point.value for point in entry_points(group=group)}
            assert entries.items() <= installed.items(), f"{package}: run ./dev install"


def test_generated_lists_are_up_to_date():
    command = [sys.executable, "dev", "sync", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_lock_has_a_version_within_every_bound_and_no_address():
    text = (ROOT / "requirements-lock.txt").read_text("utf-8")
    locked = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    assert "://" not in text and "--" not in text
    lines = {line for line in (ROOT / "requirements-dev.txt").read_text("utf-8").splitlines() if line[:1] not in "#"}
    for package in [ROOT, *PACKAGES]:
        data = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))
        lines |= {*data["project"].get("dependencies", ()), *data["build-system"]["requires"]}
    for bound in (Requirement(line) for line in lines if not line.startswith("mergecore")):
        same = [entry for entry in locked if canonicalize_name(entry.name) == canonicalize_name(bound.name)]
        versions = [str(entry.specifier).removeprefix("==") for entry in same]
        assert versions and all(map(bound.specifier.contains, versions)), f"{bound}: run ./dev lock"


@pytest.mark.parametrize("command", [["--help"], ["methods", "list"], ["arch", "list"], ["plugins", "list"]])
@pytest.mark.parametrize("count", [0, 50])
def test_listing_loads_neither_torch_nor_a_plugin(plugin_env, command, count):
    for number in range(count):
        text = "import sys\nsys.exit('this plugin must not be imported')\n"
        plugin_env.add(
            f"mergecore-x{number}", {"methods": {f"x{number}": f"mod_x{number}:M"}}, {f"mod_x{number}.py": text}
        )
    code = (
        "import sys, json\nfrom mergecore import cli\n"
        f"sys.argv = ['mergecore', *{command!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'transformers', 'safetensors', 'jsonschema', 'stevedore', 'yaml',"
        " 'huggingface_hub'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules)) + [m for m in sys.modules if m.startswith('mod_x')]))\n"
    )
    result = plugin_env.python("-c", code)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == []
    if command[0] in ("methods", "plugins"):
        assert sum("mergecore-x" in line for line in result.stdout.splitlines()) == count


def test_files_and_functions_stay_short():
    sources = [*modules(ROOT / "mergecore"), *(path for package in PACKAGES for path in modules(package))]
    for path in sources:
        text = path.read_text("utf-8")
        assert text.count("\n") <= 300, f"{path.relative_to(ROOT)} has more than 300 lines"
        tree = ast.parse(text)
        assert ast.get_docstring(tree) or not text.strip(), (
            f"{path.relative_to(ROOT)}: describe the module in its first line"
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = node.end_lineno - body[0].lineno + 1 if body else 0
                assert length <= 40, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"
