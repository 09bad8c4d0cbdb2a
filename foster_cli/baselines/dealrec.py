"""DEALRec (Lin et al. 2024, SIGIR; code Linxyhaha/DEALRec): influence + lambda x effort, selected by score strata.

The influence of window z is (grad L)^T H^-1 grad l(z), with L the surrogate's mean training loss as a function of its
sequence model. Leaving z out of n windows moves the optimum by H^-1 grad l(z) / n, so L rises by the influence / n.
(`tests/baselines` checks this sign against retraining; the authors' code has the same.) H^-1 grad L is computed by
LiSSA (Agarwal et al. 2017; Koh and Liang 2017) with Hessians of small batches:

    h_0 = v,  h_j = v + h_{j-1} - (H_j h_{j-1} + damping h_{j-1}) / scale,  result h_J / scale.

The result tends to (H + damping)^-1 v. J steps multiply the error along an eigenvalue mu of H by
(1 - (mu + damping) / scale)^J. It grows where mu < -damping, and a surrogate that stopped early has such mu: on Games,
the eigenvalues are -0.14 to +1 times the largest (1.6). The damping is therefore at least 1.5 times the size of the
lowest eigenvalue, and otherwise a quarter of the largest; power iteration on one batch gives both. The quarter is near
the authors' value (damping 0.01 at scale 25, that is 0.25). The scale is 1.5 times the largest eigenvalue plus the
damping. With the default J = 100, less than 1e-6 of the error remains at mu = 0, and 0.2 % at Games' lowest. The
authors use J = 5,000 with single samples. A result that is not finite raises NotFinite.

The effort of z is the norm of its loss gradient over the trainable text-encoder weights (the head, for frozen texts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from foster_cli.baselines.gradients import gradient_norms
from foster_cli.baselines.surrogate import Surrogate, by_length, common_negatives, sample_losses, samples
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Int, Windows
from foster_cli.errors import NotFinite

Float = npt.NDArray[np.float64]
Vector = list[Tensor]
#: Losses (B,) of a batch as a function of the parameters.
Losses = Callable[[Vector], Tensor]


@dataclass(frozen=True)
class DEALRecConfig:
    """Settings of DEALRec; the authors' values where they state one."""

    effort: float = 0.5
    """lambda, weight of the effort (0.1 to 0.5 in the paper)."""
    strata: int = 25
    """k, number of equal ranges of the score (25 to 50)."""
    hard_prune: float = 0.1
    """Share of the windows, those with the highest scores, that is excluded as noise."""
    depth: int = 100
    """J, steps of LiSSA."""
    batch: int = 32
    """Windows in the batch whose Hessian one step uses."""
    damping: float = 0.25
    """Damping added to H, as a share of its largest eigenvalue (more if the lowest one is very negative)."""
    mean_windows: int = 8192
    """Maximum number of windows for grad L (a random sample if there are more)."""


def hessian_vector(loss: Callable[[Vector], Tensor], at: Vector, v: Vector) -> Vector:
    """H v of a scalar loss at `at`, by differentiating <grad loss, v>."""
    at = [p.detach().requires_grad_() for p in at]
    first = torch.autograd.grad(loss(at), at, create_graph=True)
    product = sum(((g * x).sum() for g, x in zip(first, v, strict=True)), torch.zeros(()).to(v[0]))
    return list(torch.autograd.grad(product, at))


def norm(v: Vector) -> float:
    """|v|."""
    return float(sum(float(x.double().square().sum()) for x in v)) ** 0.5


def largest_eigenvalue(product: Callable[[Vector], Vector], start: Vector, steps: int = 10) -> float:
    """The largest |eigenvalue| of a symmetric matrix, by power iteration on its product with a vector."""
    v, size = start, 0.0
    for _ in range(steps):
        length = max(norm(v), 1e-30)
        v = product([x / length for x in v])
        size = norm(v)
    return size


def lissa(product: Callable[[Vector], Vector], v: Vector, depth: int, damping: float, scale: float) -> Vector:
    """Approximates (H + damping)^-1 v from products H h, each on a fresh batch. Raises NotFinite if it diverges."""
    h = v
    for _ in range(depth):
        h = [x + y - (z + damping * y) / scale for x, y, z in zip(v, h, product(h), strict=True)]
    if not all(bool(torch.isfinite(x).all()) for x in h):
        raise NotFinite("DEALRec's influence became NaN or Inf", "train the surrogate longer: --epochs, --patience")
    return [x / scale for x in h]


def directional(losses: Losses, at: Vector, direction: Vector) -> Tensor:
    """<grad l_z, direction> of each of the losses (B,), in one forward pass (a Jacobian-vector product)."""
    found: Tensor = torch.func.jvp(lambda *p: losses(list(p)), tuple(at), tuple(direction))[1]
    return found


def scaled(x: Float) -> Float:
    """Min-max scaled to 0…1; zeros if all values are equal."""
    return (x - x.min()) / max(float(x.max() - x.min()), 1e-30)


def stratified(score: Float, M: int, strata: int, hard_prune: float, rng: np.random.Generator) -> Int:
    """Indices (M,) of the coverage-enhanced selection.

    Excludes the share `hard_prune` of highest scores (fewer if M would not remain) and splits the range of the rest
    into `strata` equal ones. From each non-empty stratum, the smallest first, it draws min(its size, floor(remaining
    budget / remaining strata)) at random. This always fills the budget, because later strata are at least as large.
    """
    order = np.argsort(-score, kind="stable")
    kept = order[min(int(hard_prune * len(score)), len(score) - M) :]
    place = np.minimum((scaled(score[kept]) * strata).astype(np.int64), strata - 1)
    groups = sorted((kept[place == s] for s in range(strata) if (place == s).any()), key=len)
    chosen: list[Int] = []
    left = M
    for i, group in enumerate(groups):
        share = min(len(group), left // (len(groups) - i))
        chosen.append(rng.choice(group, share, replace=False))
        left -= share
    return np.concatenate(chosen)


class Influence:
    """Losses of windows as functions of the surrogate's sequence model; item embeddings are constants here."""

    def __init__(self, surrogate: Surrogate, negatives: Tensor) -> None:
        self.model = surrogate.model.eval()
        self.loss = surrogate.train.loss
        self.E, self.negatives = surrogate.model.embed_all(), negatives
        self.names = [name for name, _ in self.model.sequence.named_parameters()]
        self.at = [p.detach() for p in self.model.sequence.parameters()]

    def losses(self, windows: Windows) -> Losses:
        """The function from parameters to the losses (B,) of `windows`."""
        batch = samples(windows, self.negatives)
        E = self.E[batch.items]

        def of(parameters: Vector) -> Tensor:
            named = dict(zip(self.names, parameters, strict=True))
            H = self.model.outputs(functional_call(self.model.sequence, named, (self.model.read(E[:, :-1]),)))
            return sample_losses((H * E[:, 1:]).sum(-1), H @ self.E[self.negatives].T, batch, self.loss)

        return of

    def mean_gradient(self, windows: Windows, console: Console) -> Vector:
        """Gradient of the mean loss over `windows`."""
        out = [torch.zeros_like(p) for p in self.at]
        at = [p.clone().requires_grad_() for p in self.at]
        with console.progress("mean gradient", len(windows)) as bar:
            done = 0
            for part in by_length(windows, 128):
                grads = torch.autograd.grad(self.losses(windows.take(part))(at).sum() / len(windows), at)
                torch._foreach_add_(out, list(grads))
                done += len(part)
                bar.at(done)
        return out

    def scores(self, windows: Windows, direction: Vector, console: Console) -> Float:
        """<direction, grad l(z)> (W,)."""
        out = np.empty(len(windows))
        with console.progress("influence", len(windows)) as bar, torch.no_grad():
            done = 0
            for part in by_length(windows, 128):
                out[part] = directional(self.losses(windows.take(part)), self.at, direction).double().cpu().numpy()
                done += len(part)
                bar.at(done)
        return out


def influence(
    surrogate: Surrogate, negatives: Tensor, config: DEALRecConfig, rng: np.random.Generator, console: Console
) -> Float:
    """(W,): by how much the mean training loss rises if a window is left out (times W, to first order)."""
    windows, own = surrogate.windows, Influence(surrogate, negatives)
    some = windows
    if len(windows) > config.mean_windows:
        console.note(f"the mean gradient is that of {config.mean_windows:,} of {len(windows):,} windows at random")
        some = windows.take(rng.choice(len(windows), config.mean_windows, replace=False))

    def drawn(size: int) -> Callable[[Vector], Vector]:
        losses = own.losses(windows.take(rng.choice(len(windows), min(size, len(windows)), replace=False)))
        return lambda h: hessian_vector(lambda p: losses(p).mean(), own.at, h)

    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second or forward-mode derivative
        v = own.mean_gradient(some, console)
        H = drawn(4 * config.batch)
        top = largest_eigenvalue(H, v)
        low = top - largest_eigenvalue(lambda h: [top * x - y for x, y in zip(h, H(h), strict=True)], v)
        damping = max(config.damping * top, -1.5 * low)
        console.note(f"Hessian: eigenvalues from about {low:.3g} to {top:.3g}, damping {damping:.3g}")
        with console.progress("LiSSA", config.depth) as bar:
            steps = iter(range(1, config.depth + 1))

            def product(h: Vector) -> Vector:
                found = drawn(config.batch)(h)
                bar.at(next(steps))
                return found

            direction = lissa(product, v, config.depth, damping, 1.5 * top + damping)
        return own.scores(windows, direction, console)


def select(
    surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT,
    config: DEALRecConfig = DEALRecConfig(),
) -> Int:  # fmt: skip
    """Indices (M,) of training windows."""
    negatives = common_negatives(surrogate.model, surrogate.train, rng)
    found = influence(surrogate, negatives, config, rng, console)
    effort, _ = gradient_norms(surrogate.model, surrogate.windows, negatives, surrogate.train.loss, console)
    return stratified(scaled(found) + config.effort * scaled(effort), M, config.strata, config.hard_prune, rng)
