"""The text encoder, the sequence models, and the losses on real data."""
