"""The public names for plugin authors and for tools match docs/api-v1.txt and docs/tooling-v1.txt."""

import re
from pathlib import Path

import pytest
from api_surface import SURFACES

from mergecore import tooling

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("kind", SURFACES)
def test_nothing_that_authors_rely_on_has_changed(kind):
    recorded, now = (DOCS / f"{kind}-v1.txt").read_text("utf-8").splitlines(), SURFACES[kind]().splitlines()
    gone = [line for line in recorded if line not in now]
    assert not gone, f"these belong to version 1 (docs/api-stability.md): {gone}"
    new = [line for line in now if line not in recorded]
    assert not new, f"new public names; ./dev sync records them: {new}"


def test_the_page_for_tools_lists_every_name_once():
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "tooling.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(tooling.__all__)
