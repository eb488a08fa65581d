"""Models to evaluate: folders that are loaded once for all evaluators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mergecore.api import InputError
from mergecore_eval.tokens import check_tokenizer


@dataclass(frozen=True)
class Folder:
    """A model folder (see `mergecore.api.Subject`), loaded in `dtype` on a CPU and in its stored dtype on a GPU.

    If it is `guarded`, its tokenizer is first loaded in a process with limits on memory and time.
    """

    folder: Path
    name: str
    dtype: str = "float32"
    guarded: bool = True

    @cached_property
    def model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        on_gpu = torch.cuda.is_available()
        model = self._load(AutoModelForCausalLM, dtype="auto" if on_gpu else self.dtype)
        return model.to("cuda" if on_gpu else "cpu").eval()

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        if self.guarded:
            check_tokenizer(self.folder)
        return self._load(AutoTokenizer)

    def _load(self, kind: Any, **options: Any) -> Any:
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            return kind.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False, **options)
        except Exception as error:  # transformers can raise anything on a broken folder
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{self.folder}: transformers cannot load it: {cause}") from error
