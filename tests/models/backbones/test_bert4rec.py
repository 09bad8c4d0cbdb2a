"""BERT4Rec: all prefixes at once are [MASK] appended to each, through an ordinary bidirectional encoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weights import enlarged

from foster_cli.models.backbones.bert4rec import BERT4Rec, Block

B, L, D = 3, 6, 8


def _model(layers: int, heads: int) -> BERT4Rec:
    model = BERT4Rec(D, L, layers, heads, 0.0, torch.Generator().manual_seed(0))
    return enlarged(model).double().eval()


def _encoder(block: Block, heads: int) -> nn.TransformerEncoderLayer:
    """torch's own post-norm encoder layer with the weights of `block`."""
    theirs = nn.TransformerEncoderLayer(D, heads, 4 * D, 0.0, "gelu", batch_first=True).double().eval()
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight, "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.out.weight, "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.up.weight, "linear1.bias": block.up.bias,
        "linear2.weight": block.down.weight, "linear2.bias": block.down.bias,
        "norm1.weight": block.norm1.weight, "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight, "norm2.bias": block.norm2.bias,
    }  # fmt: skip
    theirs.load_state_dict({k: v.detach() for k, v in pairs.items()})
    return theirs


def _with_a_mask(model: BERT4Rec, prefix: Tensor, heads: int) -> Tensor:
    """(B, d): [MASK] behind `prefix` (B, p, d), every position attending to all p + 1, read off at the mask."""
    z = torch.cat([prefix, model.mask.expand(len(prefix), 1, D)], dim=1) + model.position[: prefix.shape[1] + 1]
    z = model.norm(z)
    for block in model.blocks:
        assert isinstance(block, Block)
        z = _encoder(block, heads)(z)
    return model.norm_out(F.gelu(model.project(z[:, -1])))


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2), (3, 4)])
def test_all_prefixes_at_once_are_each_prefix_with_a_mask(layers: int, heads: int) -> None:
    model = _model(layers, heads)
    x = torch.randn(B, L, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = model(x)
    for t in range(L):
        expected = _with_a_mask(model, x[:, : t + 1], heads)
        torch.testing.assert_close(found[:, t], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.last(x, torch.full((B,), t)), expected, rtol=1e-10, atol=1e-12)


def test_initial_weights_are_truncated_normal() -> None:
    model = BERT4Rec(64, 20, 2, 2, 0.0, torch.Generator().manual_seed(0))
    values = torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() > 1])
    assert values.abs().max().item() <= 0.02
    assert values.std().item() == pytest.approx(0.02 * 0.5396, rel=0.02)  # N(0, 1) cut at one deviation
