"""The public API for plugin authors matches docs/api-v1.txt."""

from pathlib import Path

from api_surface import surface

RECORD = Path(__file__).resolve().parents[2] / "docs/api-v1.txt"


def test_nothing_that_authors_rely_on_has_changed():
    recorded, now = RECORD.read_text("utf-8").splitlines(), surface().splitlines()
    gone = [line for line in recorded if line not in now]
    assert not gone, f"these belong to API v1 (docs/api-stability.md): {gone}"
    new = [line for line in now if line not in recorded]
    assert not new, f"new in the API; ./dev sync records it: {new}"
