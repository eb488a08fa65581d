"""Let the test import the example's scripts by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
