"""Provider hook for the output's tokenizer. Dependencies are imported on the first call."""

from __future__ import annotations

from mergecore.api import OutputTokenizer, TokenizerRequest, hookimpl


@hookimpl
def mergecore_provide_tokenizer(request: TokenizerRequest) -> OutputTokenizer:
    from mergecore_tokenizer.output import make

    return make(request)
