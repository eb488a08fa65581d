"""Search for the best values in a recipe: `evolve`, `soup`, `cocktail`, and `sweep`."""
