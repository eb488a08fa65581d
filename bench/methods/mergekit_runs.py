"""Run a JSON list of [recipe, output folder] with mergekit, in its own environment and a single process."""

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
            # An unsupported recipe must not end the comparison. The table shows it.
            traceback.print_exc(limit=1)


if __name__ == "__main__":
    main()
