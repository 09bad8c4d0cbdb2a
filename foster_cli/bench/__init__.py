"""`foster bench`: seconds and memory of an outer step, and of training, each row in its own process."""
