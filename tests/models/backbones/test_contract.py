"""What every backbone keeps to: causal, blind to padding, `last` is `forward`, all its randomness from its seeds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from weights import enlarged

from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES, make_backbone
from foster_cli.models.backbones.base import Backbone
from foster_cli.models.backbones.bert4rec import BERT4Rec

B, L, D = 3, 6, 8
#: Backbones whose attention starts as a mean of the history.
MEAN = ("sasrec-relative", "ligr")
every = pytest.mark.parametrize("name", BACKBONES)
shapes = pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2), (3, 4)])


def _x(seed: int = 0, length: int = L) -> Tensor:
    return torch.randn(B, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _made(name: str, layers: int = 2, heads: int = 2, dropout: float = 0.0, seed: int = 0) -> Backbone:
    """With weights made larger than at the start, so that every part of it matters to the output."""
    model = make_backbone(name, D, L, layers, heads, dropout, torch.Generator().manual_seed(seed))
    return enlarged(model).double().eval()


@every
@shapes
def test_a_later_item_changes_no_earlier_output(name: str, layers: int, heads: int) -> None:
    model, x = _made(name, layers, heads), _x()
    before = model(x)
    assert before.shape == x.shape
    for changed in range(L):
        other = x.clone()
        other[:, changed:] = _x(seed=1)[:, changed:]
        after = model(other)
        torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-12)
        other = x.clone()
        other[:, changed] = _x(seed=1)[:, changed]
        moved = (before[:, changed:] - model(other)[:, changed:]).abs().amax((0, 2))
        assert moved.min() > 1e-7  # and every later one changes


@every
def test_no_gradient_reaches_a_later_item(name: str) -> None:
    model, x = _made(name), _x().requires_grad_()
    for t in range(L):
        (grad,) = torch.autograd.grad(model(x)[:, t].square().sum(), x)
        assert torch.equal(grad[:, t + 1 :], torch.zeros_like(grad[:, t + 1 :]))
        assert grad[:, : t + 1].abs().amax((0, 2)).min() > 0


@every
def test_right_padding_has_no_influence(name: str) -> None:
    model, x = _made(name), _x()
    for size in range(1, L + 1):
        torch.testing.assert_close(model(x)[:, :size], model(x[:, :size]), rtol=1e-12, atol=1e-12)


@every
@shapes
def test_last_is_forward_at_that_position(name: str, layers: int, heads: int) -> None:
    model, x = _made(name, layers, heads), _x()
    whole = model(x)
    for last in ([0, 0, 0], [5, 5, 5], [0, 3, 5], [2, 1, 4]):
        at = torch.tensor(last)
        torch.testing.assert_close(model.last(x, at), whole[torch.arange(B), at], rtol=1e-10, atol=1e-12)


@every
@shapes
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_at_is_forward_at_the_chosen_positions(
    name: str, layers: int, heads: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foster_cli.models.backbones.bert4rec.PART_TOKENS", 2 * (L + 1))  # two prefixes at a time
    model, x = _made(name, layers, heads), _x().requires_grad_()
    chosen = torch.rand((B, L), generator=torch.Generator().manual_seed(3)) <= share
    chosen[1, 2] = True
    found, expected = model.at(x, chosen.flatten().nonzero()[:, 0]), model(x)[chosen]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (a,), (b,) = (torch.autograd.grad((weight * h).sum(), x) for h in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@every
def test_one_sequence_of_one_item(name: str) -> None:
    model, x = _made(name), _x()[:1, :1]
    assert model(x).shape == (1, 1, D)
    torch.testing.assert_close(model.last(x, torch.tensor([0])), model(x)[:, 0])


@every
def test_dropout_is_off_in_eval_and_fixed_by_its_seed_in_training(name: str) -> None:
    model, x = _made(name, dropout=0.5), _x()
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), _made(name)(x))
    model.train()
    model.seed_dropout(11)
    first, second = model(x), model(x)
    torch.manual_seed(999)  # the global generator has no say
    model.seed_dropout(11)
    again = model(x)
    model.seed_dropout(12)
    other = model(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second) and not torch.equal(first, other)


@every
def test_a_seed_fixes_the_initial_weights(name: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return dict(make_backbone(name, D, L, 2, 2, 0.0, rng).named_parameters())

    torch.manual_seed(1)
    first = weights(4)
    torch.manual_seed(2)
    again, other = weights(4), weights(5)
    assert all(torch.equal(p, again[n]) for n, p in first.items())
    fixed = ("relative", "out.weight") if name in MEAN else ()  # not drawn
    drawn = {n: p for n, p in first.items() if p.dim() > 1 and not n.endswith(fixed)}
    assert drawn and all(not torch.equal(p, other[n]) for n, p in drawn.items())


@every
def test_it_learns_which_item_follows(name: str) -> None:
    """Twelve items in a ring: the next one is two further. Cross-entropy falls far below log 12 = 2.48."""
    rng = torch.Generator().manual_seed(0)
    E = F.normalize(torch.randn(12, 16, generator=rng), dim=-1)
    model = make_backbone(name, 16, L, 2, 2, 0.1, rng)
    model.seed_dropout(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        items = (torch.randint(12, (16, 1), generator=rng) + 2 * torch.arange(L + 1)) % 12
        loss = F.cross_entropy((model(E[items[:, :-1]]) @ E.T).flatten(0, 1), items[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.0 and sum(losses[-10:]) / 10 < 0.8, (losses[0], losses[-1])


@every
def test_a_copy_computes_with_its_own_weights(name: str) -> None:
    model, x = _made(name), _x()
    other = copy.deepcopy(model)
    assert torch.equal(model(x), other(x))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    assert torch.equal(model(x), _made(name)(x)) and not torch.allclose(model(x), other(x))


@every
def test_origins_are_copies_of_the_weights(name: str) -> None:
    """The first one has all of them; only backbones whose attention starts as a mean have a second one."""
    model = _made(name)
    before, origins = [p.detach().clone() for p in model.parameters()], model.origins()
    assert len(origins) == (2 if name in MEAN else 1)
    second = [x.clone() for x in origins[-1]]
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    assert all(torch.equal(x, y) for x, y in zip(origins[0], before, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(origins[-1], second, strict=True))
    assert not any(x.requires_grad for origin in origins for x in origin)


@pytest.mark.parametrize("name", MEAN)
@shapes
def test_the_second_origin_reads_the_last_item_alone(name: str, layers: int, heads: int) -> None:
    """At every position the output is that of a history of this one item, and of attentions that add nothing."""
    model, x = _made(name, layers, heads), _x()
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (m.out for m in silent.modules() if hasattr(m, "qkv")):
            layer.weight.zero_()
            layer.bias.zero_()
        for origin, alone in zip(model.origins(), (False, True), strict=True):
            for p, value in zip(model.parameters(), origin, strict=True):
                p.copy_(value)
            each = torch.cat([model(x[:, t : t + 1]) for t in range(L)], dim=1)
            apart = (model(x) - each).abs().amax((0, 2))[1:]
            assert (apart.max() < 1e-12) if alone else (apart.min() > 1e-3)
            assert torch.equal(model(x), silent(x)) == alone
    assert each.std(1).min() > 0.01  # the item does count


def test_an_unknown_name_is_an_error_with_the_choices() -> None:
    with pytest.raises(FosterError, match=r"--backbone mamba.*" + ", ".join(BACKBONES)):
        make_backbone("mamba", D, L, 1, 1, 0.0, torch.Generator())


def test_the_help_names_every_backbone() -> None:
    from dataclasses import fields
    from typing import get_args, get_type_hints

    from foster_cli.commands import distill, eval
    from foster_cli.settings import ModelConfig

    for command in (distill.command, eval.command):
        option = get_args(get_type_hints(command, include_extras=True)["backbone"])[-1]
        assert all(name in option.help for name in BACKBONES)
    (field,) = (f for f in fields(ModelConfig) if f.name == "backbone")
    assert all(name in field.metadata["help"] for name in BACKBONES)


def test_parts_of_a_large_batch_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _made("bert4rec"), _x()
    assert isinstance(model, BERT4Rec)
    whole = model(x)
    monkeypatch.setattr("foster_cli.models.backbones.bert4rec.PART_TOKENS", 30)  # one sequence of 27 tokens at a time
    torch.testing.assert_close(model(x), whole, rtol=1e-12, atol=1e-12)
