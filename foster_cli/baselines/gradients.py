"""The exact norm of each window's loss gradient, at about the cost of one pass over the windows.

In: a surrogate and windows (B). Out: `text` (B,), over the trainable weights between an item's text and its embedding,
and `total` (B,), over all trainable weights.

For linear layers the gradients themselves are not computed (Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, "ghost
clipping"). For y_t = W a_t + b and delta_t = dl/dy_t of one window: dl/dW = sum_t delta_t a_t^T, so
|dl/dW|^2 = sum_{t,t'} (delta_t . delta_t')(a_t . a_t') and dl/db = sum_t delta_t. The gradients of layer norms and
positions are small and computed directly. The head is used twice: for inputs, e = W x + b (delta = dl/de, a = x), and
for scores, l_tc = h_t . e_c (dl/dW = sum_t h_t (sum_c dl/dl_tc x_c)^T and dl/db = sum_t h_t sum_c dl/dl_tc).

Other recommenders (a vector per item, trainable text layers, another sequence model) use autograd window by window:
exact too, but slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.baselines.surrogate import Samples, by_length, sample_losses, samples
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Windows
from foster_cli.models.backbones.sasrec import SASRec
from foster_cli.models.recommender import Recommender

Float = npt.NDArray[np.float64]
#: Windows per batch; its B x l x K logits take a few MiB.
BATCH = 64


def gradient_norms(
    model: Recommender, windows: Windows, negatives: Tensor, loss: str, console: Console = SILENT
) -> tuple[Float, Float]:
    """The norms `text` and `total` (W,) of all windows, with the same `negatives` (K,) for each."""
    model.eval()
    linear = model.frozen_texts() is not None and type(model.sequence) is SASRec
    if not linear:
        console.note("gradients are taken window by window: this recommender is not linear layers alone")
    out = np.empty((2, len(windows)))
    done = 0
    with console.progress("gradient norms", len(windows)) as bar:
        for part in by_length(windows, BATCH if linear else 1):
            batch = samples(windows.take(part), negatives)
            squares = linear_squares(model, batch, negatives, loss) if linear else one_by_one(
                model, batch, negatives, loss
            )  # fmt: skip
            out[:, part] = torch.stack(squares).clamp_min(0).sqrt().double().cpu().numpy()
            done += len(part)
            bar.at(done)
    return out[0], out[1]


def one_by_one(model: Recommender, batch: Samples, negatives: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Squared norms (B,) for `text` and `total`, by plain autograd on one window after the other."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = []
    for b in range(len(batch.items)):
        one = Samples(batch.items[b : b + 1], batch.valid[b : b + 1], batch.clash[b : b + 1])
        length = one.items.shape[1]
        E = model.embed(torch.cat([one.items[0], negatives]))
        H = model(E[None, : length - 1])
        losses = sample_losses((H * E[None, 1:length]).sum(-1), H @ E[length:].T, one, loss)
        grads = torch.autograd.grad(losses[0], [p for _, p in named], allow_unused=True)
        square = [torch.zeros(()).to(losses) if g is None else g.square().sum() for g in grads]
        text = [s for (name, _), s in zip(named, square, strict=True) if not name.startswith("sequence.")]
        found.append((torch.stack(text).sum(), torch.stack(square).sum()))
    return torch.stack([t for t, _ in found]), torch.stack([s for _, s in found])


@contextmanager
def watched(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Collects (layer, its input, its output) of every linear layer and layer norm that runs in the context."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    handles = [m.register_forward_hook(lambda m, args, y: seen.append((m, args[0], y))) for m in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def outer_squares(left: Tensor, right: Tensor) -> Tensor:
    """|sum_t left_t right_t^T|^2 (B,) of (B, l, p) and (B, l, q)."""
    return ((left @ left.mT) * (right @ right.mT)).sum((1, 2))


def layer_squares(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    """Squared gradient norm (B,) of a layer's own weights, from its input and the gradient of its output (B, l, …)."""
    if isinstance(layer, nn.LayerNorm):
        own = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
        return (delta * own).sum(1).square().sum(-1) + delta.sum(1).square().sum(-1)
    return outer_squares(delta, a) + delta.sum(1).square().sum(-1)


def linear_squares(model: Recommender, batch: Samples, negatives: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Squared norms (B,) for `text` and `total`, for SASRec with a head on frozen texts."""
    head, text_encoder, sequence = model.head, model.text, model.sequence
    assert head is not None and text_encoder is not None and isinstance(sequence, SASRec)
    with torch.no_grad():
        size = batch.items.shape
        texts = text_encoder(batch.items.flatten()).view(*size, -1)  # (B, l+1, w)
        texts_negative = text_encoder(negatives)  # (K, w)
        E, E_negative = head(texts), head(texts_negative)
    X = model.read(E[:, :-1]).clone().requires_grad_()
    with watched(sequence) as seen:
        H = model.outputs(sequence(X))
    own, others = (H * E[:, 1:]).sum(-1), H @ E_negative.T
    total = sample_losses(own, others, batch, loss).sum()
    dX, d_own, d_others, *deltas = torch.autograd.grad(total, [X, own, others, *[y for _, _, y in seen]])
    with torch.no_grad():
        scored = d_own[..., None] * texts[:, 1:] + d_others @ texts_negative  # sum_c dl/dl_tc x_c
        d_input = model.read(dX)  # a bias is not read: only the positions have a gradient there
        bias = d_input.sum(1) + ((d_own + d_others.sum(-1))[..., None] * H).sum(1)
        left, right = torch.cat([d_input, H], 1), torch.cat([texts[:, :-1], scored], 1)
        text = outer_squares(left, right) + bias.square().sum(-1)
        squares = text + (dX / sequence.scale).square().sum((1, 2))  # positions: x scale + position_t
        for (layer, a, _), delta in zip(seen, deltas, strict=True):
            squares = squares + layer_squares(layer, a, delta)
    return text, squares
