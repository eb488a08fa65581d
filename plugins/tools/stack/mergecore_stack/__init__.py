"""Writes recipes that stack layers of models."""
