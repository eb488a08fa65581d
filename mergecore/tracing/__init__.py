"""Record what a method does with its tensors, and run that in native code, tile by tile."""

from mergecore.tracing.merger import NativeMerger, one_thread
from mergecore.tracing.nodes import Untraceable
from mergecore.tracing.program import Program, trace

__all__ = ["NativeMerger", "Program", "Untraceable", "one_thread", "trace"]
