"""TD3: its inner loss against a plain writing of it, its gradient by finite differences, its steps and settings.

To run it alone: `pytest tests/baselines/test_td3.py`.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from problems import make_problem
from spying import spy
from torch import Tensor
from torch.nn import functional as F

from foster_cli.baselines import td3
from foster_cli.baselines.bptt import Adam, Functional, plain_steps
from foster_cli.baselines.td3 import TD3Config, TD3State, check_td3, distill_td3, td3_state, td3_step
from foster_cli.baselines.td3_inner import AllItemsInner, Draw, FrozenTextInner, SubsetInner, make_inner, outputs_at
from foster_cli.distill.algorithm2 import Problem
from foster_cli.errors import FosterError
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import generator
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, ModelConfig, TrainConfig
from foster_cli.synthetic.factors import from_tensor
from foster_cli.synthetic.reading import make_reading
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.anchors import Teacher
from foster_cli.train.task import make_task

N, D, M, L = 11, 8, 4, 6
#: The recommender that is the default: a vector per item beside its text, a bias, and one for all new items.
BOTH: dict[str, Any] = {"items": "both", "bias": True, "known": torch.arange(N) % 4 != 1}
SMALL = TD3Config(
    rank_user=3, rank_time=3, inner_steps=6, window=4, prefix_from=2, real_batch=16, first_anchor=1, chunk=7
)


@pytest.fixture
def subset_problem(problem: Problem) -> Problem:
    config = replace(problem.config, items_per_step=6)
    return replace(problem, config=config, subset=uniform_subset(N, 6, torch.device("cpu")))


@pytest.fixture
def both_problem(problem: Problem, small_model: Callable[..., Any]) -> Problem:
    """With the default recommender."""
    return make_problem(small_model, N, D, problem.windows, problem.config, (6, 7, 8), **BOTH)


def _q(seed: int = 0) -> Tensor:
    return torch.randn(M, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _plain_loss(model: Any, Q: Tensor, V: Tensor, draw: Draw) -> Tensor:
    """The two terms one after the other: a pass over each prefix, the whole model, KL by torch."""
    S = torch.arange(N) if draw.items is None else draw.items
    P = torch.softmax(Q[draw.rows] @ V[S].T, -1)
    E, total = model.embed(S), 0.0
    for target in (draw.position, L - 1):
        H = model(P[:, :target] @ E)[:, -1]
        predicted = F.log_softmax(H @ E.T, -1)
        total = total + F.kl_div(predicted, P[:, target], reduction="batchmean") / 2
    return total  # type: ignore[return-value]


def _draws(all_items: bool) -> list[Draw]:
    rng = generator(0, "draws")
    items = [None if all_items else torch.randperm(N, generator=rng)[:6] for _ in range(4)]
    rows = [slice(0, 3), slice(3, 4)] * 2
    return [Draw(p, s, r, 0) for p, s, r in zip((2, 5, 3, 4), items, rows, strict=True)]


def _inner(kind: type, functional: Functional, Q: Tensor, V: Tensor, draws: list[Draw]) -> Any:
    return kind(functional, Q, V, draws, *([functional.model.frozen_texts()] if kind is FrozenTextInner else []))


@pytest.mark.parametrize(
    ("kind", "more"),
    [(kind, more) for kind in (AllItemsInner, FrozenTextInner, SubsetInner)
     for more in ({"layers": 1}, {"layers": 2}, {"bias": True})] + [(AllItemsInner, BOTH), (SubsetInner, BOTH)],
)  # fmt: skip
def test_inner_gradient_and_pullback_are_those_of_the_plain_loss(
    small_model: Callable[..., Any], kind: type, more: dict[str, Any]
) -> None:
    model, V = small_model(N, D, L, seed=1, **more), small_model(N, D, L, seed=5).embed_all()
    functional, draws = Functional(model), _draws(kind is not SubsetInner)
    inner = _inner(kind, functional, _q(), V, draws)
    weights = functional.flat()
    leaf, expected = _q().requires_grad_(), torch.zeros(M, L, D, dtype=torch.float64)
    for step, draw in enumerate(draws):
        leaves = functional.leaves(weights)
        value = functional(leaves, lambda m, draw=draw: _plain_loss(m, leaf, V, draw))
        g = torch.autograd.grad(value, leaves, create_graph=True)
        flat = torch.cat([x.reshape(-1) for x in g])
        torch.testing.assert_close(inner.gradient(weights, step), flat.detach(), rtol=1e-10, atol=1e-12)
        cotangent = torch.randn(len(flat), generator=generator(step, "c"), dtype=torch.float64)
        back = torch.autograd.grad(flat, [*leaves, leaf], cotangent)
        expected += back[-1]
        to_weights = inner.pullback(weights, step, cotangent)
        torch.testing.assert_close(to_weights, torch.cat([x.reshape(-1) for x in back[:-1]]), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(inner.to_synthetic(), expected, rtol=1e-9, atol=1e-11)


def test_gradient_is_gathered_where_item_embeddings_are_frozen(small_model: Callable[..., Any]) -> None:
    """X̄ E^T must reach P, and X̄ W must reach P B, though E itself needs no gradient."""
    model, V = small_model(N, D, L, seed=1), small_model(N, D, L, seed=5).embed_all()
    model.head.requires_grad_(False)
    functional, found = Functional(model), []
    for kind, items in ((AllItemsInner, None), (FrozenTextInner, None), (SubsetInner, torch.arange(N))):
        inner = _inner(kind, functional, _q(), V, [Draw(3, items, slice(0, M), 0)])
        inner.pullback(functional.flat(), 0, torch.ones_like(functional.flat()))
        found.append(inner.to_synthetic())
    assert found[0].abs().max() > 1e-4
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-9, atol=1e-12)


def test_the_form_follows_the_recommender(small_model: Callable[..., Any]) -> None:
    """Items known by their ids, or whose layers learn, are no linear map of something frozen."""
    frozen, ids = small_model(N, D, L), Recommender(N, ModelConfig(items="id", width=D), L, 0).double()
    V, draws = frozen.embed_all(), _draws(True)
    functional = Functional(frozen)
    quick, plain = make_inner(functional, _q(), V, draws), AllItemsInner(functional, _q(), V, draws)
    assert type(quick) is FrozenTextInner
    for step in range(4):
        assert quick.value(functional.flat(), step) == pytest.approx(plain.value(functional.flat(), step), rel=1e-12)
    assert type(make_inner(Functional(ids), _q(), V, draws)) is AllItemsInner
    assert type(make_inner(Functional(small_model(N, D, L, **BOTH)), _q(), V, draws)) is AllItemsInner
    assert type(make_inner(Functional(small_model(N, D, L, bias=True)), _q(), V, draws)) is FrozenTextInner
    assert type(make_inner(Functional(frozen), _q(), V, _draws(False))) is SubsetInner


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_outputs_at_positions_are_the_models(small_model: Callable[..., Any], layers: int, bias: bool) -> None:
    model = small_model(N, D, L, layers=layers, bias=bias)
    x = _q()
    torch.testing.assert_close(outputs_at(model, x, [2, 5]), model(x)[:, [2, 5]], rtol=1e-10, atol=1e-12)


def test_another_sequence_model_goes_through_its_own_forward(small_model: Callable[..., Any]) -> None:
    class Other(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)

    model = small_model(N, D, L)
    model.sequence = Other()
    torch.testing.assert_close(outputs_at(model, _q(), [0, 2]), _q().cumsum(1)[:, [0, 2]])


def _outer_value(problem: Problem, settings: TD3Config, model: Any, index: np.ndarray) -> Tensor:
    """L_out, window by window."""
    windows, total = problem.windows.take(index), 0.0
    for row, size in zip(windows.items, windows.lengths, strict=True):
        items = torch.from_numpy(row[: size - 1])[None]
        E = model.embed(torch.arange(N))
        h = model(E[items])[0, -1]
        base = F.cross_entropy(h @ E.T, torch.tensor(row[size - 1]))
        real = problem.teacher.model(problem.teacher.model.embed(items[0])[None])[0, -1]
        total = total + base + settings.feature * (h - real).square().mean()
    return total / len(index)  # type: ignore[operator,return-value]


def test_what_a_step_holds_is_free_at_its_end(problem: Problem) -> None:
    """P is the largest tensor there is: no cycle of references may keep it until the garbage collector comes."""
    functional = Functional(problem.fresh(1))
    gc.disable()
    try:
        inner = AllItemsInner(functional, _q(), problem.V, [Draw(3, None, slice(0, M), 0)])
        inner.pullback(functional.flat(), 0, inner.gradient(functional.flat(), 0))
        held = weakref.ref(inner.P.value)
        del inner
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("form", ["all", "subset", "all both"])
def test_a_steps_gradient_by_finite_differences(
    problem: Problem, subset_problem: Problem, both_problem: Problem, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Draws recorded from one step, no warm-up; L_out as a function of U, T, G by plain steps of the plain loss."""
    problem = {"all": problem, "subset": subset_problem, "all both": both_problem}[form]
    settings = replace(SMALL, inner_steps=4, clip=1e9, inner_lr=0.01, inner_batch=3)
    seen: dict[str, Any] = {}
    steps, batch = td3.draw_steps, td3.next_batch
    monkeypatch.setattr(td3, "draw_steps", lambda *a: seen.setdefault("draws", steps(*a)))
    monkeypatch.setattr(td3, "next_batch", lambda *a: seen.setdefault("index", batch(*a)))
    Q = _q(4)
    state = td3_state(problem, settings, from_tensor(Q, 2, 3)[0])
    factors = {k: v.clone() for k, v in state.synthetic.factors().items()}
    row = td3_step(problem, settings, state, 0)
    found = {k: p.grad.clone() for k, p in state.synthetic.named_parameters() if p.grad is not None}
    model = problem.fresh(9)
    functional = Functional(model)
    adam, start = Adam(settings.inner_lr, settings.inner_weight_decay), state.start

    class Plain:
        def __init__(self, Q: Tensor) -> None:
            self.Q = Q

        def gradient(self, weights: Tensor, step: int) -> Tensor:
            leaves = functional.leaves(weights)
            value = functional(leaves, lambda m: _plain_loss(m, self.Q, problem.V, seen["draws"][step]))
            return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, leaves)])

    def value(factors: dict[str, Tensor]) -> float:
        Q = torch.einsum("ma,tb,abd->mtd", factors["U"], factors["T"], factors["G"])
        end = plain_steps(Plain(Q), adam, adam.start(start), 0, 4)  # type: ignore[arg-type]
        functional.set(end.weights)
        with torch.no_grad():
            return _outer_value(problem, settings, model, seen["index"]).item()

    assert row["outer_real"] + row["outer_feature"] == pytest.approx(value(factors), rel=1e-9)
    for seed, name in enumerate("UTG"):
        line = torch.randn(factors[name].shape, generator=generator(seed, "line"), dtype=torch.float64)
        ends = [value({**factors, name: factors[name] + sign * 1e-7 * line}) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-7 == pytest.approx((found[name] * line).sum().item(), rel=1e-4, abs=1e-9)


def test_dropout_is_replayed(problem: Problem) -> None:
    """With dropout, a step's gradient is a function of its draw, and the pullback that gradient's derivative."""
    model = problem.fresh(1)
    model.train()
    functional = Functional(model)
    inner = AllItemsInner(functional, _q(), problem.V, [Draw(3, None, slice(0, M), seed) for seed in (1, 2)])
    weights = functional.flat()
    first = inner.gradient(weights, 0)
    assert not torch.allclose(first, inner.gradient(weights, 1))
    assert torch.equal(first, inner.gradient(weights, 0))
    c, line = (torch.randn(len(weights), generator=generator(i, "l"), dtype=torch.float64) for i in (0, 1))
    ends = [inner.gradient(weights + sign * 1e-6 * line, 0) @ c for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-6
    assert slope.item() == pytest.approx((inner.pullback(weights, 0, c) @ line).item(), rel=1e-5)
    row = td3_step(problem, replace(SMALL, dropout=True), td3_state(problem, SMALL), 0)
    assert all(map(math.isfinite, row.values()))


def _run(problem: Problem, settings: TD3Config, steps: int = 2) -> tuple[TD3State, list[dict[str, float]]]:
    state = td3_state(problem, settings)
    return state, [td3_step(problem, settings, state, k) for k in range(steps)]


@pytest.mark.parametrize("form", ["all", "subset", "sampled"])
def test_steps_depend_on_the_seed_alone(problem: Problem, subset_problem: Problem, form: str) -> None:
    problem = problem if form == "all" else subset_problem
    settings = replace(SMALL, outer_items="sampled" if form == "sampled" else "all")
    (a, rows), (b, again), (c, _) = (_run(p, settings) for p in (problem, problem, replace(problem, seed=1)))
    for x, y in zip(rows, again, strict=True):
        assert {**x, "seconds": 0.0} == {**y, "seconds": 0.0}
        assert all(map(math.isfinite, x.values()))
        assert 0 <= x["warm_up"] <= 2
    fa, fb, fc = (s.synthetic.factors() for s in (a, b, c))
    assert all(torch.equal(fa[k], fb[k]) for k in "UTG")
    assert not torch.equal(fa["G"], fc["G"])


def test_outer_steps_lower_the_outer_loss(problem: Problem) -> None:
    """On one start and one batch, without warm-up, so that the loss compared is one function of D~."""
    problem = replace(problem, teacher=replace(problem.teacher, anchors=problem.teacher.anchors[:1]))
    settings = replace(SMALL, inner_steps=8, window=8, real_batch=32, lr=0.03, prefix_from=5)
    _, rows = _run(replace(problem, config=replace(problem.config, steps=20)), settings, 12)
    total = [row["outer_real"] + row["outer_feature"] for row in rows]
    assert total[1] < total[0] and total[2] < total[1] and total[-1] < 0.98 * total[0]


def test_learner_is_reset_once_per_epoch_or_carried_on(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: dict[str, list[Tensor]] = {"step": [], "epoch": []}
    for reset, seen in starts.items():
        with monkeypatch.context() as patch:
            spy(patch, td3, "rat_bptt", lambda given, seen=seen: seen.append(given["weights"].clone()))
            _run(problem, replace(SMALL, reset=reset), 4)  # 32 windows in batches of 16: two steps an epoch
    anchors = []
    for state in problem.teacher.anchors[1:]:  # from first_anchor on
        model = problem.fresh(0)
        model.restore(state)
        anchors.append(Functional(model).flat())
    for seen in starts.values():
        assert all(any(torch.equal(seen[i], a) for a in anchors) for i in (0, 2))
    assert torch.equal(starts["step"][1], starts["step"][0])
    assert not torch.equal(starts["epoch"][1], starts["epoch"][0])


def test_draws_cover_the_prefixes_and_the_sequences_in_order(problem: Problem) -> None:
    settings = replace(SMALL, inner_batch=3)
    draws = td3.draw_steps(problem, settings, 200, True, generator(0, "d"))
    assert {d.position for d in draws} == {2, 3, 4, 5}
    assert [d.rows for d in draws[:3]] == [slice(0, 3), slice(3, 4), slice(0, 3)]
    assert all(d.items is None for d in draws)
    late = td3.draw_steps(problem, replace(settings, prefix_from=50), 9, True, generator(0, "d"))
    assert {d.position for d in late} == {L - 1}


def test_gradient_is_clipped_and_the_rate_follows_a_cosine(problem: Problem) -> None:
    state = td3_state(problem, replace(SMALL, clip=1e-3))
    rows = [td3_step(problem, replace(SMALL, clip=1e-3), state, k) for k in range(3)]
    grads = [p.grad for p in state.synthetic.parameters() if p.grad is not None]
    assert math.sqrt(sum(float(g.square().sum()) for g in grads)) <= 1e-3 + 1e-9 < rows[-1]["gradient_synthetic"]
    for k, row in enumerate(rows):
        assert row["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi * k / 3)) / 2)


def test_single_precision_agrees(problem: Problem, small_model: Callable[..., Any]) -> None:
    double, _ = _run(problem, replace(SMALL, clip=1e9), 1)
    teacher = small_model(N, D, L, seed=5, double=False)
    anchors = [{k: v.float() for k, v in a.items()} for a in problem.teacher.anchors]
    single = replace(
        problem, teacher=replace(problem.teacher, model=teacher, anchors=anchors), V=problem.V.float(),
        fresh=lambda seed: small_model(N, D, L, seed=seed % 1000, double=False),
    )  # fmt: skip
    state, _ = _run(single, replace(SMALL, clip=1e9), 1)
    for p, q in zip(double.synthetic.parameters(), state.synthetic.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and q.dtype == torch.float32
        assert (p.grad - q.grad).norm() < 0.01 * p.grad.norm()


def test_distill_keeps_the_best_by_validation(problem: Problem) -> None:
    values = iter([0.1, 0.3, 0.2])
    seen = []

    def check(Q: Tensor, step: int) -> dict[str, float]:
        seen.append(Q.clone())
        return {"R@10": next(values), "N@10": 0.0}

    out = distill_td3(problem, SMALL, check)
    assert out.best_step == 2 and [c["step"] for c in out.checks] == [0.0, 2.0, 3.0] and len(out.log) == 3
    Q = torch.einsum("ma,tb,abd->mtd", *(out.factors[k] for k in "UTG"))
    torch.testing.assert_close(Q, seen[1])
    assert Q.shape == (M, L, D) and out.stopped is None


def test_nan_ends_it_with_the_best_so_far(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    original = td3.td3_step
    monkeypatch.setattr(
        td3, "td3_step", lambda p, s, state, k: {**original(p, s, state, k), **({"outer_real": math.nan} if k else {})}
    )
    out = distill_td3(problem, SMALL, lambda Q, step: {"R@10": 0.1, "N@10": 0.0})
    assert out.stopped is not None and out.stopped.startswith("step 2: outer_real") and len(out.log) == 1


@pytest.mark.parametrize(
    ("change", "name"),
    [({"outer_items": "few"}, "outer_items"), ({"reset": "never"}, "reset"), ({"window": 0}, "window"),
     ({"inner_steps": 3}, "inner_steps"), ({"lr": -1.0}, "lr"), ({"chunk": 0}, "chunk"), ({"inner_batch": 0}, "batch"),
     ({"clip": math.nan}, "clip"), ({"first_anchor": -1}, "first_anchor"), ({"rank_user": 0}, "rank_user")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(FosterError, match=name):
        check_td3(replace(SMALL, **change), L)


def test_goals_of_their_own_and_length_one_are_refused(problem: Problem) -> None:
    own = replace(problem, reading=make_reading(True, False, torch.cat([_q(), _q()], 1), problem.V))
    with pytest.raises(FosterError, match="goals of its own"):
        distill_td3(own, SMALL, lambda Q, step: {"R@10": 0.0})
    with pytest.raises(FosterError, match="length"):
        check_td3(SMALL, 1)


def test_every_setting_says_what_it_is() -> None:
    lines = open(td3.__file__, encoding="utf-8").read().split("\n")  # noqa: PTH123, SIM115
    for f in dataclasses.fields(TD3Config):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {f.name}: "))
        assert lines[at + 1].strip().startswith('"""'), f.name


@pytest.mark.parametrize("layers", ["none", "1", "all"])
@pytest.mark.parametrize("items", [None, 12])
def test_text_encoders_frozen_or_learning(dataset: Any, mean_encoder: Any, layers: str, items: int | None) -> None:
    """On the tiny BERT: the pullback is a symmetric Hessian, also through the encoder's layers; a whole step runs."""
    model = ModelConfig(encoder=str(mean_encoder), train_layers=layers, width=None, layers=1)
    task = make_task(dataset, model, 8, Session(use_cache=False))
    teacher, n = task.fresh(0), len(dataset.catalogue)
    config = DistillConfig(budget=M, length=8, steps=3, items_per_step=items, check_every=2, targets="next", mix=False)
    problem = Problem(
        Teacher(teacher, [task.fresh(1).learnables()], [], {}, {}, 0.0, 0.0, False), task.fresh, teacher.embed_all(),
        task.windows, uniform_subset(n, items, task.device), config, TrainConfig(negatives=6), 0,
    )  # fmt: skip
    functional = Functional(task.fresh(2))
    Q = torch.randn(M, 8, teacher.width, generator=generator(0, "q"))
    drawn = problem.subset(generator(0, "s")) if items else None
    kind = SubsetInner if items else AllItemsInner
    inner, weights = kind(functional, Q, problem.V, [Draw(4, drawn, slice(0, M), 0)]), functional.flat()
    a, b = (torch.randn(len(weights), generator=generator(i, "c")) for i in (0, 1))
    ab, ba = inner.pullback(weights, 0, a) @ b, inner.pullback(weights, 0, b) @ a
    assert abs(ab) > 1e-3 and ab.item() == pytest.approx(ba.item(), rel=1e-2, abs=1e-3)
    row = td3_step(problem, replace(SMALL, outer_items="sampled" if items else "all"), td3_state(problem, SMALL), 0)
    assert all(map(math.isfinite, row.values())) and row["gradient_synthetic"] > 0
