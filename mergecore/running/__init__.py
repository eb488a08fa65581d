"""Runs: a plan's jobs, executed, resumed, and published as a complete output folder."""

from mergecore.running.runner import Listener, Options, available_cores, kept_folder, run_plan, spare_memory

__all__ = [
    "Listener",
    "Options",
    "available_cores",
    "kept_folder",
    "run_plan",
    "spare_memory",
]
