"""Writes the tokenizer and the chat template that the plan has made, in the place of the donor's."""

from __future__ import annotations

from mergecore.api import MergedModel, PostProcessor
from mergecore_tokenizer.files import tokenizer_files


class Tokenizer(PostProcessor):
    """Writes the output's own tokenizer; where the recipe asks for none, the donor's stays, as `config` copies it."""

    after = ("config",)
    of_stages = True

    def run(self, model: MergedModel) -> None:
        if model.tokenizer_files is None:
            return
        for path in tokenizer_files(model.folder):
            path.unlink()
        for name, content in model.tokenizer_files.items():
            path = model.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
