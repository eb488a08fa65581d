"""The hook that adds PEFT adapters to models."""

from __future__ import annotations

from mergecore.api import Adapter, AdapterRequest, hookimpl


@hookimpl
def mergecore_provide_adapter(request: AdapterRequest) -> Adapter | None:
    """See `mergecore.hookspecs`."""
    from mergecore_lora.settings import CONFIG

    if not (request.folder / CONFIG).exists():
        return None
    from mergecore_lora.applying import adapter  # imports torch, which a run without adapters may not need yet

    return adapter(request)
