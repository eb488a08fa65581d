"""Make the example's scripts importable by name in tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
