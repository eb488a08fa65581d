"""The report keeps the promises of every post-processor."""

from mergecore_testing.conformance import conformance

test_conformance = conformance("report", "postprocessors")
