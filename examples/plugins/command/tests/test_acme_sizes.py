"""`mergecore sizes` passes the checks for commands and adds up layers."""

import json

from acme_sizes import sizes
from mergecore_testing.checkpoints import write_checkpoint
from mergecore_testing.conformance import conformance
from mergecore_testing.sandbox import CLASS, DEFINITION

test_conformance = conformance("sizes", "commands")


def test_layers_are_added_up(tmp_path, capsys):
    model = write_checkpoint(tmp_path / "model", CLASS, DEFINITION, layers=3)
    sizes(str(model), as_json=True)
    assert json.loads(capsys.readouterr().out)["model.layers.*.up.bias"] == 3 * 8 * 4
