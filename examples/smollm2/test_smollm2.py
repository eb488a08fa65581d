"""A linear merge of two real specialists is exactly their mean, has the same loss, and loads in transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parents() -> dict[str, Path]:
    from prepare import prepare

    return prepare()


@pytest.fixture(scope="module")
def merged(parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "linear"
    command = [sys.executable, "-m", "mergecore", "run", "examples/smollm2/linear.yml", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def mean_weights(parents: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Return the specialists' mean in float32, computed without mergecore."""
    code, prose = (load_file(parents[name] / "model.safetensors") for name in ("code", "prose"))
    assert code.keys() == prose.keys()
    return {name: (code[name].float() + prose[name].float()) / 2 for name in code}


def test_every_tensor_is_the_rounded_mean(parents: dict[str, Path], merged: Path) -> None:
    expected = mean_weights(parents)
    found = {name: tensor for file in merged.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name].to(torch.bfloat16))] == []


@pytest.mark.parametrize("text_name", ["code", "prose"])
def test_loss_is_that_of_the_mean_weights(parents: dict[str, Path], merged: Path, text_name: str) -> None:
    from evaluate import WINDOWS, load, loss, model_loss, token_windows
    from texts import text

    found = loss(merged, text_name)
    model, tokenizer = load(parents["base"])
    model.load_state_dict(mean_weights(parents), strict=False)  # strict would require the tied lm_head
    load.cache_clear()  # the cached base now has other weights
    assert found == pytest.approx(model_loss(model, token_windows(tokenizer, text(text_name), WINDOWS)), abs=0.01)


def test_it_loads_with_every_key(merged: Path) -> None:
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
