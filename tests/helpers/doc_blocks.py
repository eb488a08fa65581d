"""Code blocks of the documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(file, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text("utf-8"), re.MULTILINE | re.DOTALL)
