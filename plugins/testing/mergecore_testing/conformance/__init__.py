"""The checks that plugins pass, of every kind; one line of test each.

from mergecore_testing.conformance import conformance

test_my_method = conformance("my_method")
test_my_model = conformance("MyForCausalLM", "architectures")
"""

from mergecore_testing.conformance.face import CHECKS, conformance

__all__ = ["CHECKS", "conformance"]
