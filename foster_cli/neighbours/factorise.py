"""An item-item matrix as a product of two narrow ones: W ≈ A Bᵀ, by truncated SVD (scikit-learn's `randomized_svd`,
Halko et al. 2011). It turns neighbours into a model with an output vector per history and a factor per item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from foster_cli.neighbours.base import BLOCK, Factors, Float, Neighbours


@dataclass(frozen=True)
class Factored:
    """`A`, `B` (n, r) float32 with W ≈ A Bᵀ. `error` is ‖W − A Bᵀ‖² / ‖W‖² (Frobenius). A history's output vector is
    bag @ A (r,), item i's factor is B[i]."""

    A: Float
    B: Float
    error: float

    def outputs(self, bag: Any) -> Float:
        """Output vectors (B, r) of bags (B, n), CSR or dense, e.g. those of `Neighbours.bags`."""
        return np.asarray(bag @ self.A)

    def neighbours(self, like: Neighbours) -> Neighbours:
        """The model of the factors, with the history weights of `like`."""
        return Neighbours(Factors(self.A, self.B), like.decay, like.last)


def factorise(weights: Any, rank: int, seed: int = 0) -> Factored:
    """Factors of W (n, n), CSR or dense, or of `Factors` with A = B; r = min(rank, n). Dense `Factors` of at most
    `rank` columns are returned as they are. Equal seeds give equal factors.

    The SVD of W is UΣVᵀ, and A = U√Σ, B = V√Σ. U holds an orthonormal basis and ΣVᵀ = UᵀW also where the randomised
    SVD is not exact, so that the squared error is ‖W‖² − ‖Σ‖². Raises ValueError for a rank below 1, and for sparse or
    wide factors A ≠ B.
    """
    if rank < 1:
        raise ValueError(f"rank {rank} is below 1")
    if isinstance(weights, Factors):
        return _of_factors(weights, rank, seed)
    U, S, Vt = _svd(weights, rank, seed)
    root = np.sqrt(S)
    data = weights.data if sp.issparse(weights) else weights
    return Factored(_narrow(U * root), _narrow(Vt.T * root), _error(float(np.square(data, dtype=np.float64).sum()), S))


def _of_factors(weights: Factors, rank: int, seed: int) -> Factored:
    """W = X Xᵀ has the left singular vectors of X and the squares of its singular values."""
    if weights.width <= rank and not sp.issparse(weights.A) and not sp.issparse(weights.B):
        return Factored(weights.A, weights.B, 0.0)
    if weights.A is not weights.B:
        raise ValueError("only A Aᵀ can be factorised again")
    U, S, _ = _svd(weights.A, rank, seed)
    A = _narrow(U * S)
    return Factored(A, A, _error(_square_norm(weights), S**2))


def _svd(matrix: Any, rank: int, seed: int) -> tuple[Float, Float, Float]:
    r = min(rank, *matrix.shape)
    # Not transposed, so that ΣVᵀ = UᵀW holds exactly.
    U, S, Vt = randomized_svd(matrix, r, n_iter=4, random_state=seed % 2**32, transpose=False)
    return U, S, Vt


def _square_norm(weights: Factors) -> float:
    """‖A Bᵀ‖² in blocks of rows."""
    n = weights.A.shape[0]
    rows = max(1, min(1024, BLOCK // max(n, weights.width)))
    eye = sp.identity(n, dtype=np.float32, format="csr")
    return sum(float(np.square(weights.after(eye[a : a + rows]), dtype=np.float64).sum()) for a in range(0, n, rows))


def _narrow(x: Any) -> Float:
    return np.ascontiguousarray(x, dtype=np.float32)


def _error(total: float, S: Any) -> float:
    """The share of ‖W‖² = total that the singular values leave; 0 for W = 0."""
    return max(0.0, 1.0 - float(np.square(S, dtype=np.float64).sum()) / total) if total > 0 else 0.0
