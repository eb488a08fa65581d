"""Gives a model the tokenizer of another."""
