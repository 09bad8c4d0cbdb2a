"""FOSTER itself (Algorithms 1 and 2)."""
