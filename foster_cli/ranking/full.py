"""Full ranking of held-out cases by a recommender, in blocks: memory does not grow with cases x items.

In: `Cases` (C) and a recommender. Out: ranks (C,) float64, 1 is best, ties count half; how many items reach a top k.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.data.windows import Cases, Seen
from foster_cli.models.recommender import Recommender
from foster_cli.ops import rank_counts
from foster_cli.ops.precision import exact

Float = npt.NDArray[np.float64]


@torch.no_grad()
def after_last(read: Callable[[Tensor, Tensor], Tensor], cases: Cases, E: Tensor, batch: int = 1024) -> Tensor:
    """H (C, w), as wide as E (n, w): `read(history (B, l), last (B,))` of all cases, in batches; 0 is padding."""
    out = torch.empty(len(cases), E.shape[1], device=E.device, dtype=E.dtype)
    order = np.argsort(cases.lengths, kind="stable")  # batches of similar lengths have little padding
    for part in np.array_split(order, max(1, -(-len(order) // batch))):
        size = torch.from_numpy(cases.lengths[part]).to(E.device)
        history = torch.from_numpy(cases.history[part, : cases.lengths[part].max()]).to(E.device)
        out[torch.from_numpy(part).to(E.device)] = read(history.clamp_min(0), size - 1)
    return out


def last_outputs(model: Recommender, E: Tensor, cases: Cases, batch: int = 1024) -> Tensor:
    """H (C, d): the recommender's output after the last item of each history."""
    model.eval()
    return after_last(lambda history, last: model.last(E[history], last), cases, E, batch)


@torch.no_grad()
def ranks(H: Tensor, E: Tensor, target: npt.NDArray[np.int64], seen: Seen | None = None) -> Float:
    """Rank of each case's target among all n items but those of `seen`: 1 + items above it + half of those equal."""
    goal = torch.from_numpy(target).to(H.device)
    masked = None if seen is None else (torch.from_numpy(seen[0]).to(H.device), torch.from_numpy(seen[1]).to(H.device))
    with exact():
        greater, equal = rank_counts(H, E, goal, masked)
    return (1.0 + greater.double() + 0.5 * equal.double()).cpu().numpy()


def hide(scores: Tensor, seen: Seen, a: int = 0) -> None:
    """Set the scores (B, n) of what the cases a to a + B leave out to -inf, in place."""
    items, offsets = seen
    bounds = offsets[a : a + len(scores) + 1]
    row = torch.from_numpy(np.repeat(np.arange(len(scores)), np.diff(bounds))).to(scores.device)
    scores[row, torch.from_numpy(items[bounds[0] : bounds[-1]]).to(scores.device)] = -torch.inf


@torch.no_grad()
def covered(H: Tensor, E: Tensor, k: int, seen: Seen | None = None, block: int = 1 << 26) -> int:
    """Number of different items in the top k of at least one case."""
    hit = torch.zeros(len(E), dtype=torch.bool, device=E.device)
    rows = max(1, block // len(E))
    for a in range(0, len(H), rows):
        with exact():
            scores = H[a : a + rows] @ E.T
        if seen is not None:
            hide(scores, seen, a)
        hit[scores.topk(min(k, len(E)), dim=1).indices.flatten()] = True
    return int(hit.sum())


def answers(model: Recommender, cases: Cases) -> tuple[Tensor, Tensor]:
    """H (C, d) of a recommender after the last item of each history, and E (n, d) of all items, by which it scores."""
    E = model.eval().embed_all()
    return last_outputs(model, E, cases), E


def score_model(model: Recommender, cases: Cases) -> Float:
    """Ranks (C,) of a recommender on `cases`, among the items that they do not leave out."""
    return ranks(*answers(model, cases), cases.target, cases.seen)
