"""Run a function in a child process with limits on memory and time, for strangers' tokenizers and templates.

Regular expressions, templates, and libraries can take any amount of either. The limits on memory and CPU time are set
by the system, so nothing that runs in the child can get around them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api.reading import read_text
from mergecore.api.tokenizer_files import TOKENIZER_BYTES
from mergecore.errors import ModelError
from mergecore.system import set_limit

MEMORY_RAN_OUT = 77
"""Exit status of a child whose function raised `MemoryError`."""
CHILD = "from mergecore.api.bounded import serve; serve()"
ROOT = Path(__file__).parents[2]
ENCODING, PER_BYTE, PER_CHARACTER = 10**8, 20, 1000
"""Limits of the memory that `encode_texts` uses: bytes, and bytes for each byte of the file and character of text."""


@dataclass(frozen=True)
class Bounded:
    """What a function in a child process returned.

    Attributes:
        values: the values that it yielded before it ended.
        cause: why it ended early, as the end of a sentence that starts with what ran. Empty if it did not.
    """

    values: list[Any]
    cause: str


def run_bounded(
    function: str, request: Any, *, memory: int, seconds: float, environment: Mapping[str, str] | None = None
) -> Bounded:
    """Run a generator function in a child process and collect what it yields.

    Args:
        function: the function as ``module:name``. It takes the request. What it prints is dropped.
        request: a JSON value. Paths in it must be absolute, because the child has another working folder.
        memory: bytes of private memory that the child can take besides what the import of the module takes. The limit
            is RLIMIT_DATA, which Linux enforces.
        seconds: limit of the wall time. The child and the processes that it started are killed after it.
        environment: variables to set for the child.
    """
    cpu = int(seconds * (os.cpu_count() or 1)) + 1  # ends a child whose parent was killed
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, function, str(memory), str(cpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,  # Python searches for modules there first
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C in the terminal reaches only the parent, which ends the whole group
        )
    except OSError as error:
        return Bounded([], f"its process cannot be started: {error}")
    try:
        (out, _), late = process.communicate(json.dumps(request).encode(), seconds), False
    except subprocess.TimeoutExpired:
        _kill(process)
        (out, _), late = process.communicate(), True
    except BaseException:
        _kill(process)
        process.communicate()
        raise
    lines = [json.loads(line) for line in out.split(b"\n")[:-1]]  # without an incomplete last line
    cause = f"it took longer than {seconds:.3g} s" if late else _cause(process.returncode, memory, seconds)
    failed = next((line["failed"] for line in lines if "failed" in line), "")
    return Bounded([line["value"] for line in lines if "value" in line], failed or cause)


def encode_texts(file: Path, texts: Sequence[str], seconds: float = 120) -> list[list[int]]:
    """Return the token IDs of texts without special tokens, from a tokenizer.json in a process with limits.

    Raises:
        ModelError: the file is missing, too large, or not a tokenizer, or it takes too much time or memory.
    """
    size = len(read_text(file, TOKENIZER_BYTES))
    request = {"file": str(file.absolute()), "texts": list(texts)}
    memory = ENCODING + PER_BYTE * size + PER_CHARACTER * sum(map(len, texts))
    done = run_bounded(f"{__name__}:encoded", request, memory=memory, seconds=seconds)
    if done.cause:
        raise ModelError(f"{file}: cannot be used to tokenize text: {done.cause}; use another tokenizer")
    problem, *ids = done.values
    if problem:
        raise ModelError(f"{file}: is not a valid tokenizer: {problem}")
    return ids


def encoded(request: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what is wrong with the file or an empty string, then the IDs of each text. This runs in the child."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(request["file"])
    except Exception as error:  # the library raises nothing more specific
        yield str(error)
        return
    yield ""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in request["texts"]:
        yield tokenizer.encode(text, add_special_tokens=False).ids


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _cause(status: int, memory: int, seconds: float) -> str:
    """Describe an exit status. Return an empty string if it is 0."""
    limit = f"{memory / 1e9:.2g} GB of memory"
    if status == MEMORY_RAN_OUT:
        return f"it needs more than {limit}"
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"it took longer than {seconds:.3g} s"
    if status < 0:  # libraries in C++ and Rust abort if they get no memory
        return f"its process was killed by signal {-status}, most likely because it ran out of its {limit}"
    return f"its process exited with status {status}" if status else ""


def serve() -> None:
    """Answer the request on standard input. This runs in the child, whose arguments are those of `run_bounded`."""
    name, memory, cpu = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    text = sys.stdin.read()
    if not text:  # the parent was interrupted before it could send the request
        return
    request, function = json.loads(text), _find(name)
    set_limit("CORE", 0)
    set_limit("CPU", cpu)
    set_limit("DATA", _private_memory() + memory)
    try:
        for value in function(request):
            print(json.dumps({"value": value}), file=answers, flush=True)
    except MemoryError:
        os._exit(MEMORY_RAN_OUT)  # the ordinary exit could need memory again
    except BaseException as error:  # the tokenizers library raises one that is not an Exception
        print(json.dumps({"failed": f"it failed with {type(error).__name__}: {error}"}), file=answers, flush=True)


def _find(name: str) -> Callable[[Any], Iterator[Any]]:
    module, _, attribute = name.partition(":")
    found: Callable[[Any], Iterator[Any]] = getattr(importlib.import_module(module), attribute)
    return found


def _private_memory() -> int:
    """Return the bytes of this process that count toward RLIMIT_DATA, or 0 if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * mmap.PAGESIZE
    except OSError:
        return 0
