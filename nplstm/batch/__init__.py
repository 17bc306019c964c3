"""Batches: the layouts that users give, packing, and segments of sequences with gaps or resets."""
