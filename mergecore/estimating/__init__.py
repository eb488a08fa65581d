"""Estimate the cost of a run from a trial of about a second: merge a sample of its tensors and time each."""

from mergecore.estimating.cost_estimate import CostEstimate, estimate_cost

__all__ = ["CostEstimate", "estimate_cost"]
