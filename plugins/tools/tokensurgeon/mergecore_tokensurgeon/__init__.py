"""Give a model the tokenizer of another model."""
