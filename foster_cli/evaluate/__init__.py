"""Tables of results: rows, bootstrap intervals, comparisons, ablations and sweeps."""
