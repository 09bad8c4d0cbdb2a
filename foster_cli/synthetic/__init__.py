"""The synthetic set: its Tucker factors, and how training reads them."""
