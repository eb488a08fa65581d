"""Chat templates are found, tested before any weight is read, and written where the tokenizer keeps its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizer_models import byte_level, model

import mergecore
from mergecore.errors import InputError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Bye"},
]
RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo"
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Ho</s>[INST] Bye [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo\n\n### Instruction:\nBye\n\n### Response:\n",
}
OWN = "{% for message in messages %}({{ message['content'] }}){% endfor %}"


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    words = byte_level("sea", special=["<s>", "</s>"])
    found = [model(tmp_path / name, seed, words) for seed, name in enumerate("abc")]
    for folder in found:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return found


def run(models: list[Path], **keys: Any) -> Path:
    out = models[0].parent / "out"
    entries = [{"model": str(item), "parameters": {"weight": 0.5}} for item in models]
    return mergecore.run({"merge_method": "linear", "models": entries, **keys}, out, force=True)


def rendered(out: Path) -> str:
    text = transformers.AutoTokenizer.from_pretrained(out).apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", RENDERED)
def test_bundled_templates_write_the_public_formats(models: list[Path], name: str) -> None:
    assert rendered(run(models, chat_template=name)) == RENDERED[name]


def test_a_template_is_text_or_a_file_beside_the_recipe(models: list[Path], tmp_path: Path) -> None:
    long = OWN + "{# " + "long " * 100 + "#}"
    for text in (OWN, long):
        assert rendered(run(models, chat_template=text, tokenizer={"source": "union"})) == "(Be brief.)(Hi)(Ho)(Bye)"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/own.jinja").write_text(OWN, "utf-8")
    lines = "".join(f"  - {{model: {item}, parameters: {{weight: 1}}}}\n" for item in models)
    recipe = tmp_path / "recipes/recipe.yml"
    recipe.write_text(f"merge_method: linear\nmodels:\n{lines}chat_template: own.jinja\n", "utf-8")
    mergecore.run(recipe, tmp_path / "from-file")
    assert rendered(tmp_path / "from-file") == "(Be brief.)(Hi)(Ho)(Bye)"


def test_auto_takes_the_most_frequent_and_of_equals_the_first(models: list[Path]) -> None:
    first, other = OWN, OWN.replace("(", "[").replace(")", "]")
    out = run(models, chat_template="auto")
    assert not (out / "chat_template.jinja").exists()
    plan = mergecore.plan(
        {"merge_method": "passthrough", "models": [{"model": str(models[0])}], "chat_template": "auto"}
    )
    plan.close()
    assert any("none of the models has a chat template" in note for note in plan.notes)
    put_template(models[0], [{"name": "default", "template": first}, {"name": "tools", "template": "{{ tools }}"}])
    put_template(models[1], other)
    assert rendered(run(models, chat_template="auto")) == "(Be brief.)(Hi)(Ho)(Bye)"
    (models[2] / "chat_template.jinja").write_text(f"  {other}\n", "utf-8")
    assert rendered(run(models, chat_template="auto")) == "[Be brief.][Hi][Ho][Bye]"


def put_template(folder: Path, template: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "chat_template": template}), "utf-8")


def test_the_template_goes_where_the_base_has_it_and_nothing_else_changes(models: list[Path]) -> None:
    put_template(models[0], [{"name": "default", "template": "old"}, {"name": "tools", "template": "{{ tools }}"}])
    out = run(models, chat_template=OWN)
    assert not (out / "chat_template.jinja").exists()
    named = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert named == [{"name": "default", "template": OWN}, {"name": "tools", "template": "{{ tools }}"}]
    (models[0] / "chat_template.jinja").write_text("old", "utf-8")
    out = run(models, chat_template=OWN)
    assert (out / "chat_template.jinja").read_text() == OWN
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (models[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("chatlm", "'chatlm' is not a file, not Jinja text, and not one of auto, alpaca, chatml"),
        ("{% for x in messages %}", r"not valid Jinja \(line 1\): Unexpected end of template"),
        ("{{ raise_exception('no') }}", "fails on a conversation between user and assistant: no"),
        ("{{ messages[0].nothing.more }}", "fails on a conversation .* has no attribute 'nothing'"),
        ("{{ 'always the same' }}", "omits what the user says"),
        ("{{ ''.__class__.__mro__ }}", "fails on a conversation .* unsafe"),
    ],
)
def test_a_template_that_does_not_work_is_refused_in_the_plan(models: list[Path], template: str, said: str) -> None:
    recipe = {"merge_method": "passthrough", "models": [{"model": str(models[0])}], "chat_template": template}
    with pytest.raises(InputError, match=f"chat_template: .*{said}"):
        mergecore.plan(recipe)


@pytest.mark.parametrize(("stops", "noted"), [(None, True), ([0, 291], False), (291, False), ([0], True)])
def test_a_turn_that_does_not_end_generation_is_reported(stops: object, noted: bool, tmp_path: Path) -> None:
    """ChatML in a model that stops only at the end of the text never stops after an answer."""
    tokenizer = byte_level("sea", special=["<|im_start|>", "<|im_end|>"])
    number = tokenizer.token_to_id("<|im_end|>")
    folder = model(tmp_path / "model", 1, tokenizer, eos_token_id=0)
    if stops is not None:
        listed = [number if stop == 291 else stop for stop in stops] if isinstance(stops, list) else number
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    recipe = {"merge_method": "linear", "models": [{"model": str(folder), "parameters": {"weight": 1}}]}
    plan = mergecore.plan({**recipe, "chat_template": "chatml"})
    plan.close()
    said = f"answers end with '<|im_end|>' (ID {number}) in the chat template, but generation stops only at ID 0"
    assert any(said in note for note in plan.notes) is noted, plan.notes
