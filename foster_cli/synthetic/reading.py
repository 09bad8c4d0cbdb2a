"""How training reads D~: which rows of Q are inputs, which are targets, over which items, and how users are mixed.

In: Q (M, rows, d). Out: the inputs `read` and the targets `goal`, each (M, l, d): after reading positions 0…t of a
sequence, the recommender is trained to predict `goal[t]`.

- next (the paper, Eq. 18): rows = L. Each position is the target of the one before it; inputs are over S.
- own (ours): rows = 2L. Rows 0…L-1 are the inputs, over the items R that they name at the start. Row L+t is the
  separate target of position t, over S. Inputs can then be sharp while targets are soft.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foster_cli.synthetic.subset import Subset


@dataclass(frozen=True)
class Reading:
    """`own`: separate targets. `items` R (r,): the items of the inputs, if `own`. `mix`: mixed users per step."""

    own: bool = False
    items: Tensor | None = None
    mix: int = 0

    def to(self, device: torch.device) -> Reading:
        """The same reading with `items` on `device`."""
        return Reading(self.own, None if self.items is None else self.items.to(device), self.mix)

    def parts(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (read, goal) of Q (M, rows, d)."""
        if self.own:
            half = Q.shape[1] // 2
            return Q[:, :half], Q[:, half:]
        return Q[:, :-1], Q[:, 1:]

    def predicted(self, Q: Tensor) -> Tensor:
        """The rows of Q that are targets: its second half if targets are separate, else all rows."""
        return self.parts(Q)[1] if self.own else Q

    def read_over(self, S: Tensor) -> Tensor:
        """The items that inputs are distributions over: R if there is one, else S."""
        return S if self.items is None else self.items

    def draw(self, M: int, rng: torch.Generator) -> Tensor | None:
        """`mixing` (mix, M): the weights of fresh users, each a mean of two of the M; None without mixing.

        D~ is linear in its user factor, so a weighted mean of two users is another synthetic user (mixup, Zhang et al.
        2018, along U). The first users are taken in turn; their partners and the weights are uniformly random.
        """
        if self.mix == 0:
            return None
        first = torch.arange(self.mix) % M
        second = (first + torch.randint(1, max(M, 2), (self.mix,), generator=rng)) % M
        share = torch.rand(self.mix, generator=rng)
        mixing = torch.zeros(self.mix, M)
        row = torch.arange(self.mix)
        mixing[row, first] += share
        mixing[row, second] += 1.0 - share
        return mixing


#: The paper's reading: the next position is the target, and users are not mixed.
PAPER = Reading()


def mixed(mixing: Tensor | None, x: Tensor) -> Tensor:
    """(B, M), (M, l, d) -> (B, l, d): the weighted means of users; `x` itself if `mixing` is None."""
    return x if mixing is None else torch.einsum("bm,mld->bld", mixing.to(x), x)


@dataclass(frozen=True)
class SyntheticSet:
    """D~ as a recommender trains on it: Q (M, rows, d), item factor V (n, d), how S is drawn, how Q is read."""

    Q: Tensor
    V: Tensor
    subset: Subset
    reading: Reading = PAPER


@torch.no_grad()
def named_items(read: Tensor, V: Tensor) -> Tensor:
    """R (r,), sorted: the items that are the most probable one in some row of `read` (M, l, d)."""
    rows = read.reshape(-1, read.shape[-1])
    return torch.cat([(part @ V.T).argmax(-1) for part in rows.split(256)]).unique()


def make_reading(own: bool, mix: bool, Q: Tensor, V: Tensor) -> Reading:
    """The reading of a set that starts at Q. `mix`: 2M mixed users per step. `own`: R is fixed to the inputs' items."""
    plain = Reading(own, None, 2 * len(Q) if mix else 0)
    return Reading(own, named_items(plain.parts(Q)[0], V), plain.mix) if own else plain
