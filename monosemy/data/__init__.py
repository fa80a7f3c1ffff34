"""What goes in: text, tokens, activations, and rows of any origin in shuffled order."""
