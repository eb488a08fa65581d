"""Strangers' tokenizers and chat templates cannot make a health check or an evaluation take much time or memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mergecore_eval import tokens
from mergecore_eval.checkup import SAMPLE
from mergecore_eval.generate import Generate
from mergecore_eval.loss import Loss
from mergecore_eval.subjects import Folder

from mergecore.api import InputError

MEASURED = """
import json, resource, sys
from pathlib import Path
from mergecore.api import MergedModel, TensorInfo
from mergecore_eval import health

folder, seconds, memory = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
tensors = {"embed": TensorInfo("F32", (258, 16))}
model = MergedModel("out", folder, "", "linear", "", (), 0, "LlamaForCausalLM", {}, tensors, memory=memory)
try:
    found = health.check(model, False, seconds).plain()
except health.LeftOut as error:
    found = {"left_out": str(error)}
print(json.dumps([found, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def checked(model: Path, seconds: float = 300, memory: int = 10**9) -> tuple[dict[str, Any], int]:
    """The result of a check, and the peak memory of its process."""
    words = [sys.executable, "-c", MEASURED, str(model), str(seconds), str(memory)]
    found, peak = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return found, peak


def recipe_of(model: Path) -> Path:
    recipe = model.with_name("recipe.yml")
    recipe.write_text(json.dumps({"merge_method": "passthrough", "models": [{"model": str(model)}]}))
    return recipe


def with_template(model: Path, text: str) -> Path:
    (model / "chat_template.jinja").write_text(text)
    return model


def with_tokenizer(model: Path, **changes: Any) -> Path:
    path = model / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return model


TURNS = "{% for m in messages %}{{ m.content }}{% endfor %}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
TEMPLATES = {
    "loops": (LOOP + TURNS, "its chat template takes longer than 5 s"),
    "multiplies": ("{{ 'a' * 10**10 }}" + TURNS, "its chat template needs too much memory"),
    "doubles": (DOUBLING + TURNS, "its chat template needs too much memory"),
    "writes": ("{{ 'a' * 60000 }}" + TURNS, "its chat template writes 6"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_stopped_and_the_rest_is_measured(name: str, talker: Path) -> None:
    text, why = TEMPLATES[name]
    found, peak = checked(with_template(talker, text))
    (figures,) = found["models"]
    assert figures["trouble"].startswith(why) and figures["answer"]
    assert peak < 6 * 10**8


SLOW = {"type": "Split", "pattern": {"Regex": r"[\s\S]*[\s\S]*(?=\d{9})z?"}, "behavior": "Isolated", "invert": False}
BACKTRACKS = {"type": "Sequence", "pretokenizers": [SLOW] * 50}
GIVES_UP = {**SLOW, "pattern": {"Regex": r"(\w+\s*)+(?=\d{9})z?"}}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
MANY = [{"id": 258 + n, "content": f"token number {n}", **ADDED} for n in range(10**6)]


def test_a_tokenizer_that_never_ends_is_stopped(talker: Path) -> None:
    found, peak = checked(with_tokenizer(talker, pre_tokenizer=BACKTRACKS), seconds=15)
    assert found["verdict"] == "inconclusive"
    assert found["reason"].startswith("it took longer than 15 s")
    assert peak < 6 * 10**8


def test_a_tokenizer_that_the_library_gives_up_on_is_reported(talker: Path) -> None:
    found, _ = checked(with_tokenizer(talker, pre_tokenizer=GIVES_UP))
    assert found["verdict"] == "inconclusive"
    assert (
        found["reason"].startswith("it failed with PanicException: Onig") and "using its tokenizer" in found["reason"]
    )


def test_a_huge_tokenizer_is_left_out(talker: Path) -> None:
    model = with_tokenizer(talker, added_tokens=MANY)
    found, _ = checked(model)
    assert found["left_out"].startswith("it needs 3.") and found["left_out"].endswith("limited to 1 GB (--memory)")


@pytest.mark.slow
def test_a_huge_tokenizer_stays_within_the_memory(talker: Path) -> None:
    found, peak = checked(with_tokenizer(talker, added_tokens=MANY), memory=4 * 10**9)
    assert found["verdict"] in ("inconclusive", "broken")
    assert peak < 4 * 10**9


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")])
def test_interrupted_during_the_check_the_result_is_complete(
    number: int, word: str, talker: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = recipe_of(with_template(talker, "{{ 9**(9**9) }}"))  # one call into C, which only a kill ends
    environment = {**os.environ, "MERGECORE_DISABLE": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "mergecore", "run", recipe, out]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    assert run.stderr
    said = ""
    while "health check: out" not in said:
        said += run.stderr.readline()
    assert (out / "mergecore.lock.json").exists() and not (out / "mergecore_health.json").exists()
    run.send_signal(number)
    _, rest = run.communicate()
    assert run.returncode == 128 + number
    assert f"warning: {out} is complete; only 'health', which runs after the merge, was interrupted\n{word}\n" in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yml", "talker"]
    assert subprocess.run([sys.executable, "-m", "mergecore", "verify", out], check=False).returncode == 0
    assert not left_behind(tmp_path / "cache")


def left_behind(home: Path) -> list[str]:
    """Processes of the check that still run, of those with this cache folder."""
    time.sleep(0.1)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"mergecore_eval.checkup:check" in line and str(home).encode() in environment:
            found.append(line.decode())
    return found


@pytest.mark.parametrize(
    ("template", "said"),
    [(LOOP, "it took longer than 15 s"), ("{{ 'a' * 10**10 }}", "it needs more than 0.3 GB of memory")],
)
def test_evaluations_stop_templates_too(
    template: str, said: str, talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Well?", "expect": "Yes."}\n')
    monkeypatch.setattr(tokens, "SECONDS", 15)
    with pytest.raises(InputError, match=f"talker: its tokenizer cannot be used: {said}"):
        Generate(file=tmp_path / "prompts.jsonl", chat=True).evaluate(Folder(with_template(talker, template), "talker"))


def test_evaluations_refuse_tokenizers_that_the_library_gives_up_on(talker: Path) -> None:
    folder = Folder(with_tokenizer(talker, pre_tokenizer=GIVES_UP), "talker")
    with pytest.raises(InputError, match="talker: its tokenizer cannot be used: it failed with PanicException: Onig"):
        Loss(files=(SAMPLE,)).evaluate(folder)
