"""Text encoder, sequence model, losses."""
