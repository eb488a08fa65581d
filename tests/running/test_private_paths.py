"""No file of a result contains a path of this machine, and its lock file still finds everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from cli_in_process import Inside
from tiny_llamas import write_adapter
from tokenizer_models import byte_level, model

import mergecore
from mergecore.recipes import LOCK_NAME

ARCHITECTURE = Path(__file__).parents[2] / "architectures" / "llama" / "mergecore_arch_llama" / "llama.json"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def private(folder: Path) -> list[str]:
    """The files in a folder that contain the path of the folder above it."""
    path = str(folder.parent).encode()
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and path in file.read_bytes())


def content(folder: Path) -> dict[str, bytes]:
    left_out = ("README.md", "mergecore_evaluation.json")  # with the name of the folder, and the time
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with stages that refers to models, an adapter, and files of all kinds by absolute paths."""
    base, code = (model(tmp_path / "my models" / name, seed, byte_level("sea")) for seed, name in enumerate("ab"))
    other = model(tmp_path / "other" / "a", 3, byte_level("sea"))
    lora = write_adapter(tmp_path / "lora")
    for name, text in {"chat.jinja": TEMPLATE, "text.txt": "The sea."}.items():
        (tmp_path / name).write_text(text)
    shutil.copy(ARCHITECTURE, tmp_path / "arch.json")
    stage = {"merge_method": "linear", "models": [{"model": str(base)}, {"model": f"{code}+{lora}"}],
             "name": "mix", "parameters": {"weight": 0.5}, "architectures": [str(tmp_path / "arch.json")]}  # fmt: skip
    token = {"kind": "model_token", "model": str(other), "token": "h"}
    main = {
        "merge_method": "linear",
        "models": [{"model": "mix"}, {"model": str(other)}],
        "parameters": {"weight": 0.5},
        "architectures": [str(tmp_path / "arch.json")],
        "tokenizer": {"source": str(base), "tokens": {"t": {"source": token}}},
        "chat_template": str(tmp_path / "chat.jinja"),
        "evaluate": [{"evaluator": "loss", "parameters": {"files": str(tmp_path / "text.txt")}}],
    }
    (tmp_path / "recipe.yml").write_text(f"# see {base}\n{yaml.safe_dump_all([stage, main])}")
    return tmp_path / "recipe.yml"


def test_a_result_contains_no_absolute_path_and_its_lock_makes_it_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    out = mergecore.run(recipe, tmp_path / "out")
    assert private(out) == []
    card = (out / "README.md").read_text()
    assert "model: b+lora" in card and "model: a-2" in card and "see a" in card
    lock = json.loads((out / LOCK_NAME).read_text())
    assert {item["reference"] for item in lock["inputs"]} == {"a", "b+lora", "a-2"}
    again = mergecore.run(out / LOCK_NAME, tmp_path / "again")
    assert content(again) == content(out)
    assert private(again) == []
    assert "base_model:" not in (again / "README.md").read_text(), "the names are not models on the Hub"


def test_tools_write_no_absolute_path_either(tmp_path: Path, inside: Inside) -> None:
    base, tuned = (model(tmp_path / name, 1, byte_level("sea")) for name in ("base", "tuned"))
    write_adapter(tmp_path / "lora")
    donor = model(tmp_path / "donor", 2, byte_level("code"))
    (tmp_path / "moe.yml").write_text(
        f"base_model: {base}\ngate_mode: random\nexperts:\n- source_model: {tuned}\n- source_model: {donor}\n"
    )
    commands = {
        "surgery": ("tokensurgeon", base, donor, tmp_path / "surgery", "--method", "mean"),
        "experts": ("moe", tmp_path / "moe.yml", tmp_path / "experts"),
        "adapter": ("lora", "extract", f"{base}+{tmp_path}/lora", base, tmp_path / "adapter"),
        "adapters": ("lora", "merge", tmp_path / "lora", tmp_path / "lora", tmp_path / "adapters"),
        "filled": ("fill", base, tuned, tmp_path / "filled"),
    }
    for name, words in commands.items():
        done = inside.mergecore(*words)
        assert done.returncode == 0, (name, done.stderr)
        found = private(tmp_path / name)
        assert found == (["adapter_config.json"] if name == "adapter" else []), "PEFT needs the path of the base"
