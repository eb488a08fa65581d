"""Evaluators for mergecore, the commands `eval` and `board`, and the step that evaluates a merge."""
