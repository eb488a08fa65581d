"""Compare models before a merge, and write a recipe that fits them."""
