"""TD3's inner loss, written for speed: the mean of two KL terms, both from one causal forward pass.

In: Q (M, L, d) or, with all items, P (M, L, n) = softmax(Q V^T); a recommender; a `Draw` per step. Out: the loss whose
gradients `bptt` needs. The first term predicts the last position from all before it, the second a random position j
from those before it. Attention is causal, so one pass gives both outputs; its last block is computed only at these two
positions.

With all items, P is the same in every inner step of an outer step and is computed once. If the texts are frozen, a step
reads only P B (M L, w), with B (n, w) their vectors (`FrozenTextInner`). Otherwise it reads P and accumulates P's
gradient in place (`Data.gathering`): no step allocates another tensor of its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.baselines.bptt import AutogradInner, Data, Functional
from foster_cli.models.backbones.sasrec import Block, SASRec
from foster_cli.models.recommender import Recommender


@dataclass(frozen=True)
class Draw:
    """The random draws of one inner step. `position`: j, the target of the random prefix; `items`: S (s,), None: all;
    `rows`: the synthetic sequences; `seed`: that of the dropout masks."""

    position: int
    items: Tensor | None
    rows: slice
    seed: int


class _Product(torch.autograd.Function):
    """P E for P (r, n). It accumulates P's gradient in `Data`: X̄ E^T here, and X̄ Ē^T in `_Transposed`."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, E: Tensor, data: Data, rows: slice) -> Tensor:
        ctx.save_for_backward(P, E)
        ctx.data, ctx.rows = data, rows
        return P @ E

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        P, E = ctx.saved_tensors
        if ctx.data.gathering:
            ctx.data.gradient[ctx.rows].addmm_(grad, E.T)
        return None, _Transposed.apply(P, grad, ctx.data, ctx.rows) if ctx.needs_input_grad[1] else None, None, None


class _Transposed(torch.autograd.Function):
    """P^T X, the gradient of `_Product` to E, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, X: Tensor, data: Data, rows: slice) -> Tensor:
        ctx.save_for_backward(P, X)
        ctx.data, ctx.rows = data, rows
        return (X.T @ P).T  # twice as fast as P.T @ X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        P, X = ctx.saved_tensors
        if ctx.data.gathering:
            ctx.data.gradient[ctx.rows].addmm_(X, grad.T)
        return None, P @ grad if ctx.needs_input_grad[1] else None, None, None


class _Rows(torch.autograd.Function):
    """P[index] for P (r, n). It accumulates P's gradient in `Data`."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, index: Tensor, data: Data) -> Tensor:
        ctx.save_for_backward(index)
        ctx.data = data
        return P[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.data.gathering:
            ctx.data.gradient.index_add_(0, ctx.saved_tensors[0], grad)
        return None, None, None


@cache
def _causal(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size): 0 on and below the diagonal, -inf above."""
    return torch.full((size, size), -torch.inf, dtype=dtype, device=device).triu(1)


def _attend(block: Block, x: Tensor, at: list[int] | None) -> Tensor:
    """`block` on x (B, l, d), at positions `at` only (None: all); plain operations, twice differentiable."""
    b, size, d = x.shape
    y = block.norm1(x)
    mask = _causal(size, x.dtype, x.device)
    if at is not None:
        x, mask = x[:, at], mask[at]
        weight, bias = block.qkv.weight, block.qkv.bias
        q = F.linear(y[:, at], weight[:d], bias[:d])
        k, v = F.linear(y, weight[d:], bias[d:]).split(d, dim=-1)
    else:
        q, k, v = block.qkv(y).split(d, dim=-1)
    q, k, v = (z.reshape(b, -1, block.heads, d // block.heads).transpose(1, 2) for z in (q, k, v))
    scores = (q * (d // block.heads) ** -0.5) @ k.transpose(2, 3) + mask
    a = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(b, -1, d)
    return block.feed_forward(x + block.dropout(block.out(a)))


def outputs_at(model: Recommender, x: Tensor, at: list[int]) -> Tensor:
    """H (B, k, d) of X (B, l, d) at the k positions `at`; SASRec's last block is computed there only."""
    sequence = model.sequence
    if type(sequence) is not SASRec:
        return model(x)[:, at]
    x = sequence.dropout(sequence.placed(model.read(x)))
    blocks = list(sequence.blocks)
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        x = _attend(block, x, at if i == len(blocks) - 1 else None)
    return model.outputs(sequence.norm(x) if blocks else sequence.norm(x[:, at]))


def cross_entropy(goal: Tensor, H: Tensor, E: Tensor) -> Tensor:
    """Mean of -sum_i goal_i log softmax(H E^T)_i: KL(goal || .) plus the goal's entropy, a constant."""
    return -(goal * F.log_softmax(H @ E.T, dim=-1)).sum(-1).mean()


def _replay(model: Recommender, draw: Draw) -> None:
    """If dropout is on, seed it, so that each computation of this step uses the same masks."""
    if model.training:
        model.sequence.seed_dropout(draw.seed)


class SubsetInner(AutogradInner):
    """The inner loss over the items that each step draws; it accumulates the gradient to Q (M, L, d)."""

    def __init__(self, functional: Functional, Q: Tensor, V: Tensor, draws: list[Draw]) -> None:
        self.Q, self.V, self.draws = Data(Q), V, draws
        super().__init__(functional, [self.Q])

    def loss(self, model: Recommender, step: int) -> Tensor:
        """The mean of the two cross-entropies of step `step`."""
        draw = self.draws[step]
        assert draw.items is not None
        _replay(model, draw)
        Q = self.Q.value[draw.rows]
        P = torch.softmax(Q @ self.V[draw.items].T, dim=-1)
        E = model.embed(draw.items)
        targets = [draw.position, Q.shape[1] - 1]
        H = outputs_at(model, P[:, :-1] @ E, [t - 1 for t in targets])
        return cross_entropy(P[:, targets], H, E)

    def to_synthetic(self) -> Tensor:
        """The accumulated gradient to Q (M, L, d)."""
        return self.Q.gradient


def _through_softmax(P: Tensor, gradient: Tensor, V: Tensor) -> Tensor:
    """From the gradient to P (r, n) = softmax(Q V^T), the gradient to Q (r, d); overwrites `gradient`."""
    inside = torch.linalg.vecdot(gradient, P)
    gradient.sub_(inside[:, None]).mul_(P)
    return gradient @ V


class FrozenTextInner(AutogradInner):
    """The inner loss over all items, E = B W^T + b with frozen texts B (n, w); it accumulates the gradient to Y = P B.

    Rows of P sum to 1, so P E = Y W^T + b. H E^T equals (H W) B^T up to a constant per row, which the softmax ignores.
    A target's cross-entropy is thus logsumexp((H W) B^T) - y (H W), y its row of Y. No step computes P or E.
    """

    def __init__(self, functional: Functional, Q: Tensor, V: Tensor, draws: list[Draw], B: Tensor) -> None:
        self.V, self.B, self.draws, self.length = V, B, draws, Q.shape[1]
        self.P = torch.softmax(Q.detach().flatten(0, 1) @ V.T, dim=-1)
        self.Y = Data(self.P @ B)
        super().__init__(functional, [self.Y])

    def loss(self, model: Recommender, step: int) -> Tensor:
        """The mean of the two cross-entropies of step `step`."""
        draw, L, head = self.draws[step], self.length, model.head
        assert head is not None
        _replay(model, draw)
        Y = self.Y.value.view(-1, L, self.B.shape[1])[draw.rows]
        targets = [draw.position, L - 1]
        K = outputs_at(model, head(Y[:, :-1]), [t - 1 for t in targets]) @ head.weight
        return (torch.logsumexp(K @ self.B.T, dim=-1) - torch.linalg.vecdot(Y[:, targets], K)).mean()

    def to_synthetic(self) -> Tensor:
        """The accumulated gradient to Q (M, L, d)."""
        return _through_softmax(self.P, self.Y.gradient @ self.B.T, self.V).view(-1, self.length, self.V.shape[1])


class AllItemsInner(AutogradInner):
    """The inner loss over all items; it accumulates the gradient to P (M L, n), which is computed once."""

    def __init__(self, functional: Functional, Q: Tensor, V: Tensor, draws: list[Draw]) -> None:
        self.V, self.draws, self.length = V, draws, Q.shape[1]
        self.P = Data(torch.softmax(Q.detach().flatten(0, 1) @ V.T, dim=-1))
        self.items = torch.arange(len(V), device=V.device)
        super().__init__(functional, [self.P])

    def loss(self, model: Recommender, step: int) -> Tensor:
        """The mean of the two cross-entropies of step `step`."""
        draw, L = self.draws[step], self.length
        _replay(model, draw)
        rows = slice(draw.rows.start * L, draw.rows.stop * L)
        E = model.embed(self.items)
        X = _Product.apply(self.P.value[rows], E, self.P, rows).view(-1, L, E.shape[1])
        targets = [draw.position, L - 1]
        H = outputs_at(model, X[:, :-1], [t - 1 for t in targets])
        starts = torch.arange(rows.start, rows.stop, L, device=E.device)
        index = (starts[:, None] + torch.tensor(targets, device=E.device)).flatten()
        goal = _Rows.apply(self.P.value, index, self.P)
        return cross_entropy(goal, H.flatten(0, 1), E)

    def to_synthetic(self) -> Tensor:
        """The accumulated gradient, mapped through the softmax to Q (M, L, d). This overwrites it: call once."""
        found = _through_softmax(self.P.value.detach(), self.P.gradient, self.V)
        return found.view(-1, self.length, self.V.shape[1])


def make_inner(
    functional: Functional, Q: Tensor, V: Tensor, draws: list[Draw]
) -> SubsetInner | FrozenTextInner | AllItemsInner:
    """The inner loss of Q (M, L, d) on the items that `draws` name, in the fastest form for the recommender."""
    if draws[0].items is not None:
        return SubsetInner(functional, Q, V, draws)
    B = functional.model.frozen_texts()
    return AllItemsInner(functional, Q, V, draws) if B is None else FrozenTextInner(functional, Q, V, draws, B)
