"""The operations of every training step and of evaluation, in C++ and CUDA where the extension has code for them.

`reference` defines them in plain PyTorch, which also computes them where the extension cannot (`native.use`). Both
give the same numbers up to rounding. `FOSTER_OPS=auto|native|reference` chooses.
"""

from __future__ import annotations

from foster_cli.ops.ce import softmax_ce
from foster_cli.ops.embed import soft_embed, tucker_embed
from foster_cli.ops.kl import soft_kl
from foster_cli.ops.native import CHOICES, fallback
from foster_cli.ops.rank import rank_counts
from foster_cli.ops.reference import tucker

__all__ = ["CHOICES", "fallback", "rank_counts", "soft_embed", "soft_kl", "softmax_ce", "tucker", "tucker_embed"]
