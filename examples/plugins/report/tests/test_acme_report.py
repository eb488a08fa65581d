"""The report passes the checks for post-processors."""

from mergecore_testing.conformance import conformance

test_conformance = conformance("report", "postprocessors")
