"""Merges weights that no config.json describes, and fills in missing ones from a template."""
