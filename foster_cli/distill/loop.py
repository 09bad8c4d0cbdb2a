"""Algorithm 2: the outer loop. Its lines stand in `outer_step` in the paper's order.

In: a `Teacher` with its anchors, V (n, d), real windows, a starting point. Out: a `Distilled` with the best
D~ by validation (step 0 included), the log table and the validations. No second derivative is taken.
Between steps, all that decides what follows goes to the problem's `Store`, if it has one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.checkpoint import Resumable, Store, load_optimizer, numpy_state, set_numpy
from foster_cli.config import DistillConfig, StudentConfig, TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Cases, Windows
from foster_cli.distill.alignment import alignment_loss
from foster_cli.distill.barrier import direction, multiplier
from foster_cli.distill.inner import Subset, fit_synthetic, inner_loss, inner_steps, uniform_subset
from foster_cli.distill.synthetic import Synthetic
from foster_cli.errors import FosterError, NotFinite
from foster_cli.models.recommender import Factory, Recommender
from foster_cli.ops.reading import PAPER, Reading
from foster_cli.runtime import adamw, generator, stream_seed
from foster_cli.train.anchors import Teacher
from foster_cli.train.fit import batches, real_batch
from foster_cli.train.micro import Micro, outer_real


@dataclass
class Distilled:
    """`factors` of the best D~; `best_step`; `log`: a row per outer step; `checks`: a row per validation."""

    factors: dict[str, Tensor]
    best_step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    checks: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    last: dict[str, Any] | None = None
    """Where the last step left everything, for more steps from there (`kept_state`); None where that cannot be."""


@dataclass
class State:
    """What changes: phi with its optimizer, D~ with its own, the generators of the run. A `Resumable`."""

    phi: Recommender
    phi_optimizer: torch.optim.Optimizer
    synthetic: Synthetic
    synthetic_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    numpy_rng: np.random.Generator

    def state_dict(self) -> dict[str, Any]:
        """All of it, phi's dropout included."""
        return {
            "phi": self.phi.learnables(), "dropout": self.phi.sequence.source[0].get_state(),
            "phi_optimizer": self.phi_optimizer.state_dict(), "synthetic": self.synthetic.factors(),
            "synthetic_optimizer": self.synthetic_optimizer.state_dict(), "rng": self.rng.get_state(),
            "numpy_rng": numpy_state(self.numpy_rng),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to `state`, into the same parameters. Without phi in it (see `without_phi`) phi stays as it is."""
        if "phi" in state:
            self.phi.restore(state["phi"])
            self.phi.sequence.source[0].set_state(state["dropout"])
            load_optimizer(self.phi_optimizer, state["phi_optimizer"])
        self.synthetic.restore(state["synthetic"])
        load_optimizer(self.synthetic_optimizer, state["synthetic_optimizer"])
        self.rng.set_state(state["rng"])
        set_numpy(self.numpy_rng, state["numpy_rng"])


@dataclass(frozen=True)
class Problem:
    """What stays: the teacher M, V (n, d), the real windows, how S is drawn, the settings, how D~ is read.

    `store`: where the run's state is kept between steps, and found again; None: nowhere. `micro`: how many real windows
    are worked on at once.
    """

    teacher: Teacher
    fresh: Factory
    V: Tensor
    windows: Windows
    subset: Subset
    config: DistillConfig
    train: TrainConfig
    seed: int
    reading: Reading = PAPER
    store: Store | None = None
    micro: Micro = field(default_factory=Micro)


def kmeans_subset(V: Tensor, size: int, seed: int) -> Subset:
    """S fixed to the `size` items nearest to k-means centres of V (Table 3's KM)."""
    from sklearn.cluster import MiniBatchKMeans

    X = V.cpu().double().numpy()
    distance = MiniBatchKMeans(size, n_init=3, random_state=seed % 2**31).fit(X).transform(X)
    fixed = torch.from_numpy(np.unique(distance.argmin(axis=0))).to(V.device)
    return lambda rng: fixed


def make_subset(config: DistillConfig, V: Tensor, seed: int, student: StudentConfig | None = None) -> Subset:
    """How S is drawn: fresh at every step (as many as `student` takes, for its training), or fixed by k-means."""
    if config.subset == "kmeans":
        if config.items_per_step is None or config.items_per_step >= len(V):
            raise FosterError("--subset kmeans needs --items-per-step below the catalogue's size", "use --subset fly")
        return kmeans_subset(V, config.items_per_step, stream_seed(seed, "kmeans"))
    return uniform_subset(len(V), (student or config).items_per_step, V.device)


def phi_optimizer(problem: Problem, phi: Recommender) -> torch.optim.Optimizer:
    """A fresh optimizer of phi's outer steps."""
    rate = problem.config.model_lr
    return adamw(phi.groups(rate, rate), weight_decay=problem.train.weight_decay)


def resets(config: DistillConfig, k: int) -> bool:
    """Whether step k (from 0) begins with a reset of phi: lines 6 and 7."""
    return k == 0 or (config.reset != "never" and k % config.reset_every == 0)


def reset(problem: Problem, state: State, step: int) -> None:
    """phi <- a random anchor (or a fresh model), with a fresh optimizer (3.2)."""
    if problem.config.reset == "random":
        state.phi.restore(problem.fresh(stream_seed(problem.seed, "reset", step)).learnables())
    else:
        chosen = int(torch.randint(len(problem.teacher.anchors), (1,), generator=state.rng))
        state.phi.restore(problem.teacher.anchors[chosen])
    state.phi_optimizer = phi_optimizer(problem, state.phi)


def outer_loss(problem: Problem, state: State, Q: Tensor, S: Tensor) -> tuple[Tensor, dict[str, float]]:
    """L_out = L_BCE(phi) + alpha |h_phi - h_real|^2 + lambda L_DH(D~) (Eq. 11, 16, 17), and its parts."""
    c = problem.config
    index = batches(problem.windows, c.real_batch, state.numpy_rng)[0]
    real = real_batch(
        problem.windows.take(index),
        state.phi.n,
        c.outer_loss,
        problem.train.negatives,
        state.numpy_rng,
        Q.device,
        state.phi.sequence.predicted,
    )
    total, base, feature = outer_real(state.phi, problem.teacher.model, real, c.outer_loss, c.alpha, problem.micro)
    parts = {"outer_real": base, "outer_feature": feature, "outer_dh": 0.0}
    if c.dh_weight > 0:
        dh = alignment_loss(problem.teacher.model, problem.V, Q, S, c.dh_items, c.dh_form, state.rng, problem.reading)
        total, parts["outer_dh"] = total + c.dh_weight * dh, dh.item()
    return total, parts


def gradient(loss: Tensor, over: list[torch.nn.Parameter]) -> list[Tensor]:
    """d loss over each parameter; zeros where it does not depend on one."""
    found = torch.autograd.grad(loss, over, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(over, found, strict=True)]


def outer_step(problem: Problem, state: State, k: int) -> dict[str, float]:
    """Lines 5 to 12 of Algorithm 2. Returns the row of the log."""
    c, V, reading = problem.config, problem.V, problem.reading
    began = time.perf_counter()
    if resets(c, k):  # lines 6, 7
        reset(problem, state, k)
    Q = state.synthetic()
    ahead = state.phi.clone()  # line 8: phi^T, T inner steps from phi, a fresh S each
    optimizer = adamw(ahead.groups(c.inner_lr, c.inner_lr), weight_decay=problem.train.weight_decay)
    inner_steps(ahead, Q.detach(), V, problem.subset, c.inner_steps, optimizer, state.rng, reading)

    S, weights = problem.subset(state.rng), reading.draw(len(Q), state.rng)  # line 9: q on one S
    phi = [p for p in state.phi.parameters() if p.requires_grad]
    over = phi + list(state.synthetic.parameters())
    before = inner_loss(state.phi, Q, V, S, reading, weights)
    for p in ahead.parameters():
        p.requires_grad_(False)
    after = inner_loss(ahead, Q, V, S, reading, weights)  # sg phi^T: gradient to D~ alone
    q = before - after
    grad_q = gradient(q, over)

    Q = state.synthetic()
    f, parts = outer_loss(problem, state, Q, S)  # line 10
    grad_f = gradient(f, over)
    weight = multiplier(grad_f, grad_q, c.eta, c.barrier, q.item(), before.item())
    step = direction(grad_f, grad_q, weight)  # line 11
    for p, g in zip(over, step, strict=True):
        p.grad = g
    state.phi_optimizer.step()  # line 12
    state.synthetic_optimizer.step()

    with torch.no_grad():
        log_p = torch.log_softmax(reading.predicted(Q.detach()) @ V[S].T, dim=-1)
        entropy = float(-(log_p.exp() * log_p).sum(-1).mean())
    norm = [
        math.sqrt(sum(float(g.double().square().sum()) for g in part)) for part in (step[: len(phi)], step[len(phi) :])
    ]
    return {
        "step": float(k + 1), "inner_before": before.item(), "inner_after": after.item(), "q": q.item(),
        "q_sign": float(np.sign(q.item())), "lambda": weight, **parts, "entropy": entropy,
        "gradient_phi": norm[0], "gradient_synthetic": norm[1], "seconds": time.perf_counter() - began,
    }  # fmt: skip


#: Scores D~'s Q (M, L, d): validation R@10, a mean over fresh models with the same seeds at every call.
Check = Callable[[Tensor], dict[str, float]]


def fresh_check(
    fresh: Factory,
    V: Tensor,
    subset: Subset,
    valid: Cases,
    student: StudentConfig,
    seed: int,
    count: int,
    console: Console,
    reading: Reading = PAPER,
) -> Check:
    """Trains `count` fresh models on D~ and validates them on all cases, with common random numbers."""

    def check(Q: Tensor) -> dict[str, float]:
        fits = []
        for i in range(count):
            own = stream_seed(seed, "check", i)
            label = f"fresh model {i + 1} of {count} on D~"
            fits.append(fit_synthetic(fresh(own), Q, V, subset, valid, student, own, console, label, reading))
        values = [fit.best_value for fit in fits]
        return {
            "R@10": float(np.mean(values)),
            "N@10": float(np.mean([max(fit.history, key=lambda row: row["R@10"])["N@10"] for fit in fits])),
            "sd": float(np.std(values)),
            "student_steps": float(np.mean([f.best for f in fits])),
        }

    return check


def kept_state(out: Distilled, number: int, state: Resumable) -> dict[str, Any]:
    """The tree of a run after `number` steps: where it stands, and what it has found so far."""
    found = {"factors": out.factors, "best_step": out.best_step, "log": out.log, "checks": out.checks}
    return {"step": number, "found": found, "state": state.state_dict()}


def outer_loop(
    problem: Problem,
    synthetic: Synthetic,
    step: Callable[[int], dict[str, float]],
    check: Check,
    console: Console = SILENT,
    state: Resumable | None = None,
) -> Distilled:
    """K times `step(k)`, which moves `synthetic`; the best validated D~, step 0 included.

    `step` returns a row of the log with `outer_real` and `entropy`. NaN or Inf ends the loop with the best D~ so far.
    `state`, all that `step` changes, is kept in `problem.store` and put back from there first; with None, neither.
    """
    c, store = problem.config, problem.store if state is not None else None
    out, done = Distilled(synthetic.factors()), 0
    kept = store.read("outer") if store is not None else None
    if kept is not None and state is not None:
        state.load_state_dict(kept["state"])
        out, done = Distilled(**kept["found"]), kept["step"]
        console.note(f"going on after outer step {done} of {c.steps}")

    def keep(number: int) -> None:
        if store is not None and state is not None:
            store.write({"outer": kept_state(out, number, state)})

    def validate(number: int) -> None:
        found = check(synthetic().detach())
        if not out.checks or found["R@10"] > max(row["R@10"] for row in out.checks):
            out.factors, out.best_step = synthetic.factors(), number
        out.checks.append({"step": float(number), **found})
        console.event(event="check", step=number, **found)
        console.note(
            f"step {number}: D~ trains fresh models to validation R@10 {found['R@10']:.4f} (best: step {out.best_step})"
        )
        keep(number)

    def is_due(number: int) -> bool:
        return number % c.check_every == 0 or number == c.steps

    if not out.checks:
        validate(0)
    unread = done > 0 and is_due(done) and out.checks[-1]["step"] < done  # it ended between a step and its validation
    with console.progress("distilling", c.steps) as bar:
        for k in range(done - int(unread), c.steps):
            try:
                if k >= done:
                    row = step(k)
                    bad = [name for name, value in row.items() if not math.isfinite(value)]
                    if bad or not all(torch.isfinite(p).all() for p in synthetic.parameters()):
                        raise NotFinite(f"{', '.join(bad) or 'D~'} became NaN or Inf")
                    out.log.append(row)
                    console.event(event="step", **row)
                    q = f"q {row['q']:+.4f} " if "q" in row else ""
                    bar.at(k + 1, f"{q}L_out {row['outer_real']:.3f} entropy {row['entropy']:.2f}")
                    if is_due(k + 1) or (store is not None and store.due()):
                        keep(k + 1)
                if is_due(k + 1):
                    validate(k + 1)
            except NotFinite as error:
                out.stopped = f"step {k + 1}: {error.message}; the best D~ so far is kept"
                console.note(out.stopped)
                break
    return out


def without_phi(problem: Problem, out: Distilled, state: State) -> dict[str, Any] | None:
    """The tree that more steps go on from. Where the next one resets phi, phi and its optimizer are left out."""
    if out.stopped is not None:
        return None
    tree = kept_state(out, problem.config.steps, state)
    if resets(problem.config, problem.config.steps):
        for name in ("phi", "dropout", "phi_optimizer"):
            del tree["state"][name]
    return tree


def distill(
    problem: Problem,
    synthetic: Synthetic,
    check: Check,
    console: Console = SILENT,
) -> Distilled:
    """K outer steps of Algorithm 2 from `synthetic`; the best validated D~."""
    c = problem.config
    phi = problem.fresh(stream_seed(problem.seed, "phi"))
    state = State(
        phi, phi_optimizer(problem, phi), synthetic,
        adamw(synthetic.parameters(), lr=c.synthetic_lr, weight_decay=c.synthetic_weight_decay),
        generator(problem.seed, "distill"), np.random.default_rng(stream_seed(problem.seed, "outer")),
    )  # fmt: skip
    out = outer_loop(problem, synthetic, lambda k: outer_step(problem, state, k), check, console, state)
    out.last = without_phi(problem, out, state)
    return out
