"""config.json and files of the config source: transformers loads the result, and only allowlisted files are copied."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mergecore_config import Config

import mergecore
from mergecore.api import MergedModel, ModelInfo

WANTED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "qwen.tiktoken", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/tool_use.jinja", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "modeling_own.py", "sentencepiece.bpe.model",
    "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip
UNWANTED = (
    "README.md", "LICENSE", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.safetensors", "trainer_state.json",
    "all_results.json", "flax_model.msgpack", "consolidated.00.pth", "model.gguf", ".env", ".hidden.py",
    "._modeling.py", ".git/config", ".gitattributes", ".cache/x.json", "sub/tokenizer.json", "sub/modeling.py",
    "onnx/model.onnx", "config.json.bak", "tokenizer.json.lock", "additional_chat_templates/notes.md", "secrets.json",
)  # fmt: skip


def put(folder: Path, name: str, text: str | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"this is {name}" if text is None else text, "utf-8")
    return path


def finish(donor: Path, out: Path, config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the files, with their text, that the post-processor writes to `out` with `donor` as the config source."""
    out.mkdir(exist_ok=True)
    other = ModelInfo("other", donor.parent / "nowhere", {})
    models = (other, ModelInfo(str(donor), donor, {}))
    Config().run(MergedModel("out", out, "", "linear", "", models, 1, "X", config or {}, {}))
    found = [path for path in out.rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    return {path.relative_to(out).as_posix(): path.read_text("utf-8") for path in found}


@given(names=st.sets(st.sampled_from(WANTED + UNWANTED)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_exactly_the_files_on_the_list_come_along(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        donor = Path(folder) / "donor"
        for name in names:
            put(donor, name)
        made = finish(donor, Path(folder) / "out")
    assert set(made) == {"config.json", *(names & set(WANTED))}
    assert all(text == f"this is {name}" for name, text in made.items() if name != "config.json")


def test_files_of_other_postprocessors_are_left_alone(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        put(tmp_path / "donor", name)
    for name in ("tokenizer.json", "config.json"):
        put(tmp_path / "out", name, "mine")
    made = finish(tmp_path / "donor", tmp_path / "out")
    assert made == {"tokenizer.json": "mine", "config.json": "mine", "vocab.json": "this is vocab.json"}


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@given(config=st.dictionaries(st.text(max_size=5), PLAIN | st.lists(PLAIN, max_size=3), max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_config_is_written_with_its_values_and_in_its_order(config: dict[str, Any]) -> None:
    config |= {"z": {"b": 1, "a": 2}, "a": "größe \ud800"}  # JSON can contain half of a surrogate pair
    with tempfile.TemporaryDirectory() as folder:
        text = finish(Path(folder), Path(folder) / "out", config)["config.json"]
    assert json.loads(text) == config
    assert list(json.loads(text)) == list(config) and list(json.loads(text)["z"]) == ["b", "a"]
    assert text.endswith("}\n") and '\n  "z": {\n    "b": 1' in text


def hub_cache(root: Path) -> Path:
    """Create a snapshot in huggingface_hub's layout, with the tokenizer in the store shared by all repositories."""
    repository = root / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / "0123abc"
    put(repository, "blobs/aa", "a merges file")
    put(repository, "blobs/cc", "a pooling")
    put(root / "hub", "blobs/ff/ffff", "a tokenizer")
    (repository / "blobs" / "bb").symlink_to("../../blobs/ff/ffff")
    (snapshot / "1_Pooling").mkdir(parents=True)
    (snapshot / "merges.txt").symlink_to("../../blobs/aa")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/bb")
    (snapshot / "1_Pooling" / "config.json").symlink_to("../../../blobs/cc")
    put(snapshot, "modules.json", json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]))
    return snapshot


def test_snapshots_of_a_hub_cache_are_copied_by_content(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (tmp_path / "link-to-it").symlink_to(snapshot)
    for number, donor in enumerate((snapshot, tmp_path / "link-to-it")):
        made = finish(donor, tmp_path / f"out{number}")
        assert made["merges.txt"] == "a merges file"
        assert made["tokenizer.json"] == "a tokenizer"
        assert made["1_Pooling/config.json"] == "a pooling"


def test_links_out_of_the_folder_are_named_and_not_followed(tmp_path: Path) -> None:
    secret = put(tmp_path, "elsewhere/tokenizer.json", "secret")
    donor = tmp_path / "models--x" / "plain" / "donor"  # not in `snapshots`, so not a cache
    put(tmp_path, "models--x/blobs/aa", "secret")
    put(donor, "real/vocab.json", "inside")
    (donor / "tokenizer.json").symlink_to(secret)
    (donor / "merges.txt").symlink_to("../../blobs/aa")
    (donor / "additional_chat_templates").symlink_to(put(tmp_path, "templates/a.jinja").parent)
    (donor / "vocab.json").symlink_to("real/vocab.json")
    (donor / "vocab.txt").symlink_to("vocab.txt")
    (donor / "added_tokens.json").symlink_to("gone.json")
    os.mkfifo(donor / "spiece.model")
    (donor / "tool.py").mkdir()
    with pytest.warns(UserWarning, match="is a link to a file outside") as warned:
        made = finish(donor, tmp_path / "out")
    assert set(made) == {"config.json", "vocab.json"}
    named = "\n".join(str(warning.message) for warning in warned)
    assert all(name in named for name in ("tokenizer.json", "merges.txt", "a.jinja"))


def test_sentence_transformers_modules_come_with_their_folders(tmp_path: Path) -> None:
    donor = tmp_path / "donor"
    kinds = {"": "Transformer", "0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    put(donor, "modules.json", json.dumps(modules))
    wanted = {"1_Pooling/config.json", "2_Dense/config.json"}
    unwanted = {
        "0_Transformer/model.safetensors", "0_Transformer/config.json", "1_Pooling/.env", "2_Dense/model.safetensors",
        "3_Other/config.json",
    }  # fmt: skip
    for name in wanted | unwanted:
        put(donor, name)
    assert set(finish(donor, tmp_path / "out")) == {"config.json", "modules.json", *wanted}


@pytest.mark.parametrize(
    "modules",
    [
        *([{"path": path, "type": "Pooling"}] for path in ("..", "../side", "/etc", "*", ".git", "a/b")),
        {"path": "x"}, 5, "x", [None], [{}], [{"path": None}],
    ],
)  # fmt: skip
def test_a_strange_modules_json_reaches_nothing(tmp_path: Path, modules: Any) -> None:
    for folder in (".", "donor/.git", "donor/a/b", "side", "donor/a"):
        put(tmp_path, f"{folder}/config.json")
    put(tmp_path / "donor", "modules.json", json.dumps(modules))
    before = sorted(tmp_path.rglob("*"))
    assert set(finish(tmp_path / "donor", tmp_path / "out")) == {"config.json", "modules.json"}
    assert [path for path in sorted(tmp_path.rglob("*")) if "out" not in path.parts] == before


def llama(folder: Path, seed: int, layers: int = 2) -> Path:
    """Create a tiny real model with a tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", "to", "merge", "is", "human"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    fast.save_pretrained(folder)
    return folder


def test_transformers_loads_the_whole_result(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    donor, other = llama(tmp_path / "a", 1), llama(tmp_path / "b", 2, layers=3)
    same_rows = {**json.loads((donor / "tokenizer.json").read_text("utf-8")), "version": "not the donor's"}
    put(other, "tokenizer.json", json.dumps(same_rows))
    generation = json.loads((donor / "generation_config.json").read_text("utf-8"))
    put(donor, "generation_config.json", json.dumps({**generation, "do_sample": True, "temperature": 0.6}))
    slices = [{"sources": [{"model": str(m), "layer_range": [0, n]}]} for m, n in ((donor, 2), (other, 3))]
    recipe = {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}
    out = mergecore.run(recipe, tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    assert (model.config.num_hidden_layers, str(model.dtype)) == (5, "torch.bfloat16")
    keys = [list(json.loads((folder / "config.json").read_text("utf-8"))) for folder in (out, donor)]
    assert keys[0][: len(keys[1])] == keys[1]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("to merge is human").input_ids == [3, 4, 5, 6]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "merge"}], tokenize=False) == "<s>merge</s>"
    assert GenerationConfig.from_pretrained(out).temperature == 0.6
