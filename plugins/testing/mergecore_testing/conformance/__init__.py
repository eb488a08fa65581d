"""The checks that every merge method passes; one line of test each.

from mergecore_testing.conformance import conformance

test_my_method = conformance("my_method")
"""

from mergecore_testing.conformance.face import CHECKS, conformance

__all__ = ["CHECKS", "conformance"]
