"""Evaluators match numbers from transformers, in recipes and on the command line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergecore_eval.board import gather, page
from mergecore_eval.choice import Choice
from mergecore_eval.generate import Generate
from mergecore_eval.loss import Loss
from mergecore_eval.results import Result, append, load, measure
from mergecore_eval.subjects import Folder
from talkers import write_talker

import mergecore
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError, RunError
from mergecore.recipes.evaluations import load_evaluations

TEXT = "To be, or not to be, that is the question: whether 'tis nobler. Größe, naïveté, 目。" * 3


def own_losses(folder: Path, text: str, window: int, stride: int) -> list[float]:
    """Return each token's loss, predicted one by one from its context in the window."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = [256, *transformers.AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]]
    losses, begin = [], 0
    for position in range(1, len(ids)):
        if position >= begin + window:
            begin = position - (window - stride)
        seen = torch.tensor([ids[begin:position]])
        with torch.inference_mode():
            losses.append(-model(seen).logits[0, -1].log_softmax(-1)[ids[position]].item())
    return losses


@pytest.mark.parametrize(("window", "stride"), [(512, None), (32, None), (32, 8)])
def test_loss_predicts_every_token_once_from_its_context(
    talker: Path, tmp_path: Path, window: int, stride: int | None
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    loss, by_byte = Loss(files=(path,), window=window, stride=stride).evaluate(Folder(talker, "talker"))
    wanted = own_losses(talker, TEXT, window, stride or window - 1)
    assert loss.value == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert by_byte.value == pytest.approx(sum(wanted) / len(TEXT.encode()), rel=1e-5)
    assert (loss.error > 0) == (loss.count > 1)


def test_loss_of_one_window_is_that_of_transformers(talker: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": TEXT}) + "\n\n", "utf-8")
    ids = torch.tensor([[256, *transformers.AutoTokenizer.from_pretrained(talker)(TEXT)["input_ids"]]])
    with torch.inference_mode():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(talker, dtype=torch.float32)(
            ids, labels=ids
        ).loss.item()
    assert Loss(files=(path,)).evaluate(Folder(talker, ""))[0].value == pytest.approx(wanted, rel=1e-5)


def test_choices_are_those_that_the_model_finds_likeliest(talker: Path, tmp_path: Path) -> None:
    subject, choices = Folder(talker, ""), [" yes", " certainly not", " perhaps"]
    sums = []
    for choice in choices:
        ids = [256, *subject.tokenizer("Well?" + choice)["input_ids"]]
        logits = subject.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(logits[i - 1, ids[i]].item() for i in range(6, len(ids))))
    best = sums.index(max(sums))
    by_byte = max(range(3), key=lambda i: sums[i] / len(choices[i]))
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": "Well?", "choices": choices, "answer": i}) + "\n" for i in range(3)))
    right, right_by_byte = Choice(file=path).evaluate(subject)
    assert (right.value, right.count, right.higher_is_better) == (1 / 3, 3, True) == (right_by_byte.value, 3, True)
    path.write_text(json.dumps({"prompt": "Well?", "choices": choices, "answer": best}))
    assert Choice(file=path).evaluate(subject)[0].value == 1.0
    path.write_text(json.dumps({"prompt": "Well?", "choices": choices, "answer": by_byte}))
    assert Choice(file=path).evaluate(subject)[1].value == 1.0


def test_answers_are_those_that_transformers_generates(talker: Path, tmp_path: Path) -> None:
    subject, path = Folder(talker, ""), tmp_path / "prompts.jsonl"
    out = subject.model.generate(**subject.tokenizer("Ab", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    answer = subject.tokenizer.decode(out[0, 2:], skip_special_tokens=True)
    records = [
        {"prompt": "Ab", "expect": answer},
        {"prompt": "Ab", "expect": answer + "!"},
        {"prompt": "Ab", "pattern": "^"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert Generate(file=path, tokens=5).evaluate(subject)[0].value == pytest.approx(2 / 3)


def asks(evaluator: str, parameters: str) -> str:
    return f"[{{evaluator: {evaluator}, parameters: {{{parameters}}}}}]"


LOSS, CHOICE, GENERATE = asks("loss", "files: a"), asks("choice", "file: a"), asks("generate", "file: a")
WRONG: dict[str, tuple[str, str | None, str]] = {
    "no such evaluator": ("[{evaluator: lost}]", None, "evaluator 'lost' is not installed; did you mean 'loss'?"),
    "no such parameter": (asks("loss", "file: a"), "a", "no parameter 'file'; did you mean 'files'?"),
    "a missing parameter": ("[{evaluator: loss}]", None, "parameter 'files' is missing"),
    "a file that is not there": (LOSS, None, "a: no such file"),
    "an empty text": (LOSS, " ", "a: contains no text"),
    "a number out of range": (asks("loss", "files: a, window: 1"), "a", "at least 2"),
    "a stride without context": (asks("loss", "files: a, window: 8, stride: 8"), "a", "leaves no context"),
    "two of one name": (f"[{LOSS[1:-1]}, {LOSS[1:-1]}]", "a", "two evaluations are named 'loss'"),
    "a missing key": (CHOICE, "{}\n{", "a, line 1: 'prompt' is missing"),
    "broken JSON": (GENERATE, '{"prompt": "a", "expect": "b"}\n{', "a, line 2: cannot be parsed as JSON"),
    "a line that is no object": (GENERATE, "3", "a, line 1: must be a JSON object"),
    "one choice": (CHOICE, '{"prompt": "", "choices": ["b"], "answer": 0}', "question 1: 'choices' must be two or"),
    "no choice's number": (CHOICE, '{"prompt": "", "choices": ["b", "c"], "answer": 2}', "'answer' must be 0 to 1"),
    "no expectation": (GENERATE, '{"prompt": "a"}', "prompt 1: set either 'expect' or 'pattern'"),
    "a broken pattern": (GENERATE, '{"prompt": "a", "pattern": "("}', "'pattern' is not a valid regular expression"),
    "an empty file": (GENERATE, "\n", "a: is empty"),
    "a program without a model": (asks("command", "run: 'true'"), None, "the command does not contain {model}"),
    "a program that is not there": (asks("command", "run: 'no-such-program {model}'"), None, "no program 'no-such-p"),
    "a program of no words": (asks("command", "run: ''"), None, "there is no program ''"),
    "a program that is no words": (asks("command", 'run: "a \'b"'), None, "cannot be split into arguments"),
    "an unknown key": ("[{evaluator: loss, with: a}]", None, "unknown key 'with'"),
    "an empty list": ("[]", None, "must not be empty"),
    "no list": ("{evaluator: loss}", None, "must be a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_evaluation_files_are_refused_with_file_and_line(name: str, tmp_path: Path) -> None:
    text, content, said = WRONG[name]
    (tmp_path / "eval.yml").write_text(f"evaluate: {text}\n")
    if content is not None:
        (tmp_path / "a").write_text(content)
    with pytest.raises(InputError, match=r"eval\.yml:1: ") as caught:
        load_evaluations(tmp_path / "eval.yml", Registry(print))
    assert said in str(caught.value)


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mergecore", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_recipe_is_measured_after_the_merge(talker: Path, tmp_path: Path, own_results: Path) -> None:
    other = write_talker(tmp_path / "other", 1)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        f"merge_method: linear\nmodels:\n- {{model: {talker}, parameters: {{weight: 1}}}}\n"
        f"- {{model: {other}, parameters: {{weight: 1}}}}\n"
        "evaluate:\n- {name: bard, evaluator: loss, parameters: {files: text.txt}}\n"
    )
    mergecore.run(recipe, tmp_path / "out")
    [kept] = load(own_results)
    wanted = own_losses(tmp_path / "out", TEXT, 512, 511)
    assert kept.model == "out" and kept.scores["bard"][0].value == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert json.loads((tmp_path / "out" / "mergecore_evaluation.json").read_text())["scores"] == kept.plain()["scores"]
    again = command("eval", tmp_path / "out", talker, "--with", recipe, "--json", "--quiet")
    assert json.loads(again.stdout)[0]["scores"] == kept.plain()["scores"], again.stderr
    board = gather(load(own_results))
    assert [row[0] for row in board.rows] == ["out", str(tmp_path / "out"), str(talker)]
    assert "| bard | loss |" in (tmp_path / "out" / "README.md").read_text()
    assert page(board).count("<tr>") == 4 and "bard loss" in command("board").stdout


def test_a_recipe_cannot_run_programs(talker: Path, tmp_path: Path) -> None:
    ask = "evaluate:\n- {evaluator: command, parameters: {run: 'touch {model}'}}\n"
    (tmp_path / "recipe.yml").write_text(f"merge_method: passthrough\nmodels: [{{model: {talker}}}]\n{ask}")
    with pytest.raises(InputError, match=r"recipe\.yml:4: .* runs code, which is not allowed in a recipe"):
        mergecore.run(tmp_path / "recipe.yml", tmp_path / "out")
    refused = command("eval", talker, "--with", tmp_path / "recipe.yml")
    assert refused.returncode == 2 and "runs code" in refused.stderr
    (tmp_path / "eval.yml").write_text(ask)
    failed = command("eval", talker, "--with", tmp_path / "eval.yml")
    assert failed.returncode == 1 and "last line is not a JSON object of scores" in failed.stderr, failed.stderr
    program = """import json; print("talk"); print(json.dumps({"a": 2, "b": {"value": 1, "count": 3}}))"""
    (tmp_path / "program.py").write_text(program)
    run = f"{sys.executable} {tmp_path}/program.py {{model}}"
    (tmp_path / "eval.yml").write_text(f"evaluate: [{{evaluator: command, parameters: {{run: '{run}'}}}}]\n")
    [found] = json.loads(command("eval", talker, "--with", tmp_path / "eval.yml", "--json", "--quiet").stdout)
    assert [(score["name"], score["value"], score["count"]) for score in found["scores"]["command"]] == [
        ("a", 2, 1),
        ("b", 1, 3),
    ]


TASK = """
task: bytes
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


UNUSABLE: dict[str, tuple[str | None, str, str]] = {
    "no chat template": (None, "hi", "it has no chat template; set chat: false"),
    "a template that refuses": ("{{ raise_exception('a system message must come first') }}", "hi", "must come first"),
    "a template that is none": ("{% for %}", "hi", "its tokenizer fails: "),
    "a template that leaves nothing": ("{% if false %}{% endif %}", "hi", "has no tokens"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_the_tokenizer_cannot_do_is_found_before_any_model_is_loaded(
    name: str, talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, prompt, said = UNUSABLE[name]
    if template is not None:
        (talker / "chat_template.jinja").write_text(template)
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "a").write_text(json.dumps({"prompt": prompt, "expect": "b"}))
    chat = asks("generate", "file: a, chat: true")
    (tmp_path / "eval.yml").write_text(f"evaluate: [{asks('loss', 'files: text')[1:-1]}, {chat[1:-1]}]\n")
    evaluations = load_evaluations(tmp_path / "eval.yml", Registry(print))
    monkeypatch.setattr(Folder, "model", property(lambda self: pytest.fail("loaded a model")))
    with pytest.raises(InputError, match=said):
        measure(Folder(talker, ""), evaluations)


@pytest.fixture
def python_with_lm_eval(tmp_path: Path) -> Path:
    """A Python environment with everything in this one plus lm-eval, whose many dependencies only this test needs."""
    venv.create(tmp_path / "env", with_pip=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outer))
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "lm-eval>=0.4.5"], check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_lm_eval_scores_as_its_own_command_line_does(talker: Path, tmp_path: Path, python_with_lm_eval: Path) -> None:
    choices = [" yes", " no", " who knows"]
    questions = [{"prompt": f"Is it {n}?", "choices": choices, "answer": n % 3} for n in range(20)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "bytes.yaml").write_text(TASK.replace("FILE", str(tmp_path / "data.jsonl")))
    (tmp_path / "eval.yml").write_text("evaluate: [{evaluator: lm_eval, parameters: {tasks: bytes, folder: tasks}}]\n")
    arguments = ["-m", "mergecore", "eval", talker, "--with", tmp_path / "eval.yml", "--json", "--quiet"]
    ours = subprocess.run([python_with_lm_eval, *arguments], check=True, capture_output=True, text=True).stdout
    [score] = json.loads(ours[ours.index("[\n") :])[0]["scores"]["lm_eval"]
    own = tmp_path / "own"
    arguments = [
        "-m",
        "lm_eval",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={talker},dtype=float32",
        "--tasks",
        "bytes",
    ]
    arguments += ["--include_path", tmp_path / "tasks", "--output_path", own, "--device", "cpu"]
    subprocess.run([python_with_lm_eval, *arguments], check=True, capture_output=True)
    results = json.loads(next(own.rglob("results*.json")).read_text())["results"]["bytes"]
    assert (score["name"], score["count"]) == ("bytes/acc", 20)
    assert score["value"] == pytest.approx(results["acc,none"], abs=1e-5)


def test_a_line_of_results_is_whole_or_not_there(tmp_path: Path) -> None:
    path, result = tmp_path / "results.jsonl", Result("a", {}, {"recipe": "x" * 1000})
    append(result, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))  # like a full disk
    try:
        with pytest.raises(RunError, match=r"results\.jsonl: cannot save results there: File too large"):
            append(result, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    path.write_bytes(before + before[:100])  # like after a kill
    assert [found.model for found in load(path)] == ["a"]
    append(result, path)
    assert path.read_bytes() == before * 2


def test_a_last_line_whose_newline_an_editor_removed_stays(tmp_path: Path) -> None:
    path, result = tmp_path / "results.jsonl", Result("a", {})
    append(result, path)
    line = path.read_bytes()
    path.write_bytes(line.rstrip())
    assert [found.model for found in load(path)] == ["a"]
    append(result, path)
    assert path.read_bytes() == line * 2
