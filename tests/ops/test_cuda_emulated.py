"""The sources of the CUDA kernels, which `emulate/` runs on a CPU thread by thread, against numpy in float64.

What only a GPU shows (speed, its own rounding, the launch itself) is tested by `test_native.py -m gpu`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import truth
from torch import Tensor
from truth import close, inputs, numpy

from foster_cli.ops import reference
from foster_cli.ops.native import accumulate_dtype

HERE, CSRC = Path(__file__).parent / "emulate", Path(__file__).parents[2] / "csrc" / "cuda"
COMPILER = os.environ.get("CXX", "c++")
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}

pytestmark = pytest.mark.skipif(
    not CSRC.is_dir() or shutil.which(COMPILER.split()[0]) is None, reason="no sources, or no C++ compiler"
)


class Rows(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("type", "r", "n", "ld")] + [("stream", ctypes.c_void_p)]


def _pointer(x: Any) -> Any:
    return ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else x


def _scores(x: Tensor, w: Tensor) -> Tensor:
    """x w^T in rows of whole 16 bytes, as the binding holds scores; what lies beyond them is NaN."""
    pack = 16 // x.element_size()
    held = torch.full((len(x), -(-len(w) // pack) * pack), torch.nan, dtype=x.dtype)
    held[:, : len(w)] = x @ w.T
    return held[:, : len(w)]


@dataclass(frozen=True)
class Emulated:
    """The ops as the binding composes them: products by torch, and the emulated kernels between them."""

    library: ctypes.CDLL
    whole: bool = True  # keep the scores of the forward for the backward; or compute them again, 64 items at a time

    def call(self, name: str, S: Tensor, *rest: Any) -> None:
        rows = Rows(TYPES[S.dtype], *S.shape, S.stride(0), None)
        error = getattr(self.library, f"foster_{name}")(rows, _pointer(S), *map(_pointer, rest))
        assert error == 0, f"{name}: {error}"
        held = torch.as_strided(S, (len(S), S.stride(0)), (S.stride(0), 1))
        assert held[:, S.shape[1] :].isnan().all(), f"{name} wrote beyond the items"

    def embed(self, Q: Tensor, V: Tensor, E: Tensor, G: Tensor) -> list[Tensor]:
        """X and the gradients to Q and E."""
        G, wide = G.to(Q.dtype), accumulate_dtype(Q)
        P, lse = _scores(Q, V), torch.empty(len(Q), dtype=wide)
        self.call("softmax_rows", P, lse)
        X = P @ E
        if self.whole:
            dP = _scores(G, E)
            self._backward_rows(P, dP)
            return [X, dP @ V, P.T @ G]
        delta, dQ, dE = (G.to(wide) * X.to(wide)).sum(1), torch.zeros_like(Q, dtype=wide), []
        for v, e in zip(V.split(64), E.split(64), strict=True):
            S, dP = _scores(Q, v), _scores(G, e)
            self.call("softmax_backward_tile", S, dP, lse, delta)
            dQ += dP @ v
            dE.append(S.T @ G)
        return [X, dQ.to(Q.dtype), torch.cat(dE)]

    def _backward_rows(self, P: Tensor, dP: Tensor) -> None:
        rows = Rows(TYPES[P.dtype], *P.shape, P.stride(0), None)
        assert self.library.foster_softmax_backward_rows(rows, _pointer(P), _pointer(dP)) == 0

    def kl(self, Q: Tensor, V: Tensor, H: Tensor, E: Tensor, g: Tensor) -> list[Tensor]:
        """The losses and the gradients to Q, H and E."""
        loss, *known = (torch.empty(len(Q), dtype=accumulate_dtype(Q)) for _ in range(4))
        A, B = _scores(Q, V), _scores(H, E)
        self.call("kl_rows", A, B, ctypes.c_bool(self.whole), loss, *known)
        if self.whole:
            g = g.to(Q.dtype)[:, None]
            return [loss, (A @ V) * g, (B @ E) * g, B.T @ (H * g)]
        g, dQ, dH, dE = (
            g.to(loss.dtype),
            torch.zeros_like(Q, dtype=loss.dtype),
            torch.zeros_like(H, dtype=loss.dtype),
            [],
        )
        for v, e in zip(V.split(64), E.split(64), strict=True):
            A, B = _scores(Q, v), _scores(H, e)
            self.call("kl_backward_tile", A, B, ctypes.c_bool(True), g, *known)
            dQ += A @ v
            dH += B @ e
            dE.append(B.T @ H)
        return [loss, dQ.to(Q.dtype), dH.to(H.dtype), torch.cat(dE)]

    def ce(self, H: Tensor, E: Tensor, target: Tensor, correction: Tensor | None) -> list[Tensor]:
        """The mean loss and its gradients to H and E."""
        S, loss = _scores(H, E), torch.empty(len(H), dtype=accumulate_dtype(H))
        correction = None if correction is None else correction.to(loss.dtype)
        scale = ctypes.c_double(1 / len(H))
        self.call("cross_entropy_rows", S, target, correction, ctypes.c_bool(True), scale, loss)
        return [loss.mean(), S @ E, S.T @ H]

    def rank(
        self, H: Tensor, E: Tensor, target: Tensor, items: Tensor | None = None, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`rank_counts`."""
        greater, equal = torch.zeros(2, len(H), dtype=torch.int64).unbind()
        wide = accumulate_dtype(H)
        self.call("count_rows", _scores(H.to(wide), E.to(wide)), target, items, offsets, greater, equal)
        return greater, equal


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("emulate")
    flags = ["-O2", "-std=c++20", "-fPIC", "-DFOSTER_EMULATE", f"-I{HERE}", f"-I{CSRC}", "-w"]

    def compiled(source: Path) -> str:
        out = str(folder / f"{source.name}.o")
        subprocess.run([*COMPILER.split(), *flags, "-x", "c++", "-c", str(source), "-o", out], check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [CSRC / "rows.cu", HERE / "emulate.cpp", HERE / "library.cpp"]))
    path = folder / "libfoster_emulated.so"
    subprocess.run([*COMPILER.split(), "-shared", "-o", str(path), *objects], check=True)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 511, 65), (70, 130, 64), (2, 9001, 16)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("whole", [True, False])
def test_values_and_gradients_are_those_of_float64(
    library: ctypes.CDLL, shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, whole: bool
) -> None:
    """Rows of less than 16 bytes, with and without a rest, and of more than a block's threads take at once."""
    r, _, d = shape
    run = Emulated(library, whole)
    Q, V, H, E = inputs(*shape, dtype)
    G, g = torch.randn(r, d).bfloat16().double(), torch.rand(r).bfloat16().double()
    q, v, h, e = numpy(Q, V, H, E)
    close(run.embed(Q, V, E, G), truth.embed(q, v, e, G.numpy()), tolerance)
    close(run.kl(Q, V, H, E, g), truth.kl(q, v, h, e, g.numpy()), tolerance)


def test_two_widths(library: ctypes.CDLL) -> None:
    """Q and V may have another width than H and E."""
    Q, V, _, _ = inputs(9, 70, 24, torch.float32)
    _, _, H, E = inputs(9, 70, 136, torch.float32, seed=1)
    G, g = torch.randn(9, 136), torch.rand(9)
    q, v, h, e = numpy(Q, V, H, E)
    run = Emulated(library)
    close(run.embed(Q, V, E, G), truth.embed(q, v, e, G.double().numpy()), 2e-5)
    close(run.kl(Q, V, H, E, g), truth.kl(q, v, h, e, g.double().numpy()), 2e-5)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 100.0])
def test_hard_and_flat_distributions(library: ctypes.CDLL, scale: float) -> None:
    """Score differences from about 0 to 1e4: no overflow, no NaN, and an error that float32 scores imply."""
    Q, V, H, E = inputs(50, 300, 64, torch.float32, scale)
    q, v, h, e = numpy(Q, V, H, E)
    bound = 4e-6 * truth.largest_score(Q, V, H, E)
    run = Emulated(library)
    close(run.kl(Q, V, H, E, torch.ones(50)), truth.kl(q, v, h, e, np.ones(50)), bound)
    close(run.embed(Q, V, E, torch.ones(50, 64)), truth.embed(q, v, e, np.ones((50, 64))), bound)


def test_bf16_errs_no_more_than_plain_pytorch_in_bf16(library: ctypes.CDLL) -> None:
    Q, V, H, E = inputs(70, 300, 64, torch.bfloat16, 2.0)
    q, v, h, e = numpy(Q, V, H, E)
    G, g = torch.randn(70, 64).bfloat16(), torch.ones(70)
    plain = [x.clone().requires_grad_() for x in (Q, H, E)]
    loss = reference.soft_kl(plain[0], V, plain[1], plain[2])
    loss.backward(g.to(loss))
    naive = [loss, *[x.grad for x in plain if x.grad is not None]]
    run = Emulated(library)
    cases = [(run.kl(Q, V, H, E, g), naive, truth.kl(q, v, h, e, np.ones(70)))]
    plain = [x.clone().requires_grad_() for x in (Q, E)]
    X = reference.soft_embed(plain[0], V, plain[1])
    X.backward(G)
    naive = [X, *[x.grad for x in plain if x.grad is not None]]
    cases.append((run.embed(Q, V, E, G), naive, truth.embed(q, v, e, G.double().numpy())))
    for found, other, true in cases:
        for mine, theirs, exact in zip(numpy(*found), numpy(*other), true, strict=True):
            assert np.abs(mine - exact).max() <= np.abs(theirs - exact).max()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_threads_does_not_matter(library: ctypes.CDLL, seed: int) -> None:
    """Any random order of threads and blocks gives the same bits, so nothing is read before it is written."""
    Q, V, H, E = inputs(70, 200, 40, torch.float32)
    run = Emulated(library)
    found = []
    for order in (0, 1 + seed):
        library.foster_seed(ctypes.c_uint64(order))
        found.append([*run.kl(Q, V, H, E, torch.ones(70)), *run.embed(Q, V, E, torch.ones(70, 40))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("r", "n", "d"), [(1, 1, 1), (30, 2100, 16), (150, 513, 65)])
@pytest.mark.parametrize("dtype", TYPES)
def test_ranks_by_brute_force_with_ties_and_seen_items(
    library: ctypes.CDLL, r: int, n: int, d: int, dtype: torch.dtype
) -> None:
    case = {name: torch.from_numpy(x) for name, x in truth.ranking(r, n, d).items()}
    H, E, offsets = case["H"].to(dtype), case["E"].to(dtype), case["offsets"]
    found = Emulated(library).rank(H, E, case["target"], case["items"], offsets)
    assert torch.equal(found[0], case["greater"]) and torch.equal(found[1], case["equal"])


def test_equal_embeddings_tie_wherever_they_stand(library: ctypes.CDLL) -> None:
    H, E, target = truth.copies(70, 700)
    truth.check_copies(H, E, target, *Emulated(library).rank(H, E, target))


def test_nan_is_seen(library: ctypes.CDLL) -> None:
    Q, V, H, E = inputs(3, 5, 2, torch.float32)
    Q[1, 0] = torch.nan
    run = Emulated(library)
    assert torch.isnan(run.kl(Q, V, H, E, torch.ones(3))[0]).tolist() == [False, True, False]
    assert torch.isnan(run.embed(Q, V, E, torch.ones(3, 2))[0]).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("r", "s", "d"), [(1, 1, 1), (7, 130, 5), (3, 5001, 16)])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
)
def test_cross_entropy_is_that_of_float64(
    library: ctypes.CDLL, r: int, s: int, d: int, corrected: bool, dtype: torch.dtype, tolerance: float
) -> None:
    H, E, target, correction = truth.labelled(r, s, d, dtype, corrected)
    close(Emulated(library).ce(H, E, target, correction), truth.ce(H, E, target, correction), tolerance)


def test_what_lies_outside_the_items_is_marked(library: ctypes.CDLL) -> None:
    """A GPU is not asked whether indices fit: a rank is then -1, and a loss NaN."""
    H, E = torch.eye(4), torch.eye(4)[:3]
    run = Emulated(library)
    found = run.rank(H, E, torch.tensor([0, 3, -1, 2]))
    assert found[0].tolist() == [0, -1, -1, 0] and found[1].tolist() == [0, -1, -1, 2]
    seen = run.rank(H, E, torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 7, 0]), torch.tensor([0, 2, 2, 3, 4]))
    assert seen[0].tolist() == [0, 0, -1, 0] and seen[1].tolist() == [0, 0, -1, 1]
    assert torch.isnan(run.ce(H, E, torch.tensor([0, 3, 1, 2]), None)[0])
