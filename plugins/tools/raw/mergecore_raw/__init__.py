"""Merge weights without a config.json, and fill in missing weights from a template."""
