"""The offset of new items: the bias shared by all items that do not occur in training, chosen on validation.

A new item has no vector and is never a negative, so training does not say how its scores compare with those of other
items. In: a recommender with an `offset`, validation cases. Out: the offset, set in the recommender. It maximises R@10
with warm and new targets weighted by the shares expected in the test. After training, the recall of new targets must be
no worse than that of the untrained recommender with its own offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from foster_cli.data.windows import Cases
from foster_cli.models.recommender import Recommender
from foster_cli.ops.precision import exact
from foster_cli.ranking.full import hide, last_outputs

Float = npt.NDArray[np.float64]
#: The offsets to choose from, in nats: the unit of scores that were trained by cross-entropy.
OFFSETS = np.arange(-20, 81) / 10.0
#: The most scores in memory at once.
BLOCK = 1 << 24


@torch.no_grad()
def above(model: Recommender, cases: Cases, k: int = 10) -> tuple[Float, Float]:
    """For each case, among the items that it does not leave out and with an offset of 0: how many items of the target's
    kind (in training, or new) score above it, and half of those with its score (C,); by how much the best k items of
    the other kind do (C, k), falling.
    """
    assert model.offset is not None and model.known is not None
    model.offset.zero_()
    E = model.eval().embed_all()
    H, goal = last_outputs(model, E, cases), torch.from_numpy(cases.target).to(E.device)
    order = torch.argsort(~model.known, stable=True)  # the items in training first, so that either kind is one slice
    place, count = torch.argsort(order), int(model.known.sum())
    places = place.cpu().numpy()
    E, goal, known = E[order], place[goal], model.known[goal].cpu().numpy()
    own = np.zeros(len(cases))
    other = np.full((len(cases), k), -np.inf)
    rows = max(1, BLOCK // len(E))
    for kind in (True, False):
        chosen = np.flatnonzero(known == kind)
        for part in np.split(chosen, range(rows, len(chosen), rows)):
            index = torch.from_numpy(part).to(E.device)
            with exact():
                scores = H[index] @ E.T
            score = scores.gather(1, goal[index, None])
            seen = cases.take(part).seen
            if seen is not None:
                hide(scores, (places[seen[0]], seen[1]))
                scores.scatter_(1, goal[index, None], score)
            same, rest = (scores[:, :count], scores[:, count:]) if kind else (scores[:, count:], scores[:, :count])
            own[part] = ((same > score).sum(1) + 0.5 * ((same == score).sum(1) - 1)).cpu().numpy()
            best = rest.topk(min(k, rest.shape[1]), dim=1).values - score
            other[part, : best.shape[1]] = best.double().cpu().numpy()
    return own, other


def new_targets(model: Recommender, cases: Cases) -> npt.NDArray[np.bool_]:
    """(C,) whether the target does not occur in training."""
    assert model.known is not None
    return ~model.known.cpu().numpy()[cases.target]


@dataclass
class OffsetChoice:
    """Chooses the offset of a recommender on `cases`. `new` (C,): see `new_targets`; `share`: the share of new targets
    that is expected in the test. The first call is for the untrained recommender and chooses freely; `floor` is the
    recall of new targets that it reached. On a sample of the cases the floor is set by `hold`, so that its noise does
    not decide the untrained recommender's offset."""

    cases: Cases
    new: npt.NDArray[np.bool_]
    share: float
    floor: float | None = None

    @classmethod
    def of(cls, model: Recommender, cases: Cases) -> OffsetChoice | None:
        """None if the recommender has no offset, or all targets are of one kind."""
        if model.offset is None:
            return None
        new = new_targets(model, cases)
        if new.all() or not new.any():
            return None
        return cls(cases, new, float(new.mean()) if cases.new_share is None else cases.new_share)

    def recalls(self, model: Recommender) -> tuple[Float, Float]:
        """The recall at ten of new targets, and of the others, with each of `OFFSETS`. Leaves the offset at 0."""
        own, other = above(model, self.cases)
        sign = np.where(self.new, -1.0, 1.0)
        hit = np.stack([(own + (other + sign[:, None] * o > 0).sum(1)) <= 9 for o in OFFSETS])  # (offsets, C)
        return hit[:, self.new].mean(1), hit[:, ~self.new].mean(1)

    def hold(self, model: Recommender) -> None:
        """Make the recall of new targets that the untrained `model` reaches with its offset the floor."""
        assert model.offset is not None
        offset = float(model.offset.detach())
        cold, _ = self.recalls(model)
        self.floor = float(cold[np.abs(OFFSETS - offset).argmin()])

    def __call__(self, model: Recommender) -> dict[str, float]:
        """Set the offset; return it, and R@10 weighted by the expected shares."""
        cold, warm = self.recalls(model)
        value = self.share * cold + (1.0 - self.share) * warm
        least = 0.0 if self.floor is None else min(self.floor, cold.max())
        best = int(np.where(cold >= least, value, -1.0).argmax())
        if self.floor is None:
            self.floor = float(cold[best])
        with torch.no_grad():
            assert model.offset is not None
            model.offset.fill_(float(OFFSETS[best]))
        return {"offset": float(OFFSETS[best]), "weighted": float(value[best])}
