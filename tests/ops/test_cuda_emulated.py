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
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import truth
from torch import Tensor
from truth import close, inputs, numpy

from foster_cli.ops import reference

HERE, CSRC = Path(__file__).parent / "emulate", Path(__file__).parents[2] / "csrc" / "cuda"
COMPILER = os.environ.get("CXX", "c++")
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
SMALL, LARGE = 99 * 1024, 227 * 1024  # bytes of shared memory per block: an RTX A5000, an H100

pytestmark = pytest.mark.skipif(
    not CSRC.is_dir() or shutil.which(COMPILER.split()[0]) is None, reason="no sources, or no C++ compiler"
)


class Sizes(ctypes.Structure):
    _fields_ = [("r", ctypes.c_int64), ("s", ctypes.c_int64), ("width_v", ctypes.c_int), ("width_e", ctypes.c_int)]


def _pointer(x: Tensor | None) -> ctypes.c_void_p | None:
    assert x is None or x.is_contiguous()
    return None if x is None else ctypes.c_void_p(x.data_ptr())


def _accumulate_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Emulated:
    """The launchers for a device with `sm_count` multiprocessors and `shared` bytes of shared memory per block."""

    library: ctypes.CDLL
    sm_count: int = 4
    shared: int = SMALL
    exact: bool = True

    def _call(self, name: str, first: Tensor, sizes: Sizes, *rest: Any) -> None:
        args = [_pointer(x) if x is None or isinstance(x, Tensor) else x for x in rest]
        tail = (self.sm_count, self.shared, ctypes.c_bool(self.exact))
        error = getattr(self.library, f"foster_{name}")(TYPES[first.dtype], sizes, *args, *tail)
        assert error == 0, f"{name}: {error}"

    def embed(self, Q: Tensor, V: Tensor, E: Tensor, G: Tensor) -> list[Tensor]:
        """X and the gradients to Q and E."""
        n = Sizes(len(Q), len(V), Q.shape[1], E.shape[1])
        X, lse = torch.empty(len(Q), E.shape[1], dtype=Q.dtype), torch.empty(len(Q), dtype=_accumulate_dtype(Q))
        self._call("soft_embed", Q, n, Q, V, E, X, lse)
        g = G.to(Q.dtype)
        delta = (g.to(lse.dtype) * X.to(lse.dtype)).sum(1)
        dQ, dE = torch.empty_like(Q), torch.empty_like(E)
        self._call("soft_embed_backward", Q, n, 0, g, Q, V, E, delta, lse, dQ)
        self._call("soft_embed_backward", Q, n, 2, g, Q, V, E, delta, lse, dE)
        return [X, dQ, dE]

    def kl(self, Q: Tensor, V: Tensor, H: Tensor, E: Tensor, g: Tensor) -> list[Tensor]:
        """The losses and the gradients to Q, H and E."""
        n = Sizes(len(Q), len(V), Q.shape[1], E.shape[1])
        rows = [torch.empty(len(Q), dtype=_accumulate_dtype(Q)) for _ in range(4)]
        self._call("soft_kl", Q, n, Q, V, H, E, *rows)
        out = [torch.empty_like(x) for x in (Q, H, E)]
        for wrt in range(3):
            self._call("soft_kl_backward", Q, n, wrt, g.to(rows[0].dtype), Q, V, H, E, *rows[1:], out[wrt])
        return [rows[0], *out]

    def rank(
        self, H: Tensor, E: Tensor, target: Tensor, items: Tensor | None = None, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`rank_counts`; the seen items of each row are in ascending order."""
        greater, equal = torch.zeros(2, len(H), dtype=torch.int64).unbind()
        self._call("rank_counts", H, Sizes(len(H), len(E), H.shape[1], 0), H, E, target, items, offsets, greater, equal)
        return greater, equal

    def plan(self, dtype: torch.dtype, rows: int, cols: int, out: int) -> tuple[int, int, int]:
        """The output columns of a block, the chunks of the output and the splits of the tiles."""
        result = (ctypes.c_int * 3)()
        sizes = (ctypes.c_int64(rows), ctypes.c_int64(cols), ctypes.c_int64(out))
        self.library.foster_plan(TYPES[dtype], *sizes, self.sm_count, self.shared, result)
        return result[0], result[1], result[2]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("emulate")
    flags = ["-O2", "-std=c++20", "-fPIC", "-DFOSTER_EMULATE", f"-I{HERE}", f"-I{CSRC}", "-w"]

    def compiled(source: Path) -> str:
        out = str(folder / f"{source.name}.o")
        subprocess.run([*COMPILER.split(), *flags, "-x", "c++", "-c", str(source), "-o", out], check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(
            pool.map(compiled, [*CSRC.glob("*.cu"), CSRC / "plan.cpp", HERE / "emulate.cpp", HERE / "library.cpp"])
        )
    path = folder / "libfoster_emulated.so"
    subprocess.run([*COMPILER.split(), "-shared", "-o", str(path), *objects], check=True)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 511, 65), (70, 130, 64), (130, 70, 160), (5, 129, 1024)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("device", [(1, SMALL), (40, LARGE)], ids=["one-sm", "many-sms"])
def test_values_and_gradients_are_those_of_float64(
    library: ctypes.CDLL, shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, device: tuple[int, int]
) -> None:
    """Odd and even widths, partial tiles, with and without splits, X resident in shared memory or reloaded."""
    if shape[2] == 1024 and dtype == torch.float32 and device[0] == 1:
        pytest.skip("slow, and covered by the other types")
    r, _, d = shape
    run = Emulated(library, *device)
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


def test_fp32_by_three_tf32_products_is_much_nearer_than_by_one(library: ctypes.CDLL) -> None:
    Q, V, H, E = inputs(20, 130, 256, torch.float32, 2.0)
    Q, H = Q * 1.001, H * 1.001  # not exact in TF32
    q, v, h, e = numpy(Q, V, H, E)
    true = truth.kl(q, v, h, e, np.ones(20))[0]
    error = [
        np.abs(Emulated(library, exact=exact).kl(Q, V, H, E, torch.ones(20))[0].double().numpy() - true).max()
        for exact in (True, False)
    ]
    assert error[0] < min(error[1] / 100, 5e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_threads_does_not_matter(library: ctypes.CDLL, seed: int) -> None:
    """Any random order of threads and blocks gives the same bits, so nothing is read before it is written."""
    Q, V, H, E = inputs(70, 200, 40, torch.float32)
    run = Emulated(library, sm_count=30)
    found = []
    for order in (0, 1 + seed):
        library.foster_seed(ctypes.c_uint64(order))
        found.append([*run.kl(Q, V, H, E, torch.ones(70)), *run.embed(Q, V, E, torch.ones(70, 40))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("r", "n", "d"), [(1, 1, 1), (30, 2100, 16), (150, 513, 65)])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sm_count", [1, 20])
def test_ranks_by_brute_force_with_ties_and_seen_items(
    library: ctypes.CDLL, r: int, n: int, d: int, dtype: torch.dtype, sm_count: int
) -> None:
    case = {name: torch.from_numpy(x) for name, x in truth.ranking(r, n, d).items()}
    H, E, offsets = case["H"].to(dtype), case["E"].to(dtype), case["offsets"]
    items = torch.cat([case["items"][a:b].sort().values for a, b in pairwise(offsets.tolist())])
    found = Emulated(library, sm_count).rank(H, E, case["target"], items, offsets)
    assert torch.equal(found[0], case["greater"]) and torch.equal(found[1], case["equal"])


def test_equal_embeddings_tie_wherever_they_stand(library: ctypes.CDLL) -> None:
    H, E, target = truth.copies(70, 700)
    truth.check_copies(H, E, target, *Emulated(library, 20).rank(H, E, target))


def test_nan_is_seen(library: ctypes.CDLL) -> None:
    Q, V, H, E = inputs(3, 5, 2, torch.float32)
    Q[1, 0] = torch.nan
    run = Emulated(library)
    assert torch.isnan(run.kl(Q, V, H, E, torch.ones(3))[0]).tolist() == [False, True, False]
    assert torch.isnan(run.embed(Q, V, E, torch.ones(3, 2))[0]).any(1).tolist() == [False, True, False]


def test_how_work_is_divided(library: ctypes.CDLL) -> None:
    """Small problems are split until every multiprocessor has a block; large ones compute each score once."""
    a100 = Emulated(library, 108, 163 * 1024)
    columns, chunks, splits = a100.plan(torch.bfloat16, 400, 512, 384)
    assert (columns, chunks) == (128, 3) and 7 * 3 * splits >= 108
    assert a100.plan(torch.float32, 100_000, 10_000_000, 384) == (384, 1, 1)
    assert a100.plan(torch.float32, 10_000_000, 400, 1024) == (384, 3, 1)
    assert a100.plan(torch.float64, 100_000, 5000, 384)[0] == 128
    assert a100.plan(torch.float32, 1, 10_000_000, 0)[2] > 50
    assert a100.plan(torch.float32, 20, 1, 64) == (128, 1, 1)
