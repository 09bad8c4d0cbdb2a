"""Per-sample gradients, LiSSA, influence and the stratified choice, each against what can be worked out directly.

To run it alone: `pytest tests/baselines/test_dealrec.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from foster_cli.baselines.dealrec import (
    DEALRecConfig,
    Influence,
    directional,
    hessian_vector,
    influence,
    largest_eigenvalue,
    lissa,
    stratified,
)
from foster_cli.baselines.gradients import gradient_norms
from foster_cli.baselines.surrogate import common_negatives
from foster_cli.console import SILENT
from foster_cli.errors import NotFinite
from foster_cli.models.losses import bce
from foster_cli.session import Session
from foster_cli.settings import ModelConfig
from foster_cli.train.task import make_task

KNOWN = torch.arange(14) % 5 != 3


def sampled_softmax(H: torch.Tensor, own: torch.Tensor, others: torch.Tensor, clash: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row's own item among it and the `others` that are not the same item."""
    up = (H * own).sum(-1)
    return -(up - torch.cat([up[:, None], (H @ others.T).masked_fill(clash, -torch.inf)], 1).logsumexp(1)).mean()


def loss_of(surrogate: Any, w: int, negatives: torch.Tensor) -> torch.Tensor:
    """One window's training loss, with the losses that training uses."""
    model = surrogate.model
    items = torch.tensor([i for i in surrogate.windows.items[w].tolist() if i >= 0])
    E = model.embed(items)
    H, e = model(E[None, :-1])[0], model.embed(negatives)
    if surrogate.train.loss == "bce":
        return torch.stack([bce(H, E[1:], x.expand_as(H)) for x in e]).mean()
    return sampled_softmax(H, E[1:], e, items[1:, None] == negatives[None])


@pytest.mark.parametrize("loss", ["softmax", "bce"])
@pytest.mark.parametrize(
    ("more", "items"),
    [
        ({"layers": 1}, {"head"}),
        ({"layers": 2}, {"head"}),
        ({"bias": True}, {"head"}),
        ({"bias": True, "known": KNOWN}, {"head", "offset"}),
        ({"items": "both", "bias": True, "known": KNOWN, "layers": 1}, {"head", "table", "offset"}),
    ],
)
def test_gradient_norms_against_autograd_one_by_one(
    surrogate_of: Callable[..., Any], loss: str, more: dict[str, Any], items: set[str]
) -> None:
    """`text` is over all that an item's embedding is made of, `total` over the sequence model too."""
    surrogate = surrogate_of(windows=70, loss=loss, **more)
    model = surrogate.model
    negatives = torch.tensor([0, 3, 5, 9, 13])
    text, total = gradient_norms(model, surrogate.windows, negatives, loss)
    for w in range(70):
        model.zero_grad()
        loss_of(surrogate, w, negatives).backward()
        square = {k: float(p.grad.square().sum()) for k, p in model.named_parameters() if p.grad is not None}
        own = {k: s for k, s in square.items() if not k.startswith("sequence.")}
        assert {k.split(".")[0] for k in own} == items and all(s > 0 for s in own.values())
        assert text[w] == pytest.approx(np.sqrt(sum(own.values())), rel=1e-9)
        assert total[w] == pytest.approx(np.sqrt(sum(square.values())), rel=1e-9)


def test_gradient_norms_where_the_encoder_learns(dataset: Any, mean_encoder: Any) -> None:
    config = ModelConfig(encoder=str(mean_encoder), train_layers="1", layers=1, items="text", bias=False, lexical=0)
    task = make_task(dataset, config, 8, Session(use_cache=False))
    model, windows = task.fresh(0), task.windows.take(np.arange(3))
    negatives = torch.tensor([0, 3, 29])
    text, total = gradient_norms(model, windows, negatives, "softmax")
    for w in range(3):
        items = torch.from_numpy(windows.items[w, : windows.lengths[w]])
        E = model.embed(torch.cat([items, negatives]))
        l = len(items)  # noqa: E741
        H = model(E[None, : l - 1])[0]
        model.zero_grad()
        sampled_softmax(H, E[1:l], E[l:], items[1:, None] == negatives[None]).backward()
        named = [(n, float(p.grad.square().sum())) for n, p in model.named_parameters() if p.grad is not None]
        assert total[w] == pytest.approx(np.sqrt(sum(s for _, s in named)), rel=1e-4)
        assert text[w] == pytest.approx(np.sqrt(sum(s for n, s in named if n.startswith("text."))), rel=1e-4)


def test_lissa_is_the_inverse_hessian_of_a_quadratic() -> None:
    rng = torch.Generator().manual_seed(0)
    A = torch.randn(6, 6, generator=rng).double()
    H = A @ A.T + 0.5 * torch.eye(6).double()
    v = torch.randn(6, generator=rng).double()
    top = largest_eigenvalue(lambda x: [H @ x[0]], [v], 200)
    assert top == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
    for damping in (0.0, 0.3):
        exact = torch.linalg.solve(H + damping * torch.eye(6).double(), v)
        errors = []
        for depth in (10, 100, 2000):
            (found,) = lissa(lambda x: [H @ x[0]], [v], depth, damping, 1.5 * top)
            errors.append(float((found - exact).norm() / exact.norm()))
        assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8
    with pytest.raises(NotFinite):
        lissa(lambda x: [-H @ x[0]], [v], 20000, 0.0, top)


def logistic(X: torch.Tensor, y: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Losses (n,), each with its share of an L2 term, so that the problem is strictly convex."""
    return torch.nn.functional.softplus(-y * (X @ theta)) + 0.05 * theta.square().sum()


def solve(X: torch.Tensor, y: torch.Tensor, theta: torch.Tensor, steps: int) -> torch.Tensor:
    """The minimum of the mean loss, by Newton from `theta`."""
    for _ in range(steps):
        g = torch.func.grad(lambda t: logistic(X, y, t).mean())(theta)
        theta = theta - torch.linalg.solve(torch.func.hessian(lambda t: logistic(X, y, t).mean())(theta), g)
    return theta


def test_influence_of_leaving_out_has_the_sign_and_size_of_retraining() -> None:
    """A held-out loss (at the optimum the training loss itself has no gradient): LiSSA against n retrainings."""
    rng = torch.Generator().manual_seed(1)
    X, held = torch.randn(240, 3, generator=rng).double(), torch.randn(40, 3, generator=rng).double()
    true = torch.tensor([1.0, -2.0, 0.5]).double()
    y, z = (torch.sign(x @ true + torch.randn(len(x), generator=rng).double()) for x in (X, held))
    theta = solve(X, y, torch.zeros(3).double(), 20)
    v = torch.func.grad(lambda t: logistic(held, z, t).mean())(theta)

    def product(h: list[torch.Tensor]) -> list[torch.Tensor]:
        return hessian_vector(lambda p: logistic(X, y, p[0]).mean(), [theta], h)

    H = torch.func.hessian(lambda t: logistic(X, y, t).mean())(theta)
    torch.testing.assert_close(product([v])[0], H @ v)
    direction = lissa(product, [v], 600, 0.0, 1.5 * largest_eigenvalue(product, [v]))
    torch.testing.assert_close(direction[0], torch.linalg.solve(H, v))
    found = directional(lambda p: logistic(X, y, p[0]), [theta], direction)[:40] / 240
    changes = []
    for i in range(40):
        keep = torch.arange(240) != i
        retrained = solve(X[keep], y[keep], theta, 4)
        changes.append(float(logistic(held, z, retrained).mean() - logistic(held, z, theta).mean()))
    actual = torch.tensor(changes).double()
    large = actual.abs() > 0.1 * actual.abs().max()
    assert int(large.sum()) > 8 and bool((found.sign() == actual.sign())[large].all())
    assert float(torch.corrcoef(torch.stack([found, actual]))[0, 1]) > 0.99
    torch.testing.assert_close(found[large], actual[large], rtol=0.3, atol=0.0)


@pytest.mark.parametrize("more", [{}, {"items": "both", "bias": True, "known": KNOWN}])
def test_influence_on_the_surrogate_against_an_explicit_inverse(
    surrogate_of: Callable[..., Any], more: dict[str, Any]
) -> None:
    """The whole way on a tiny SASRec: batches of all windows, enough steps, heavy damping (H is not definite)."""
    surrogate = surrogate_of(windows=6, width=4, layers=1, **more)
    negatives = torch.tensor([1, 4, 8])
    # a batch holds all six windows; with damping of 3 x the top eigenvalue H + damping is safely definite
    config = DEALRecConfig(depth=400, batch=6, damping=3.0)
    found = influence(surrogate, negatives, config, np.random.default_rng(0), SILENT)
    own = Influence(surrogate, negatives)
    sizes = [p.numel() for p in own.at]
    flat = torch.cat([p.flatten() for p in own.at])
    losses = own.losses(surrogate.windows)

    def of(x: torch.Tensor) -> torch.Tensor:
        return losses([part.view_as(p) for part, p in zip(x.split(sizes), own.at, strict=True)])

    with sdpa_kernel(SDPBackend.MATH):
        J = torch.autograd.functional.jacobian(of, flat)
        H = torch.autograd.functional.hessian(lambda x: of(x).mean(), flat)
    # six windows in the influence's own order of draws are all six: the eigenvalue is the full Hessian's
    v = J.mean(0)
    x, top = v, 0.0
    for _ in range(10):
        x = H @ (x / x.norm())
        top = float(x.norm())
    exact = J @ torch.linalg.solve(H + 3.0 * top * torch.eye(len(H)).double(), v)
    np.testing.assert_allclose(found, exact.numpy(), rtol=1e-6, atol=1e-12)
    for w in range(6):
        assert losses(own.at)[w].item() == pytest.approx(loss_of(surrogate, w, negatives).item())


def test_strata_by_hand() -> None:
    # 20 scores: the two highest are noise; 0…1 in four ranges of 1, 2, 5 and 10 samples
    score = np.r_[[9.0, 8.0], [0.0], [0.3, 0.4], np.linspace(0.55, 0.7, 5), np.linspace(0.8, 1.0, 10)]
    for seed in range(10):
        chosen = stratified(score, 10, 4, 0.1, np.random.default_rng(seed))
        where = np.digitize(score[chosen], [0.25, 0.5, 0.75])
        # budget 10 over 4: min(1, 2) = 1; 9 over 3: min(2, 3) = 2; 7 over 2: min(5, 3) = 3; the rest, 4
        assert np.bincount(where, minlength=4).tolist() == [1, 2, 3, 4]
        assert not set(chosen.tolist()) & {0, 1} and len(set(chosen.tolist())) == 10
    first = [stratified(score, 10, 4, 0.1, np.random.default_rng(s)).tolist() for s in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


@pytest.mark.parametrize("seed", range(20))
def test_strata_always_fill_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    score = rng.choice([0.0, 0.1, 0.5, 1.0], size) if seed % 2 else rng.exponential(size=size)
    M = int(rng.integers(1, size + 1))
    chosen = stratified(score, M, int(rng.integers(1, 30)), 0.1, rng)
    assert len(chosen) == len(set(chosen.tolist())) == M


@pytest.mark.parametrize("negatives", [6, None])
def test_negatives_are_items_of_training(surrogate_of: Callable[..., Any], negatives: int | None) -> None:
    surrogate = surrogate_of(negatives=negatives, known=KNOWN)
    drawn = common_negatives(surrogate.model, surrogate.train, np.random.default_rng(0)).tolist()
    trained = [i for i in range(14) if i not in (3, 8, 13)]
    assert set(drawn) <= set(trained) and len(drawn) == len(set(drawn)) == (negatives or len(trained))


def test_negatives_are_different_items(surrogate_of: Callable[..., Any]) -> None:
    surrogate = surrogate_of(negatives=512)
    drawn = common_negatives(surrogate.model, surrogate.train, np.random.default_rng(0))
    assert sorted(drawn.tolist()) == list(range(14))
