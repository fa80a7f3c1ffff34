"""The sparse parts of a training step, in three implementations of one contract: plain torch, numba, Triton."""
