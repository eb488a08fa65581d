"""Load tensors without values into a model class of transformers. It runs in the child process of `asking`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from mergecore.api import torch_dtype
from mergecore_verify.asking import Answer


def answers(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answer of the class in a request, as the fields of `Answer`."""
    yield asdict(_answer(request["config"], request["tensors"]))


def _answer(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Answer:
    library = f"transformers {transformers.__version__}"
    name = next(iter(config.get("architectures") or []), None)
    model_class = getattr(transformers, str(name), None)
    if model_class is None:
        return Answer(unknown=f"{library} has no class {name}")
    by = f"{name} of {library}"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        report = _report(model_class, config, tensors)
    except Exception as error:  # its many config and model classes can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Answer(by=by, error=f"{library} cannot load it: {first}")
    return Answer(
        by,
        missing=_names(report.get("missing_keys", ())),
        different=_names(report.get("mismatched_keys", ())),
        ignored=_names(report.get("unexpected_keys", ())),
        error="; ".join(map(str, report.get("error_msgs", ()))),
    )


def _report(model_class: Any, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), "utf-8")
        loaded = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    state = {
        name: torch.empty(shape, dtype=torch_dtype(dtype), device="meta") for name, (dtype, shape) in tensors.items()
    }
    _, report = model_class.from_pretrained(
        None,
        config=loaded,
        state_dict=state,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    found: Mapping[str, Any] = report
    return found


def _names(keys: Any) -> list[str]:
    return sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
