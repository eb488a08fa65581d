"""Plans: every output tensor with its inputs and parameters, and what a run of them takes."""

from mergecore.planning.cost_estimate import CostEstimate, estimate_cost
from mergecore.planning.licenses import check_license
from mergecore.planning.plan import Plan, merged_model
from mergecore.planning.planner import make_plan
from mergecore.planning.stage_reader import release, stage_readers

__all__ = [
    "Plan",
    "CostEstimate",
    "stage_readers",
    "make_plan",
    "merged_model",
    "estimate_cost",
    "release",
    "check_license",
]
