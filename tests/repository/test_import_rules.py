"""Import rules, package structure, and the modules that startup can load."""

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
PUBLIC = {"api": ("mergecore.api", "mergecore.errors"), "tooling": ("mergecore.api", "mergecore.tooling")}
"""The modules of core that plugins, and tools and executors, can import."""
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


def group(folder: Path) -> str:
    return folder.relative_to(ROOT).parts[1] if folder.is_relative_to(ROOT / "plugins") else "architectures"


def allowed(package: Path, name: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    own = {path.stem if path.suffix else path.name for path in package.glob("mergecore_*")}
    if top in own or not (top == "mergecore" or top.startswith("mergecore_")):
        return True
    if group(package) == "numerics":
        return False
    if top == "mergecore_numerics":
        return group(package) != "testing"
    if top == "mergecore_eval":
        return package.name == "search"  # it searches for the best evaluation results
    if group(package) == "testing":
        return top == "mergecore"  # it checks what core does with plugins
    public = PUBLIC["tooling" if group(package) in ("tools", "executors") else "api"]
    return name == "mergecore" or any(name == module or name.startswith(f"{module}.") for module in public)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_public_modules(package):
    for path in modules(package):
        wrong = {name for name in imports(path) if not allowed(package, name)}
        assert not wrong, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(wrong))}"


def packages_of_core() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "mergecore").glob("*/__init__.py"))


def public_names(package: Path) -> set[str]:
    """Return the names in `__all__` of a package."""
    tree = ast.parse((package / "__init__.py").read_text("utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return next((set(ast.literal_eval(node.value)) for node in assigned if node.targets[0].id == "__all__"), set())


def test_a_package_of_core_imports_only_the_public_names_of_others():
    public = {package.name: public_names(package) for package in packages_of_core() if package.name != "api"}
    for path in modules(ROOT / "mergecore"):
        if path.name == "tooling.py":  # it chooses what tools get
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            parts = node.module.split(".") if isinstance(node, ast.ImportFrom) else []
            if len(parts) < 2 or parts[0] != "mergecore" or parts[1] not in public or parts[1] in path.parts:
                continue
            assert len(parts) == 2, f"{path}:{node.lineno}: import from mergecore.{parts[1]}, which lists its names"
            private = {alias.name for alias in node.names} - public[parts[1]]
            assert not private, f"{path}:{node.lineno}: mergecore.{parts[1]} does not list {', '.join(private)}"


def test_a_package_of_core_is_small_and_each_module_has_code_of_its_own():
    for package in packages_of_core():
        found = list(package.glob("*.py"))
        assert len(found) - 1 <= 16, f"{package} has {len(found) - 1} modules"
        for path in found:
            tree = ast.parse(path.read_text("utf-8"))
            own = [
                node
                for node in tree.body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign))
            ]
            assert path.name == "__init__.py" or own, f"{path} only re-exports"


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
def test_a_library_is_imported_in_one_place(library, only):
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
    native = package.name == "kernels"  # the only package that is compiled
    assert data["build-system"]["build-backend"] == ("hatchling.build" if native else "flit_core.buildapi")
    assert project["version"] == core["version"], "the same version everywhere"
    assert project["requires-python"] == core["requires-python"]
    assert project["license"] == "Apache-2.0"
    assert project["description"].endswith(", for mergecore.")
    assert not any("==" in dependency for dependency in project.get("dependencies", ())), "version ranges, no pins"
    prefix = "mergecore-arch-" if group(package) == "architectures" else "mergecore-"
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
        *(("hatch_build.py", "native") if native else ()),
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
