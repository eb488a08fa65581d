"""Plans: every output tensor with its inputs and parameters."""

from mergecore.planning.announcing import announce
from mergecore.planning.class_errors import check_accounted
from mergecore.planning.input_notes import check_license
from mergecore.planning.job_builder import model_input
from mergecore.planning.plan import Plan, merged_model
from mergecore.planning.planner import make_plan
from mergecore.planning.public_names import PublicNames
from mergecore.planning.stage_reader import StageReader, job_cost, release, stage_readers

__all__ = [
    "Plan",
    "PublicNames",
    "StageReader",
    "announce",
    "check_accounted",
    "check_license",
    "job_cost",
    "make_plan",
    "merged_model",
    "model_input",
    "release",
    "stage_readers",
]
