"""What core ships through the same entry points as everyone: safetensors files, and threads to run on."""
