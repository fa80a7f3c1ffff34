"""How good a dictionary is: fidelity, recovery, and what it does to the model it came from."""
