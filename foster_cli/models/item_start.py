"""Where a student's item embeddings start: at the item factor V of the synthetic set it trains on.

In: a fresh recommender, V (n, w). Out: the same recommender, with item embeddings E = V, or as near as its texts allow.
The backbone stays as it is. No item is new to it then, also one that does not occur in training: V, and the targets of
the set, speak of all items.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.models.recommender import Recommender

#: The ridge of the least squares, as a share of the mean of the normal equations' diagonal.
RIDGE = 1e-3
#: The smallest sum of squares to divide by.
TINY = 1e-30
#: Items at a time.
BLOCK = 8192


def every_item(model: Recommender) -> None:
    """Give every item of `model` a vector of its own, without an offset of new items or items left on their text."""
    model.known = model.offset = None
    model.vector_dropout.p = 0.0


@torch.no_grad()
def start_at(model: Recommender, V: Tensor) -> float | None:
    """Start the item embeddings of `model` at V (n, w). Return the share of V's squares that they leave out, V being at
    the model's width; None if the model has nothing to start there.

    The table takes what the texts do not give, r = V - head(text). Without a table, the head is fitted by least
    squares, and biases are those of V. A text encoder whose layers learn, with neither, is left as it is.
    """
    E = resized(V, model.width, model.bias)
    parts = torch.arange(model.n, device=E.device).split(BLOCK)
    if model.table is not None:
        for part in parts:
            text = model.of_text(part)
            model.table.weight[part] = E[part] if text is None else E[part] - text
        return 0.0
    if model.head is None or model.text is None:
        return None
    cache = model.text.cache
    weight, bias, gram = least_squares((model.text(part) for part in parts), E, cache.gram)
    if cache.pooled is not None:  # the texts are frozen: the next student has the same
        cache.gram = gram
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)
    if model.bias:
        model.biases = E[:, -1].clone()
    left = sum(float((model.embed(part) - E[part]).square().sum()) for part in parts)
    return left / max(float(E.square().sum()), TINY)


def resized(V: Tensor, width: int, bias: bool) -> Tensor:
    """V (n, w) at another width: its principal directions if that is smaller, else with zeros. With `bias`, the last
    coordinate stays the last one. V itself if the widths are equal."""
    if V.shape[1] == width:
        return V
    body, last = (V[:, :-1], V[:, -1:]) if bias else (V, V[:, :0])
    room = width - last.shape[1]
    if body.shape[1] > room:
        X = body.double()
        body = (X @ torch.linalg.eigh(X.T @ X).eigenvectors.flip(1)[:, :room]).to(V)
    return torch.cat([F.pad(body, (0, room - body.shape[1])), last], dim=1)


def least_squares(
    blocks: Iterable[Tensor], E: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The linear map of text vectors X (n, w), given in blocks of rows, that is nearest to E (n, d): weight (d, w) and
    bias (d,), by ridge regression. Also the Gram matrix (w + 1, w + 1) of X and a column of ones, in double precision;
    it depends on X alone, and is not computed again where it is `known`."""
    gram, goal = known, None
    at = 0
    for X in blocks:
        A = F.pad(X.double(), (0, 1), value=1.0)
        e = E[at : at + len(A)].double()
        at += len(A)
        if known is None:
            gram = A.T @ A if gram is None else gram + A.T @ A
        goal = A.T @ e if goal is None else goal + A.T @ e
    assert gram is not None and goal is not None
    ridged = gram.clone()
    ridged.diagonal().add_(RIDGE * gram.diagonal().mean())
    found = torch.linalg.solve(ridged, goal).T.to(E)
    return found[:, :-1], found[:, -1], gram
