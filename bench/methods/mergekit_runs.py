"""Runs a JSON list of [recipe, output folder] with mergekit, in its own environment and in one process."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path


def main() -> None:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    for recipe, out in json.loads(Path(sys.argv[1]).read_text()):
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
        try:
            run_merge(config, out, options)
        except Exception:
            # One recipe that it cannot do must not end the comparison; the table says so.
            traceback.print_exc(limit=1)


if __name__ == "__main__":
    main()
