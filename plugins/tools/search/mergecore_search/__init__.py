"""Searches over the numbers of a recipe for mergecore: `evolve`, `soup`, `cocktail` and `sweep`."""
