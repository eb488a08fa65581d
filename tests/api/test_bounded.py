"""Functions in a limited process return what they yield, and are stopped at the limits of memory and time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from measured_runs import measured

from mergecore.api import run_bounded

FUNCTIONS = """
import os, subprocess, sys, time

def echo(request):
    print("noise")
    yield from request

def grow(request):
    yield "begun"
    held = []
    while True:
        held.append(bytearray(10**7))

def spin(request):
    yield "begun"
    while True:
        pass

def signal(request):
    open(request, "w").close()
    while True:
        pass
    yield

def grandchild(request):
    yield subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid
    time.sleep(1000)

def crash(request):
    os.abort()

def fail(request):
    raise KeyError("lost")
    yield
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "some_functions.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def run(name: str, request: Any = None, *, memory: int = 10**8, seconds: float = 60) -> tuple[list[Any], str]:
    done = run_bounded(f"some_functions:{name}", request, memory=memory, seconds=seconds)
    return done.values, done.cause


def test_values_come_back_and_prints_do_not() -> None:
    assert run("echo", [1, {"a": "ü\ud800"}, None]) == ([1, {"a": "ü\ud800"}, None], "")


def test_failures_are_named_after_what_came_before() -> None:
    assert run("grow") == (["begun"], "it needs more than 0.1 GB of memory")
    assert run("spin", seconds=2) == (["begun"], "it took longer than 2 s")
    assert run("fail") == ([], "it failed with KeyError: 'lost'")
    values, cause = run("crash")
    assert values == [] and cause.startswith("its process was killed by signal 6, most likely because it ran out of")


def test_the_limit_of_memory_is_that_of_the_system(functions: Path) -> None:
    program = "from mergecore.api import run_bounded; run_bounded('some_functions:grow', 0, memory=10**8, seconds=60)"
    assert measured("-c", program).peak < 1.5 * 10**8


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


def test_processes_that_it_started_end_with_it() -> None:
    (started,), _ = run("grandchild", seconds=2)
    deadline = time.monotonic() + 60
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(started)


def test_ctrl_c_ends_it(functions: Path) -> None:
    call = f"run_bounded('some_functions:signal', {str(functions / 'begun')!r}, memory=10**8, seconds=1000)"
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored in the background
    parent = subprocess.Popen([sys.executable, "-c", f"{listen}; from mergecore.api import run_bounded; {call}"])
    while not (functions / "begun").exists():
        time.sleep(0.01)
    found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) != 0
    assert not alive(int(found[0]))
