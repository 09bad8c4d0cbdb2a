"""Reads the input tables, checks them, reduces them to their k-core and splits them by time."""
