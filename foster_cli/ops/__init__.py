"""The hot path's operations. Today they are the plain PyTorch definitions of `reference`."""

from foster_cli.ops.reference import rank_counts, soft_embed, soft_kl, tucker

__all__ = ["rank_counts", "soft_embed", "soft_kl", "tucker"]
