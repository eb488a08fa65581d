"""All errors of a recipe are reported at once, each with its line of YAML and a mark under what is wrong."""

import re

import pytest
from tiny_llamas import write_model

WHOLE = """\
name: mix
merge_method: tis
base_model: bsae
models:
  - {model: code, parameters: {weight: 1}}
  - model: models/cdoe
---
merge_method: ties
base_model: base
normalize: true
dtype: bf16
models:
  - model: mix
  - model: prsoe
    parameters: {densty: 0.5, weight: x}
    wieght: 0.3
  - model: {merge_method: liner, models: [{model: nowhere}]}
x-common: {weight: 1}
"""
MARKED = {
    2: ["tis"], 3: ["bsae"], 6: ["models/cdoe"], 10: ["normalize"], 11: ["bf16"], 14: ["prsoe"], 15: ["densty", "x"],
    16: ["wieght"], 17: ["liner", "nowhere"],
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch, capfd):
    """Plan a recipe on the command line. Return the marked part of each line with an error."""
    from mergecore import cli

    for seed, name in enumerate(("base", "code", "prose", "models/code")):
        write_model(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)

    def planned(text):
        (tmp_path / "r.yml").write_text(text)
        monkeypatch.setattr("sys.argv", ["mergecore", "plan", "r.yml"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr().err
        assert stop.value.code == 2, printed
        return found(printed, text)

    return planned


def found(printed, text):
    """Return the marked text of every error, by line."""
    lines, marked = printed.splitlines(), {}
    while lines:
        number = re.match(r"error: r.yml:(\d+): ", lines.pop(0))
        shown, marks = lines.pop(0), lines.pop(0)
        assert shown == f"  {number[1]} | {text.splitlines()[int(number[1]) - 1]}"
        begin, end = marks.index("^"), marks.rindex("^") + 1
        marked.setdefault(int(number[1]), []).append(shown[begin:end])
    return marked


def test_errors_of_every_kind_come_at_once(plan):
    assert plan(WHOLE) == MARKED


def test_errors_of_later_steps_come_at_once_too(plan):
    structure = ("normalize: true", "dtype: bf16", "    wieght: 0.3")
    text = "".join(f"{line}\n" for line in WHOLE.splitlines() if line not in structure)
    expected = [marks for line, marks in MARKED.items() if line not in (10, 11, 16)]
    assert list(plan(text).values()) == expected


def test_several_models_that_cannot_be_opened_are_all_named(plan, tmp_path):
    (tmp_path / "code" / "config.json").unlink()
    (tmp_path / "prose" / "model.safetensors").unlink()
    models = "models:\n  - model: code\n  - model: prose\n  - model: base\n"
    assert plan(f"merge_method: linear\nparameters: {{weight: 1}}\n{models}") == {4: ["code"], 5: ["prose"]}


@pytest.mark.parametrize(("line", "marked"), [
    ("parameters: {density:    1.5}", "1.5"),
    ("parameters: {density: [0.5, 7, 0.1]}", "7"),
    ("parameters: {density: [{filter: mlp, value: 7}, {value: 1}]}", "7"),
    ("parameters: {'densty': 1}", "'densty'"),
    ("parameters: 5", "5"),
    ("seed: 0.5  # a half", "0.5"),
    ("out_dtype:   [bfloat16]", "[bfloat16]"),
])  # fmt: skip
def test_the_mark_is_under_what_is_wrong(plan, line, marked):
    text = f"merge_method: ties\nbase_model: base\nmodels: [{{model: code}}]\n{line}\n"
    assert plan(text) == {4: [marked]}


def test_a_wide_or_long_line_is_marked_at_the_right_column():
    from mergecore.cli.console import WIDTH, marked
    from mergecore.errors import Excerpt

    line, marks = marked(Excerpt("重重: x", 4, 5), 7)
    assert (line, marks) == ("  7 | 重重: x", "    |       ^")
    text = "a" * 300 + "WRONG" + "b" * 300
    line, marks = marked(Excerpt(text, 300, 305), 7)
    assert len(line) <= WIDTH + 6 and line[marks.index("^") : marks.rindex("^") + 1] == "WRONG"
    assert "\x1b" not in marked(Excerpt("a: \x1b[31m", 3, 8), 1)[0]
