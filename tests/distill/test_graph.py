"""Training steps replayed from a CUDA graph: the same numbers as without, with dropout too (`-m gpu`)."""

from __future__ import annotations

import pytest
import torch

from foster_cli.distill.algorithm1 import inner_steps
from foster_cli.distill.graph import StepGraph, step_graph
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import adamw, generator
from foster_cli.settings import ModelConfig
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.average import Average

N, M, L, D, STEPS = 60, 5, 6, 16, 12


def _trained(
    device: torch.device, graphed: bool, dropout: bool, backbone: str = "sasrec-relative"
) -> list[torch.Tensor]:
    """The averaged weights, the weights and the losses of calls of 5 and 7 steps."""
    config = ModelConfig(items="id", width=D, heads=2, layers=2, dropout=0.3, backbone=backbone)
    phi = Recommender(N, config, L, 0).to(device)
    phi.sequence.seed_dropout(3)
    phi.train(dropout)
    rng = torch.Generator().manual_seed(1)
    Q, V = torch.randn(M, 2 * L, D, generator=rng).to(device), torch.randn(N, D, generator=rng).to(device)
    reading = Reading(True, torch.arange(0, N, 3, device=device), 2 * M)
    D_ = SyntheticSet(Q, V, uniform_subset(N, 12, device), reading)
    average, optimizer = Average(phi, 4), adamw(phi.groups(1e-2, 1e-2))
    graph = step_graph(phi, pytest.fail) if graphed else None
    draws = generator(0, "steps")
    losses = [inner_steps(phi, D_, n, optimizer, draws, average, graph).clone() for n in (5, STEPS - 5)]
    assert graph is None or graph.graph is not None
    return [x.detach().cpu() for x in (*average.model.parameters(), *phi.parameters(), *losses)]


def test_there_is_no_graph_on_a_cpu() -> None:
    phi = Recommender(N, ModelConfig(items="id", width=D, heads=2), L, 0)
    assert step_graph(phi, pytest.fail) is None


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["sasrec-relative", "sasrec", "ligr", "hstu", "gru4rec"])
@pytest.mark.parametrize("dropout", [False, True])
def test_a_replayed_step_is_the_step(backbone: str, dropout: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    device = torch.device("cuda")
    plain, graphed = (_trained(device, graph, dropout, backbone) for graph in (False, True))
    for a, b in zip(plain, graphed, strict=True):
        torch.testing.assert_close(b, a, rtol=2e-3, atol=2e-4)
    for a, b in zip(graphed, _trained(device, True, dropout, backbone), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
def test_what_cannot_be_recorded_is_said_once_and_done_all_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    notes: list[str] = []
    phi = Recommender(N, ModelConfig(items="id", width=D, heads=2), L, 0).to("cuda")
    graph = StepGraph(phi, notes.append)
    with graph.running():
        found = [graph(lambda x: x.sum() + float(x[0]), [torch.full((2,), float(i), device="cuda")]) for i in range(6)]
    assert [float(x) for x in found] == [3.0 * i for i in range(6)] and len(notes) == 1
