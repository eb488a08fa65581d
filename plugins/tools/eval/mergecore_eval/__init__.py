"""Evaluators for mergecore, the commands `eval` and `board`, and the step that measures a merge."""
