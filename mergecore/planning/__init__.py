"""Plans: every output tensor with its inputs and parameters, and what a run of them takes."""

from mergecore.planning.cost_estimate import Price, price
from mergecore.planning.licenses import require_licence
from mergecore.planning.plan import Plan, merged_model
from mergecore.planning.planner import make_plan
from mergecore.planning.stage_reader import made_of, release

__all__ = [
    "Plan",
    "Price",
    "made_of",
    "make_plan",
    "merged_model",
    "price",
    "release",
    "require_licence",
]
