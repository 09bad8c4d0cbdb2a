"""How training reads D~: which rows of Q are read, which are predicted, over which items, and how users are mixed.

In: Q (M, rows, d). Out: the pair (read, goal), each (M, l, d): after reading positions 0…t of a sequence the
recommender is to predict `goal[t]`.

- next (the paper, Eq. 18): rows = L. Each position is the goal of the one before it; reads are over S.
- own (ours): rows = 2L. Rows 0…L-1 are read, over the items R that they name; row L+t is the goal of position t,
  over S. What is read can then be sharp while what is predicted is soft.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """`own`: goals of their own. `items` R (r,): what an `own` set reads. `mix`: users mixed anew at every step."""

    own: bool = False
    items: Tensor | None = None
    mix: int = 0

    def to(self, device: torch.device) -> Reading:
        """The same with `items` on `device`."""
        return Reading(self.own, None if self.items is None else self.items.to(device), self.mix)

    def parts(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """(read, goal) of Q (M, rows, d)."""
        if self.own:
            half = Q.shape[1] // 2
            return Q[:, :half], Q[:, half:]
        return Q[:, :-1], Q[:, 1:]

    def predicted(self, Q: Tensor) -> Tensor:
        """The rows of Q that are distributions to predict: the goals, or all of them where read and goal are one."""
        return self.parts(Q)[1] if self.own else Q

    def read_over(self, S: Tensor) -> Tensor:
        """The items that reads are distributions over."""
        return S if self.items is None else self.items

    def draw(self, M: int, rng: torch.Generator) -> Tensor | None:
        """Fresh synthetic users, each on a line between two of the M: weights (mix, M); None without mixing.

        D~ is linear in its user factor, so a weighted mean of two users is one more synthetic user (mixup, Zhang
        et al. 2018, along U). Users are taken in turn, their partners and the weights uniformly.
        """
        if self.mix == 0:
            return None
        first = torch.arange(self.mix) % M
        second = (first + torch.randint(1, max(M, 2), (self.mix,), generator=rng)) % M
        share = torch.rand(self.mix, generator=rng)
        weights = torch.zeros(self.mix, M)
        row = torch.arange(self.mix)
        weights[row, first] += share
        weights[row, second] += 1.0 - share
        return weights


#: The paper's: the next position is the goal, no mixing.
PAPER = Reading()


def mixed(weights: Tensor | None, x: Tensor) -> Tensor:
    """(B, M), (M, l, d) -> (B, l, d): the weighted means; `x` itself where there are no weights."""
    return x if weights is None else torch.einsum("bm,mld->bld", weights.to(x), x)


@torch.no_grad()
def named_items(read: Tensor, V: Tensor) -> Tensor:
    """R (r,): the items, in order, that some row of `read` (M, l, d) gives most probability."""
    rows = read.reshape(-1, read.shape[-1])
    return torch.cat([(part @ V.T).argmax(-1) for part in rows.split(256)]).unique()


def make_reading(own: bool, mix: bool, Q: Tensor, V: Tensor) -> Reading:
    """The reading of a set that starts at Q: 2M mixed users a step with `mix`, R fixed from the start where `own`."""
    plain = Reading(own, None, 2 * len(Q) if mix else 0)
    return Reading(own, named_items(plain.parts(Q)[0], V), plain.mix) if own else plain
