"""Post-processor that writes the tokenizer and chat template created by the plan."""

from __future__ import annotations

from mergecore.api import MergedModel, PostProcessor
from mergecore_tokenizer.files import tokenizer_files


class Tokenizer(PostProcessor):
    """Write the output's tokenizer. If the recipe requests none, keep the one that `config` copied."""

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
