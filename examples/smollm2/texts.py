"""Two texts that neither specialist was trained on: `code` and `prose`."""

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("code", "prose")


def text(name: str) -> str:
    """Return a text by name: the sources of stevedore and pluggy for `code`, Milton's play Comus for `prose`."""
    if name == "prose":
        return (HERE / "texts" / "comus.txt").read_text("utf-8")
    # mergecore depends on both packages, so they are installed. The code adapter has only seen the standard library.
    return "".join(source(package) for package in ("stevedore", "pluggy"))


def source(package: str) -> str:
    """Join the source files of an installed package, except its tests."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed; run: pip install {package}")
    folder = Path(spec.origin).parent
    files = sorted(path for path in folder.rglob("*.py") if "tests" not in path.relative_to(folder).parts)
    return "".join(path.read_text("utf-8") for path in files)
