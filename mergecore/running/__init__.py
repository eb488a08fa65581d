"""Run plans: execute or resume their jobs, and publish the output folder when it is complete."""

from mergecore.running.folder_writer import FolderWriter
from mergecore.running.lock_writer import changed_since
from mergecore.running.machine import available_cores, spare_memory
from mergecore.running.nonfinite import is_finite
from mergecore.running.output_folder import OutputFolder
from mergecore.running.prefetch import prefetch
from mergecore.running.run_identity import input_identity, plan_digest
from mergecore.running.runner import kept_folder, run_plan
from mergecore.running.settings import Listener, Options
from mergecore.running.tensor_io import FileTensorIO
from mergecore.running.tensor_writing import write_tensors

__all__ = [
    "FileTensorIO",
    "FolderWriter",
    "Listener",
    "Options",
    "OutputFolder",
    "available_cores",
    "changed_since",
    "input_identity",
    "is_finite",
    "kept_folder",
    "plan_digest",
    "prefetch",
    "run_plan",
    "spare_memory",
    "write_tensors",
]
