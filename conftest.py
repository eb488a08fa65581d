"""Disable the checks that start other processes after every plan and merge in tests, except in their own tests."""

import os

os.environ["MERGECORE_DISABLE"] = "health,class-check"
