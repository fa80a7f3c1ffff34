"""Studies: each a recipe from start to end in one readable file."""
