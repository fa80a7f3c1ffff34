"""Training: stacks of dictionaries, one step for all; the loop that reads a grid's rows once; grids."""
