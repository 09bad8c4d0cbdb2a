"""Teachers behind one interface, and their mixture: an output vector after a history, and an item factor.

A `View` reads item vectors `inputs` (n, r), gives outputs H (B, l, w) after every position of hard or soft histories,
and scores items by H V^T. A mixture concatenates the members' outputs, each times its weight, and their factors, so
that its scores are the weighted sum of theirs. Models that count enter through a truncated factorisation of their
item-item matrix. In: trained recommenders, models that count, validation cases. Out: a `View`, and what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.data.windows import Cases
from foster_cli.models.recommender import Recommender
from foster_cli.neighbours.base import Neighbours
from foster_cli.neighbours.factorise import factorise
from foster_cli.neighbours.registry import CHOOSE
from foster_cli.ranking.full import after_last, ranks
from foster_cli.ranking.metrics import at_ten
from foster_cli.ranking.sample import SAMPLE, sample
from foster_cli.settings import TrainConfig
from foster_cli.train.anchors import full_teacher
from foster_cli.train.task import Task

Float = npt.NDArray[np.float64]
#: Members of a mixture: recommenders by how they know items, and models that count.
TRAINED, COUNTED = ("both", "text", "id"), ("item_knn", "ease", "tfidf")
MEMBERS = (*TRAINED, *COUNTED)
#: The width of a factorised item-item matrix.
RANK = 256
#: Weights of a further member that are tried, in units of the standard deviation of the scores of the mixture so far.
WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0)
#: Factors of all scores that are tried, so that their softmax is a fit distribution.
SCALES = tuple(2.0 ** (k / 2) for k in range(-8, 9))


@dataclass(frozen=True)
class View:
    """A teacher. `inputs` (n, r): what it reads for each item; `outputs`: X (B, l, r) -> H (B, l, w), causal; `V`
    (n, w): the item factor; `error`: the share of W's squares that a factorisation left out; `bias`: the last column of
    V is a bias of the items, and that of H is 1; `seconds`: of its training, whenever that was."""

    name: str
    inputs: Tensor
    V: Tensor
    outputs: Callable[[Tensor], Tensor]
    error: float = 0.0
    bias: bool = False
    seconds: float = 0.0

    def hard(self, items: Tensor) -> Tensor:
        """H (B, l, w) after every position of histories of items (B, l)."""
        return self.outputs(self.inputs[items])

    def soft(self, P: Tensor) -> Tensor:
        """H (B, l, w) after every position of soft histories P (B, l, n), a distribution over items each."""
        return self.outputs(P @ self.inputs)

    @torch.no_grad()
    def last(self, cases: Cases, batch: int = 1024) -> Tensor:
        """H (C, w) after the last item of each history."""

        def read(history: Tensor, last: Tensor) -> Tensor:
            return self.hard(history)[torch.arange(len(history), device=history.device), last]

        return after_last(read, cases, self.V, batch)


def recommender_view(name: str, model: Recommender) -> View:
    """A trained recommender: it reads and scores by its item embeddings."""
    E = model.eval().embed_all()
    return View(name, E, E, model, bias=model.bias)


def counting_view(name: str, model: Neighbours, device: torch.device, seed: int) -> View:
    """A model that counts: W = A B^T, inputs A, outputs sum_age decay^age a_(t - age), factor B; `RANK` wide."""
    found = factorise(model.weights, RANK, seed)
    weight = model.decay ** torch.arange(model.last, dtype=torch.float32, device=device)

    def outputs(X: Tensor) -> Tensor:
        l = X.shape[1]  # noqa: E741
        age = torch.arange(l, device=X.device)[:, None] - torch.arange(l, device=X.device)
        kernel = torch.where((age >= 0) & (age < model.last), weight[age.clamp(0, model.last - 1)], 0.0)
        return torch.einsum("ts,bsr->btr", kernel.to(X), X)

    A, B = (torch.from_numpy(x).to(device) for x in (found.A, found.B))
    return View(name, A, B, outputs, found.error)


def mixed(views: Sequence[View], weights: Sequence[float]) -> View:
    """The view whose scores are the sum of the views' scores times their weights. Its last column is their common bias,
    0 if none has any, so that a recommender's item vectors can start at V."""
    widths = [view.inputs.shape[1] for view in views]
    ends = [view.V.shape[1] - view.bias for view in views]

    def outputs(X: Tensor) -> Tensor:
        parts = zip(views, weights, X.split(widths, dim=-1), ends, strict=True)
        H = torch.cat([w * v.outputs(x)[..., :end] for v, w, x, end in parts], dim=-1)
        return F.pad(H, (0, 1), value=1.0)

    bias = torch.zeros_like(views[0].V[:, :1])
    for view, w, end in zip(views, weights, ends, strict=True):
        bias = bias + w * view.V[:, end:].sum(1, keepdim=True)
    inputs = torch.cat([view.inputs for view in views], dim=1)
    V = torch.cat([*[view.V[:, :end] for view, end in zip(views, ends, strict=True)], bias], dim=1)
    return View("+".join(view.name for view in views), inputs, V, outputs, max(view.error for view in views), True)


def member(name: str, task: Task, train: TrainConfig, seed: int) -> View:
    """The member `name` of `MEMBERS`: trained or read from the cache, or fitted with settings chosen on validation.

    Raises FosterError for a model that these data cannot have, as their modules say.
    """
    if name in TRAINED:
        teacher = full_teacher(task.known_by(name), train, seed, f"teacher {name}")
        return replace(recommender_view(name, teacher.model), seconds=teacher.seconds)
    chosen = CHOOSE[name](task.data, task.valid)
    return counting_view(name, chosen.model, task.device, seed)


@dataclass(frozen=True)
class Mixture:
    """The chosen `view`; the `weights` of its members by name, in their own scores; R@10 and N@10 over all validation
    cases of each member (`alone`) and of the mixture (`valid`)."""

    view: View
    weights: dict[str, float]
    alone: dict[str, dict[str, float]]
    valid: dict[str, float]

    def text(self) -> str:
        """What was chosen, in one line."""
        parts = " + ".join(f"{weight:.3g} {name}" for name, weight in self.weights.items())
        return f"teacher: {parts}; validation R@10 {self.valid['R@10']:.4f}"


def quality(H: Tensor, V: Tensor, cases: Cases) -> dict[str, float]:
    """R@10 and N@10 of scores H V^T."""
    return at_ten(ranks(H, V, cases.target, cases.seen))


def choose(views: Sequence[View], valid: Cases) -> Mixture:
    """The mixture that is best in R@10 + N@10 on validation.

    Members are added in the order of their own quality, each with the best of `WEIGHTS`, or left out where none helps.
    Then all scores are multiplied by the one of `SCALES` with the lowest cross-entropy of the targets, so that the
    softmax of the outputs is a distribution to learn from. The choice reads a sample of the cases.
    """
    some = sample(valid, "mixture", most=SAMPLE)
    outputs = {view.name: view.last(some) for view in views}
    alone = {view.name: quality(view.last(valid), view.V, valid) for view in views}
    order = sorted(views, key=lambda view: -sum(alone[view.name].values()))
    members, weights = [order[0]], [1.0]
    best, H, V = sum(quality(outputs[order[0].name], order[0].V, some).values()), outputs[order[0].name], order[0].V
    for view in order[1:]:
        unit = deviation(H, V) / max(deviation(outputs[view.name], view.V), 1e-12)
        tried = {w: torch.cat([H, w * unit * outputs[view.name]], 1) for w in WEIGHTS}
        both = torch.cat([V, view.V], 1)
        found = {w: sum(quality(x, both, some).values()) for w, x in tried.items()}
        top = max(found, key=lambda w: found[w])
        if found[top] > best:
            best, H, V = found[top], tried[top], both
            members, weights = [*members, view], [*weights, top * unit]
    scale = min(SCALES, key=lambda s: cross_entropy(H, V, some, s))
    weights = [scale * w for w in weights]
    view = mixed(members, weights)
    named = {member.name: float(w) for member, w in zip(members, weights, strict=True)}
    return Mixture(replace(view, name="+".join(named)), named, alone, quality(view.last(valid), view.V, valid))


def _blocks(H: Tensor, n: int) -> Iterator[tuple[int, Tensor]]:
    rows = max(1, (1 << 24) // n)
    for a in range(0, len(H), rows):
        yield a, H[a : a + rows]


def deviation(H: Tensor, V: Tensor) -> float:
    """The mean over cases of the standard deviation of their scores over the items."""
    return sum(float((h @ V.T).std(dim=1).sum()) for _, h in _blocks(H, len(V))) / len(H)


def cross_entropy(H: Tensor, V: Tensor, cases: Cases, scale: float) -> float:
    """The mean of -log softmax(scale H V^T) at the targets, in nats."""
    goal, total = torch.from_numpy(cases.target).to(H.device), 0.0
    for a, h in _blocks(H, len(V)):
        scores = scale * (h @ V.T)
        total -= float(scores.log_softmax(1).gather(1, goal[a : a + len(h), None]).sum())
    return total / len(H)


def trained(names: str, task: Task, train: TrainConfig, seed: int) -> dict[str, View]:
    """The recommenders among the members in `names`, such as `both,item_knn`."""
    return {name: member(name, task, train, seed) for name in dict.fromkeys(names.split(",")) if name in TRAINED}


def mixture_of(
    names: str, task: Task, train: TrainConfig, seed: int, known: Mapping[str, View] | None = None
) -> Mixture:
    """The mixture of the members in `names`. `known`: those that are `trained` already."""
    known = known or {}
    views = [known.get(name) or member(name, task, train, seed) for name in dict.fromkeys(names.split(","))]
    return choose(views, task.valid)
