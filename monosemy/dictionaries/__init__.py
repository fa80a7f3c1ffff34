"""Dictionaries: the contracts, one small file a variant, baselines, and their files."""
