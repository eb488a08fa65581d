"""Every command that writes can be interrupted anywhere: nothing is lost, and the next run makes the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "interruptions.py"
SAMPLE = ["run --keep --force", "lora extract", "stack shuffle"]


@pytest.mark.parametrize(
    ("kills", "full_disks", "commands"), [(6, 3, SAMPLE), pytest.param(200, 60, [], marks=pytest.mark.slow)]
)
def test_interrupted_anywhere_nothing_is_lost(kills, full_disks, commands):
    only = [word for command in commands for word in ("--only", command)]
    counts = ["--kills", str(kills), "--full-disks", str(full_disks)]
    result = subprocess.run([sys.executable, SCRIPT, *counts, *only], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{kills + full_disks}" in result.stdout.splitlines()[-1] or "full disks are left out" in result.stdout
