"""Answers core's question for the output's tokenizer; what that needs is imported when it is asked."""

from __future__ import annotations

from mergecore.api import OutputTokenizer, TokenizerRequest, hookimpl


@hookimpl
def mergecore_provide_tokenizer(request: TokenizerRequest) -> OutputTokenizer:
    from mergecore_tokenizer.output import make

    return make(request)
