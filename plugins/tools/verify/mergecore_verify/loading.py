"""Check that transformers can load the folder and match every key, on the meta device without reading weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mergecore.api import read_json, torch_dtype
from mergecore.tooling import Checkpoint
from mergecore_verify.findings import Finding, few, skipped
from mergecore_verify.vocabulary import CONFIG_LIMIT

NAME = "loading"


def check_loading(checkpoint: Checkpoint) -> Finding:
    """Load tensors with the stored names, dtypes, and shapes, but no values, into the class in config.json.

    Code from the folder is never run, so a class that transformers does not have is not checked.
    """
    try:
        import accelerate  # noqa: F401  which transformers needs for the meta device
        import transformers
    except ImportError as error:
        return skipped(NAME, f"{error.name} is not installed: pip install mergecore-verify[load]")
    name = next(iter(checkpoint.config.get("architectures") or []), None)
    model_class = getattr(transformers, str(name), None)
    if model_class is None:
        return skipped(NAME, f"transformers {transformers.__version__} has no class {name}")
    if "quantization_config" in read_json(checkpoint.folder / "config.json", CONFIG_LIMIT):
        return skipped(NAME, "its weights are quantized")
    try:
        with _quiet(transformers):
            report = _load(checkpoint, transformers, model_class)
    except Exception as error:  # its many config and model classes can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding(NAME, False, f"transformers {transformers.__version__} cannot load it: {first}")
    return _judge(report, f"{name} of transformers {transformers.__version__}")


def _load(checkpoint: Checkpoint, transformers: Any, model_class: Any) -> Mapping[str, Any]:
    import torch

    config = transformers.AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    tensors = {
        name: torch.empty(info.shape, dtype=torch_dtype(info.dtype), device="meta")
        for name, info in checkpoint.tensors.items()
    }
    _, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    found: Mapping[str, Any] = report
    return found


def _judge(report: Mapping[str, Any], by: str) -> Finding:
    wrong = [
        f"{few([key if isinstance(key, str) else str(key[0]) for key in keys])} {word}"
        for kind, word in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of a different shape"),
        )
        if (keys := report.get(kind))
    ]
    if wrong or report.get("error_msgs"):
        return Finding(NAME, False, f"{by}: {'; '.join([*wrong, *map(str, report.get('error_msgs', ()))])}")
    return Finding(NAME, True, f"{by} loads every tensor, with none missing")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Suppress the reports and progress bars of transformers."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
