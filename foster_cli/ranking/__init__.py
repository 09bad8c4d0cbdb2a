"""Metrics of a rank, and the full ranking of held-out cases."""
