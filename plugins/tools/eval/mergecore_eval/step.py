"""Run a recipe's evaluations on the merge, and save the scores in its folder and in the file of all results."""

from __future__ import annotations

import json

from mergecore.api import MergedModel, PostProcessor
from mergecore_eval.results import append, measure, results_file

FILE = "mergecore_evaluation.json"
"""Scores of the merge, which the model card uses."""


class Evaluate(PostProcessor):
    """Run the evaluations under the recipe's `evaluate` key."""

    after = ("config", "tokenizer")

    def run(self, model: MergedModel) -> None:
        if not model.evaluations:
            return
        from mergecore_eval.subjects import Folder

        about = {"method": model.method, "models": [info.name for info in model.models], "recipe": model.recipe}
        path = results_file()  # an error must come before the work
        result = measure(Folder(model.folder, model.name), model.evaluations, about)
        (model.folder / FILE).write_text(json.dumps(result.plain(), indent=2) + "\n", "utf-8")
        append(result, path)
