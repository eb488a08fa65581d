"""Pebble models are fully recognized, merged, and sliced."""

from mergecore_testing.conformance import conformance

test_conformance = conformance("PebbleForCausalLM", "architectures")


def test_a_model_without_a_head_of_its_own_is_one_too(tiny_model):
    assert (tiny_model("PebbleForCausalLM", bare=True, tie_word_embeddings=True) / "model.safetensors").exists()
