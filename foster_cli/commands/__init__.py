"""One file per CLI command. It parses, calls and prints, and has no other logic."""
