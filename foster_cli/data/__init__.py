"""Tables in: read, checked, cut to the k-core, split by time."""
