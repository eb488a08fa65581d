"""YAML documents are parsed according to the YAML specification, with a line number for every value."""

import pytest
import yaml

from mergecore.documents import load_yaml

HEAD = "a: &a {x: 1, y: [1, 2]}\nb: &b {x: 2, z: 3}\n"


@pytest.mark.parametrize("text", [
    "c: {<<: *a, x: 5}", "c: {x: 5, <<: *a}", "c: {<<: [*a, *b]}", "c: {<<: [*b, *a], z: 1}", "c: &c {<<: *a}\nd: *c",
    "c: &c {<<: *a, w: 1}\nd: {<<: *c, w: 2}",
])  # fmt: skip
def test_merge_keys_bring_what_yaml_says(text):
    assert load_yaml(HEAD + text)[0].value == yaml.safe_load(HEAD + text)


def test_a_merged_value_knows_the_line_where_it_stands():
    place = load_yaml(HEAD + "c:\n  <<: *a\n  z: 1\n", "f.yml")[0].child("c")
    assert str(place.child("y").child(1).error("wrong")) == "f.yml:1: c.y[1]: wrong"
    assert str(place.child("z").error("wrong")) == "f.yml:5: c.z: wrong"
