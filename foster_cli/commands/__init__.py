"""One file per CLI command: parse, call, print; no logic."""
