"""Conformance checks for every kind of plugin, with one line of test code per plugin.

from mergecore_testing.conformance import conformance

test_my_method = conformance("my_method")
test_my_model = conformance("MyForCausalLM", "architectures")
"""

from mergecore_testing.conformance.face import CHECKS, conformance

__all__ = ["CHECKS", "conformance"]
