"""The networks looked into: one interface over them, a small one of our own, and their activations on disk."""
