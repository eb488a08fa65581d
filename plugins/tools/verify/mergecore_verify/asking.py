"""Ask the model class in transformers whether it can load tensors of given names and shapes, without any weights.

The class is built in a child process on torch's meta device. Answers are saved, because building a class takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mergecore.api import TensorInfo, run_bounded

MEMORY, SECONDS = 8 * 10**9, 300.0
"""Limits of the child process. A class with 100,000 tensors takes less than 2 GB and a minute."""

NEEDED = ("transformers", "accelerate", "torch")
"""Distributions that build a class. transformers needs accelerate for the meta device."""


@dataclass(frozen=True)
class Answer:
    """What a class says about a config and tensors.

    Attributes:
        by: the class and the version of transformers, such as ``LlamaForCausalLM of transformers 5.0.0``.
        unknown: why the class could not be asked. Empty if it was.
        error: why it cannot be built from the config. Empty if it can.
        missing: tensors that it needs and does not get.
        different: tensors that it needs in another shape.
        ignored: tensors that it does not use.
    """

    by: str = ""
    unknown: str = ""
    error: str = ""
    missing: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def loads(self) -> bool:
        return not (self.unknown or self.error or self.missing or self.different)


def ask(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Answer:
    """Ask the class that a config names. Code from model folders is never run.

    Args:
        config: contents of config.json.
        tensors: every tensor of the model.
    """
    lacking = [name for name in NEEDED if not _version(name)]
    if lacking:
        return Answer(unknown=f"{lacking[0]} is not installed: pip install mergecore-verify[load]")
    if "quantization_config" in config:
        return Answer(unknown="its weights are quantized")
    request = {
        "config": dict(config),
        # Names with a slash belong to modules of sentence-transformers, which are not part of the class.
        "tensors": {name: [info.dtype, list(info.shape)] for name, info in tensors.items() if "/" not in name},
    }
    text = json.dumps([request, [_version(name) for name in NEEDED]], sort_keys=True, default=str)
    saved = _folder() / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Answer(**json.loads(saved.read_text("utf-8")))
    offline = {"HF_HUB_OFFLINE": "1"}
    done = run_bounded(
        "mergecore_verify.building:answers", request, memory=MEMORY, seconds=SECONDS, environment=offline
    )
    if not done.values:
        return Answer(unknown=done.cause or "its process gave no answer")
    answer = Answer(**done.values[0])
    if not answer.unknown:
        _save(saved, json.dumps(asdict(answer)))
    return answer


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _folder() -> Path:
    """Return the folder of saved answers, in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "mergecore" / "classes"


def _save(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # without a cache, the class is asked again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as draft:
            draft.write(text)
        os.replace(draft.name, path)
