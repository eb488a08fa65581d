"""TIES passes the conformance checks. tests/methods/test_formulae.py compares it with its formula."""

from mergecore_testing.conformance import conformance

test_conformance = conformance("ties", identical="rounded", symmetric=True)
