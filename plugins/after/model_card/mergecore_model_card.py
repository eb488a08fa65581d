"""Post-processor that writes README.md, the model card for the Hub, and the recipe. It never accesses the network."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import yaml

from mergecore.api import (
    MergedModel,
    ModelInfo,
    PostProcessor,
    hub_reference,
    license_of,
    license_words,
    licenses_agree,
    licenses_conflict,
)

RECIPE, LOCK = "mergecore_recipe.yml", "mergecore.lock.json"
HEALTH = "mergecore_health.json"
"""Written by the `health` post-processor after the result is published."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


class ModelCard(PostProcessor):
    """Write README.md with front matter for the Hub, and the recipe as `mergecore_recipe.yml`."""

    after = ("config", "evaluate", "health")
    of_stages = True

    def run(self, model: MergedModel) -> None:
        (model.folder / RECIPE).write_text(model.recipe, "utf-8")
        model.put("README.md", card(model))

    def after_publish(self, model: MergedModel) -> None:
        if (model.folder / HEALTH).exists():
            model.put("README.md", card(model))


def card(model: MergedModel) -> str:
    """Return the text of README.md."""
    method = " ".join(inspect.cleandoc(model.method_doc).split("\n\n")[0].split())
    parts = [
        f"---\n{yaml.safe_dump(front_matter(model), sort_keys=False, allow_unicode=True)}---",
        f"# {plain(model.name) or 'Merged model'}",
        f"Merged with mergecore {version('mergecore')} from {len(files(model))} pretrained model(s).",
        f"## Method\n\n`{model.method}`: {method}",
        *_score_tables(model),
        *_health(model),
        "## Models\n\n" + "\n".join(_listed(model)),
        "## License\n\n" + _license_words(model),
        "## Recipe\n\n" + fence("yaml", model.recipe),
        "## Reproduce this merge\n\n"
        + fence("sh", f"pip install {' '.join(_distributions(model))}\nmergecore {_line(model.command)}"),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(model: MergedModel) -> dict[str, Any]:
    """Return the card's metadata.

    `base_model` must list models on the Hub. It omits local folders, because the Hub might have another model with the
    same name.
    """
    parents = list(dict.fromkeys(name for info in files(model) if (name := hub_id(info))))
    cards = [info.card for info in files(model)]
    stated = license_of(cards[0]) if licenses_agree(cards) else {}
    languages = [card.get("language") for card in cards]
    return {
        # A relative link into the parent's repository does not work here.
        **{key: value for key, value in stated.items() if key != "license_link" or "://" in value},
        **({"language": languages[0]} if languages[0] and all(item == languages[0] for item in languages) else {}),
        **({"base_model": parents, "base_model_relation": "merge"} if parents else {}),
        "library_name": "sentence-transformers" if (model.folder / "modules.json").exists() else "transformers",
        "tags": ["merge", "mergecore"],
        **_model_index(model),
    }


def stages(model: MergedModel) -> dict[str, MergedModel]:
    """Return all stages that the result is built from, directly or indirectly, by reference."""
    found: dict[str, MergedModel] = {}
    waiting = [model]
    while waiting:
        new = {info.reference: info.stage for info in waiting.pop().models if info.stage}
        waiting += [stage for name, stage in new.items() if name not in found]
        found |= new
    return found


def files(model: MergedModel) -> list[ModelInfo]:
    """Return the models on disk that the result and its stages are merged from."""
    found = (info for item in (model, *stages(model).values()) for info in item.models if not info.stage)
    return list({info.reference: info for info in found}.values())


def hub_id(info: ModelInfo) -> str | None:
    """Return the model's name on the Hub if it comes from there, from its reference or its path in a Hub cache."""
    reference = hub_reference(info.folder.resolve()) or (info.reference if info.revision else "")
    name = reference.partition("@")[0]
    return name if HUB_ID.fullmatch(name) else None


def _license_words(model: MergedModel) -> str:
    parents = files(model)
    cards = [info.card for info in parents]
    if licenses_agree(cards):
        return f"All models state the same license: {plain(license_words(cards[0], parents[0].folder))}."
    lines = [f"- {plain(_name(info))}: {plain(license_words(info.card, info.folder))}" for info in parents]
    conflict = " One license may forbid what another allows." if licenses_conflict(cards) else ""
    return (
        f"The models' cards do not all state the same license, so this card states none.{conflict} Read their terms"
        " before you share the result, and add `license:` at the top.\n\n" + "\n".join(lines)
    )


def _name(info: ModelInfo) -> str:
    """Return a model's display name: its name on the Hub, or the name of its folder without the path."""
    return hub_id(info) or Path(os.path.abspath(info.folder)).name


def _listed(model: MergedModel) -> list[str]:
    """Return the models as list items, with the base model marked, followed by the stages and their models."""
    lines = [f"- {_link(info)}{', the base model' if i == model.base else ''}" for i, info in enumerate(model.models)]
    for name, stage in stages(model).items():
        lines.append(f"- the stage {plain(name)}: `{stage.method}` of {', '.join(map(_link, stage.models))}")
    return lines


def _link(info: ModelInfo) -> str:
    if info.stage:
        return f"{plain(info.reference)} (a stage of the recipe)"
    name = plain(_name(info))
    return f"[{name}](https://huggingface.co/{hub_id(info)})" if hub_id(info) else f"{name} (a local folder)"


def _line(command: str) -> str:
    """Return the arguments to pass to ``mergecore``. If there is a lock file, they rerun it."""
    if command == "run":
        return f"run {LOCK} OUT"
    return command if " " in command else f"{command} {RECIPE} OUT"


def _distributions(model: MergedModel) -> list[str]:
    """Return the packages that the recipe needs, starting with mergecore itself."""
    used = [
        *(("methods", item.method) for item in (model, *stages(model).values())),
        ("commands", model.command.split()[0]),
        ("architectures", model.architecture),
    ]
    used += [("postprocessors", "config"), ("postprocessors", "model_card")]
    every = entry_points()
    points = [point for kind, name in used for point in every.select(group=f"mergecore.v1.{kind}", name=name)]
    return list(dict.fromkeys(["mergecore", *(point.dist.name for point in points if point.dist)]))


def plain(text: str) -> str:
    """Return text on one line with all Markdown characters escaped."""
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def fence(language: str, text: str) -> str:
    """Return a code block with a fence longer than any run of backticks in the text, so that the text cannot end it."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _scores(model: MergedModel) -> dict[str, list[dict[str, Any]]]:
    """Return the scores of the recipe's evaluations by name. Empty if nothing was measured."""
    path = model.folder / "mergecore_evaluation.json"  # written by the `evaluate` post-processor
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text("utf-8"))["scores"] if path.exists() else {}
    return found


def _spread(score: dict[str, Any]) -> str:
    return f" ± {score['error']:.4g}" if score["error"] else ""


def _model_index(model: MergedModel) -> dict[str, Any]:
    """Return the scores in the Hub's format (https://hf.co/docs/hub/model-cards#evaluation-results)."""
    results = []
    for name, scores in _scores(model).items():
        metrics = [
            {
                "type": score["name"],
                "value": score["value"],
                "name": f"{score['name']}{_spread(score)}, {score['count']} samples",
            }
            for score in scores
            if math.isfinite(score["value"])
        ]
        if metrics:
            results.append(
                {"task": {"type": "text-generation"}, "dataset": {"type": name, "name": name}, "metrics": metrics}
            )
    name = model.name.encode("utf-8", "replace").decode() or "Merged model"
    return {"model-index": [{"name": name, "results": results}]} if results else {}


def _score_tables(model: MergedModel) -> list[str]:
    """Return the evaluation section of the card, or nothing if nothing was measured."""
    rows = [
        f"| {plain(name)} | {plain(score['name'])} | {score['value']:.4g}{_spread(score)} | {score['count']} |"
        for name, scores in _scores(model).items()
        for score in scores
    ]
    heads = "| evaluation | score | value ± standard error | samples |\n|---|---|---|---|\n"
    return ["## Evaluation\n\n" + heads + "\n".join(rows)] if rows else []


def _health(model: MergedModel) -> list[str]:
    """Return the health section of the card with verdict and figures, or nothing if there was no check."""
    path = model.folder / HEALTH
    if not path.exists():
        return []
    found = json.loads(path.read_text("utf-8"))
    heads = "| model | loss per token | loss per byte | divergence from the merge |\n|---|---|---|---|\n"
    rows = [
        f"| {plain(item['name'])} | {item['loss']:.4g} | {item['loss_per_byte']:.4g} |"
        f" {'' if item['divergence'] is None else format(item['divergence'], '.4g')} |"
        for item in found["models"]
    ]
    words = f"{found['verdict'].capitalize()}: {plain(found['reason'])}."
    return ["## Health\n\n" + words + (f"\n\n{heads}" + "\n".join(rows) if rows else "")]
