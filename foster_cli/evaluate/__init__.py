"""Ranking, metrics, intervals, comparison."""
