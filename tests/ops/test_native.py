"""The C++ and CUDA ops against numpy in float64 and the plain PyTorch definitions, on easy and on difficult inputs.

`-m gpu` runs them on a GPU, in a build that has the kernels. `test_cuda_emulated.py` tests the kernels without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import truth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from truth import SHAPES, close, inputs, numpy

from foster_cli import ops
from foster_cli.ops import native, reference

native.load()
pytestmark = pytest.mark.skipif(native.built_against() is None, reason="the extension was left out here")
TYPES = [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    found = torch.device(request.param)
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return found


def run_embed(Q: Tensor, V: Tensor, E: Tensor, G: Tensor, save: bool = False) -> list[Tensor]:
    Q, E = Q.clone().requires_grad_(), E.clone().requires_grad_()
    X = torch.ops.foster.soft_embed(Q, V, E, save)[0]
    X.backward(G.to(X))
    assert Q.grad is not None and E.grad is not None
    assert X.dtype == E.dtype and Q.grad.dtype == Q.dtype and E.grad.dtype == E.dtype
    return [X, Q.grad, E.grad]


def run_kl(Q: Tensor, V: Tensor, H: Tensor, E: Tensor, g: Tensor, save: bool = False) -> list[Tensor]:
    Q, H, E = (x.clone().requires_grad_() for x in (Q, H, E))
    loss = torch.ops.foster.soft_kl(Q, V, H, E, save)[0]
    loss.backward(g.to(loss))
    assert Q.grad is not None and H.grad is not None and E.grad is not None
    return [loss, Q.grad, H.grad, E.grad]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("save", [False, True])
def test_values_and_gradients_are_those_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, save: bool, device: torch.device
) -> None:
    r, _, d = shape
    Q, V, H, E = (x.to(device) for x in inputs(*shape, dtype))
    G, g = torch.randn(r, d).bfloat16().double(), torch.rand(r).bfloat16().double()
    q, v, h, e = numpy(Q, V, H, E)
    if dtype == torch.bfloat16 and device.type == "cuda":  # scores, and their gradients, are in bf16 there
        tolerance = 2e-2
    close(run_embed(Q, V, E, G, save), truth.embed(q, v, e, G.numpy()), tolerance)
    close(run_kl(Q, V, H, E, g, save), truth.kl(q, v, h, e, g.numpy()), tolerance)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 100.0])
def test_hard_and_flat_distributions(scale: float, device: torch.device) -> None:
    """Score differences from about 0 to 1e4: no overflow, no NaN, and an error that float32 scores imply."""
    Q, V, H, E = (x.to(device) for x in inputs(50, 700, 64, torch.float32, scale))
    q, v, h, e = numpy(Q, V, H, E)
    bound = 4e-6 * truth.largest_score(Q, V, H, E)
    close(run_kl(Q, V, H, E, torch.ones(50)), truth.kl(q, v, h, e, np.ones(50)), bound)
    close(run_embed(Q, V, E, torch.ones(50, 64)), truth.embed(q, v, e, np.ones((50, 64))), bound)


def test_bf16_errs_no_more_than_plain_pytorch_in_bf16(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(100, 900, 64, torch.bfloat16, 2.0))
    q, v, h, e = numpy(Q, V, H, E)
    G, g = torch.randn(100, 64).bfloat16(), torch.ones(100)
    plain = [x.clone().requires_grad_() for x in (Q, H, E)]
    loss = reference.soft_kl(plain[0], V, plain[1], plain[2])
    loss.backward(g.to(loss))
    naive = [loss, *[x.grad for x in plain if x.grad is not None]]
    cases = [(run_kl(Q, V, H, E, g), naive, truth.kl(q, v, h, e, g.double().numpy()))]
    plain = [x.clone().requires_grad_() for x in (Q, E)]
    X = reference.soft_embed(plain[0], V, plain[1])
    X.backward(G.to(X))
    naive = [X, *[x.grad for x in plain if x.grad is not None]]
    cases.append((run_embed(Q, V, E, G), naive, truth.embed(q, v, e, G.double().numpy())))
    for found, other, true in cases:
        for mine, theirs, exact in zip(numpy(*found), numpy(*other), true, strict=True):
            more = 1.1 if device.type == "cuda" else 1.0  # the same products there, rounded at the same places
            assert np.abs(mine - exact).max() <= more * np.abs(theirs - exact).max()


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_and_second_derivatives_by_finite_differences(
    check: Callable[..., bool], device: torch.device
) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(4, 7, 3, torch.float64))
    for x in (Q, H, E):
        x.requires_grad_()
    for save in (False, True):
        assert check(lambda a, c, save=save: torch.ops.foster.soft_embed(a, V, c, save)[0], (Q, E))
        assert check(lambda a, b, c, save=save: torch.ops.foster.soft_kl(a, V, b, c, save)[0], (Q, H, E))


def test_second_derivatives_where_one_input_is_made_from_another(device: torch.device) -> None:
    """As in training, H and X depend on E; the path from E through them must not be counted twice."""
    Q, V, W, E = (x.to(device).requires_grad_() for x in inputs(3, 5, 4, torch.float64))
    V = V.detach()

    def loss(q: Tensor, w: Tensor, e: Tensor) -> Tensor:
        x = torch.ops.foster.soft_embed(q, V, e)[0]
        return torch.ops.foster.soft_kl(q, V, torch.tanh(x * w), e)[0]

    assert torch.autograd.gradcheck(loss, (Q, W, E)) and torch.autograd.gradgradcheck(loss, (Q, W, E))


def test_tucker_embed_is_its_definition(device: torch.device) -> None:
    """Values, the gradients to U, T, G and E_S, and P computed from lse."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (4, 5), (2, 5, 6), (30, 6), (30, 7))
    U, T, G, V, E = (torch.randn(*s, generator=rng, dtype=torch.float64).to(device) for s in shapes)
    learned = [x.requires_grad_() for x in (U, T, G, E)]
    X, lse = ops.tucker_embed(U, T, G, V, E)
    Q = torch.einsum("ma,tb,abd->mtd", U, T, G)
    P = (Q @ V.T - lse[..., None]).exp()
    torch.testing.assert_close(P.sum(-1), torch.ones_like(lse))
    torch.testing.assert_close(X, P @ E)
    upstream = torch.randn(X.shape, generator=rng, dtype=torch.float64).to(device)
    found = torch.autograd.grad(X, learned, upstream)
    true = torch.autograd.grad(torch.softmax(Q @ V.T, -1) @ E, learned, upstream)
    for a, b in zip(found, true, strict=True):
        torch.testing.assert_close(a, b)
    plain = reference.tucker_embed(U, T, G, V, E)
    torch.testing.assert_close((X, lse), plain)


def test_ops_are_well_formed_for_torch(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(5, 9, 4, torch.float32))
    Q.requires_grad_(), E.requires_grad_(), H.requires_grad_()
    for save in (False, True):
        torch.library.opcheck(torch.ops.foster.soft_embed.default, (Q, V, E, save))
        torch.library.opcheck(torch.ops.foster.soft_kl.default, (Q, V, H, E, save))
    target = torch.tensor([0, 3, 8, 8, 1], device=device)
    torch.library.opcheck(torch.ops.foster.rank_counts.default, (H.detach(), E.detach(), target))
    for gradients in (False, True):
        torch.library.opcheck(torch.ops.foster.softmax_ce.default, (H.detach(), E.detach(), target, None, gradients))
    torch.library.opcheck(torch.ops.foster.softmax_ce.default, (H, E, target, E.detach().sum(1), True))


def test_only_the_gradients_that_are_asked_for(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(30, 50, 8, torch.float32))
    g = torch.ones(30, device=device)
    whole = run_kl(Q, V, H, E, g)
    for wanted in range(3):
        given_ = [Q.clone(), H.clone(), E.clone()]
        given_[wanted].requires_grad_()
        torch.ops.foster.soft_kl(given_[0], V, given_[1], given_[2])[0].backward(g)
        assert [x.grad is not None for x in given_] == [i == wanted for i in range(3)]
        torch.testing.assert_close(given_[wanted].grad, whole[1 + wanted])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(r=st.integers(1, 40), s=st.integers(1, 1100), d=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_public_ops_equal_the_definition(
    device: torch.device, r: int, s: int, d: int, seed: int, data: st.DataObject
) -> None:
    """`ops` equals `reference` for any leading dimensions, and for transposed inputs."""
    Q, V, H, E = (x.to(device) for x in inputs(r, s, d, torch.float64, 1.5, seed))
    if data.draw(st.booleans()):
        Q, E = Q.t().contiguous().t(), E.t().contiguous().t()
    lead = (r, 1) if data.draw(st.booleans()) else (r,)
    q, h = Q.reshape(*lead, d), H.reshape(*lead, d)
    torch.testing.assert_close(ops.soft_embed(q, V, E), reference.soft_embed(q, V, E))
    torch.testing.assert_close(ops.soft_kl(q, V, h, E), reference.soft_kl(q, V, h, E), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("r", "n", "d"), [(1, 1, 1), (30, 2100, 16), (600, 1025, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_by_brute_force_with_ties_and_seen_items(
    r: int, n: int, d: int, dtype: torch.dtype, device: torch.device
) -> None:
    case = {name: torch.from_numpy(x).to(device) for name, x in truth.ranking(r, n, d).items()}
    H, E = case["H"].to(dtype), case["E"].to(dtype)
    found = torch.ops.foster.rank_counts(H, E, case["target"], case["items"], case["offsets"])
    assert torch.equal(found[0], case["greater"]) and torch.equal(found[1], case["equal"])


@pytest.mark.parametrize("items", [201, 3001, 4097, 6000])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_equal_embeddings_tie_wherever_they_stand(items: int, rows: int, device: torch.device) -> None:
    H, E, target = truth.copies(rows, items)
    greater, equal = torch.ops.foster.rank_counts(H.to(device), E.to(device), target.to(device))
    truth.check_copies(H, E, target, greater.cpu(), equal.cpu())


def test_nan_is_seen(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(3, 5, 2, torch.float32))
    Q[1, 0] = torch.nan
    assert torch.isnan(torch.ops.foster.soft_kl(Q, V, H, E)[0]).tolist() == [False, True, False]
    assert torch.isnan(torch.ops.foster.soft_embed(Q, V, E)[0]).any(1).tolist() == [False, True, False]


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(3, 5, 2, torch.float32))
    for bad in ((Q, V[:, :1], H, E), (Q[:2], V, H, E), (Q, V[:4], H, E), (Q, V.double(), H, E), (Q[0], V, H, E)):
        with pytest.raises(RuntimeError, match="soft_kl"):
            torch.ops.foster.soft_kl(*bad)
    with pytest.raises(RuntimeError, match="soft_embed"):
        torch.ops.foster.soft_embed(Q, V, E[:4])
    outside = (torch.tensor([0, 1, 5]), torch.tensor([0, 1, -1]))
    for target in (torch.tensor([0, 1]), torch.tensor([0.0, 1, 2]), *(outside if device.type == "cpu" else ())):
        with pytest.raises(RuntimeError, match="rank_counts"):
            torch.ops.foster.rank_counts(H, E, target.to(device))
        with pytest.raises(RuntimeError, match="softmax_ce"):
            torch.ops.foster.softmax_ce(H, E, target.to(device))
    target, offsets = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match="offsets"):
        torch.ops.foster.rank_counts(H, E, target.to(device), torch.tensor([1]).to(device), offsets.to(device))
    with pytest.raises(RuntimeError, match="correction"):
        torch.ops.foster.softmax_ce(H, E, target.to(device), torch.zeros(4).to(device))
    if device.type == "cuda":  # which is not asked whether indices fit
        assert torch.ops.foster.rank_counts(H, E, outside[0].to(device))[0].tolist()[2] == -1
        assert torch.isnan(torch.ops.foster.softmax_ce(H, E, outside[0].to(device))[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("corrected", [False, True])
def test_cross_entropy_and_its_gradients_are_those_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, corrected: bool, device: torch.device
) -> None:
    H, E, target, correction = truth.labelled(*shape, dtype, corrected)
    h, e = (x.to(device).requires_grad_() for x in (H, E))
    loss = ops.softmax_ce(h, e, target.to(device), None if correction is None else correction.to(device))
    (3.0 * loss).backward()
    true = truth.ce(H, E, target, correction)
    close([loss, h.grad / 3, e.grad / 3], true, tolerance)  # type: ignore[operator]
    with torch.no_grad():
        plain = ops.softmax_ce(h, e, target.to(device), None if correction is None else correction.to(device))
    close([plain], true[:1], tolerance)
    if dtype != torch.bfloat16:
        close([reference.softmax_ce(H, E, target, correction)], true[:1], tolerance)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_cross_entropy_by_finite_differences(check: Callable[..., bool], device: torch.device) -> None:
    H, E, target, correction = truth.labelled(4, 7, 3, torch.float64, True)
    assert correction is not None
    given_ = [x.to(device) for x in (target, correction)]
    leaves = tuple(x.to(device).requires_grad_() for x in (H, E))
    assert check(lambda h, e: torch.ops.foster.softmax_ce(h, e, *given_, True)[0], leaves)


def test_the_same_numbers_every_time(device: torch.device) -> None:
    Q, V, H, E = (x.to(device) for x in inputs(400, 3000, 48, torch.float32))
    g, G = torch.ones(400), torch.ones(400, 48)
    for run in (lambda: run_kl(Q, V, H, E, g), lambda: run_embed(Q, V, E, G)):
        assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.gpu
def test_fp32_on_the_gpu_is_tf32_only_where_torch_is_told_so() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    Q, V, H, E = (x.to("cuda") for x in inputs(200, 3000, 384, torch.float32, 2.0))
    Q, H = Q * 1.001, H * 1.001  # not exact in TF32
    q, v, h, e = numpy(Q, V, H, E)
    true = truth.kl(q, v, h, e, np.ones(200))[0]
    error = {}
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            error[precision] = np.abs(numpy(torch.ops.foster.soft_kl(Q, V, H, E)[0])[0] - true).max()
    finally:
        torch.set_float32_matmul_precision(before)
    assert error["highest"] < 1e-4 < error["high"] < 1e-1


def test_only_small_problems_save_their_scores() -> None:
    """The memory of the saved scores has a bound, however many items there are."""
    for items, saved in ((500, 10 * 500), (native.MAX_SAVED // 10 + 1, 0)):
        Q, V, H, E = inputs(10, items, 2, torch.float32)
        assert torch.ops.foster.soft_embed(Q, V, E, True)[-1].numel() == saved
        assert torch.ops.foster.soft_kl(Q, V, H, E, True)[-1].numel() == 2 * saved
        assert torch.ops.foster.soft_kl(Q, V, H, E)[-1].numel() == 0
