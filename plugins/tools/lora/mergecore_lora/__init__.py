"""LoRA adapters of PEFT: added to models in recipes, extracted from fine-tunes, merged."""
