"""Write recipes that stack layers of models."""
