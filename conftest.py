"""Disable the health check after merges in tests, except in its own tests."""

import os

os.environ["MERGECORE_DISABLE"] = "health"
