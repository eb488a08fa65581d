"""PEFT LoRA adapters: add them to models in recipes, extract them from fine-tunes, and merge them."""
