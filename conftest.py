"""No merge of a test is followed by a health check, but those of its own tests."""

import os

os.environ["MERGECORE_DISABLE"] = "health"
