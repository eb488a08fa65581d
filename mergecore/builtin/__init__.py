"""Core's plugins, registered through the same entry points as all others: safetensors files and a thread executor."""
