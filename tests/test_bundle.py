"""The artifact: what is written comes back, and is read as the distributions that it stands for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_set import IDS, MANIFEST, READS, STUDENT, TITLES, L, M, N, parts, write_own, write_set

import foster_cli
from foster_cli.bundle import FILES, SUMS, load
from foster_cli.files import sha256_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle to read."""
    return write_set(tmp_path / "run")


def test_what_is_saved_comes_back(folder: Path) -> None:
    factors, V = parts()
    found = load(folder)
    assert found.manifest == {"format": 4, **MANIFEST} and found.path == folder
    assert all(torch.equal(found.factors[k], v) for k, v in factors.items()) and torch.equal(found.V, V)
    assert found.item_ids == IDS and found.titles == TITLES
    assert found.learning_rate == 3e-4
    Q = np.einsum("ma,tb,abd->mtd", *(factors[k].double().numpy() for k in "UTG"))
    np.testing.assert_allclose(found.Q.numpy(), Q, rtol=1e-5, atol=1e-6)
    assert pd.read_csv(folder / "log.csv").to_dict("records") == [{"step": 1.0, "q": 0.5}]
    assert pd.read_csv(folder / "checks.csv").to_dict("records") == [{"step": 0.0, "R@10": 0.1}]
    assert {p.name for p in folder.iterdir()} == {*FILES, SUMS}
    assert torch.equal(foster_cli.load(str(folder)).V, V)  # the documented way in


def test_sums_are_those_of_sha256sum(folder: Path) -> None:
    lines = (folder / SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == list(FILES)
    assert all(line.split("  ")[0] == sha256_file(folder / line.split("  ")[1]) for line in lines)


def test_two_saves_are_byte_for_byte_the_same(tmp_path: Path) -> None:
    a, b = write_set(tmp_path / "a"), write_set(tmp_path / "b")
    assert (a / SUMS).read_bytes() == (b / SUMS).read_bytes()


def test_a_set_without_outer_steps_is_saved(tmp_path: Path) -> None:
    assert load(write_set(tmp_path / "x", log=[])).item_ids == IDS


def test_probabilities_are_the_softmax(folder: Path) -> None:
    found = load(folder)
    Q, V = found.Q.double().numpy(), found.V.double().numpy()
    items = [7, 0, 3]
    for chosen, given in ((list(range(N)), None), (items, torch.tensor(items))):
        P = found.probabilities(items=given).numpy()
        for m in range(M):
            for t in range(L):
                e = [math.exp(Q[m, t] @ V[i]) for i in chosen]
                np.testing.assert_allclose(P[m, t], np.array(e) / sum(e), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.probabilities(slice(1, 2)), found.probabilities()[1:2])


def test_batches_are_distributions_with_the_target_one_step_ahead(folder: Path) -> None:
    found = load(folder)
    batches = list(found.batches(30, seed=3, items_per_step=4))
    assert len(batches) == 30
    for batch in batches:
        assert batch.items.shape == (4,) and len(batch.items.unique()) == 4
        assert batch.inputs.shape == batch.targets.shape == (M, L - 1, 4)
        torch.testing.assert_close(batch.inputs.sum(-1), torch.ones(M, L - 1))
        torch.testing.assert_close(batch.targets.sum(-1), torch.ones(M, L - 1))
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        torch.testing.assert_close(batch.targets, found.probabilities(items=batch.items)[:, 1:])
    assert {int(i) for b in batches for i in b.items} == set(range(N))


def test_batches_repeat_with_their_seed(folder: Path) -> None:
    found = load(folder)

    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed + 77)
        return [b.items.tolist() for b in found.batches(5, seed=seed, items_per_step=4)]

    assert drawn(0) == drawn(0) != drawn(1)
    for size in (N, N + 1):
        assert [b.items.tolist() for b in found.batches(2, items_per_step=size)] == [list(range(N))] * 2


def test_without_numbers_there_are_as_many_batches_and_items_as_the_recipe_says(tmp_path: Path) -> None:
    """The steps that validation chose when the set was made; of an earlier set, the most that it tried."""
    found = load(write_set(tmp_path / "set"))
    assert found.recipe == replace(STUDENT, steps=6) and found.made.student == STUDENT
    assert [len(b.items) for b in found.batches()] == [4] * 6
    assert [len(b.items) for b in found.batches(items_per_step=5)] == [5] * 6
    assert [len(b.items) for b in found.batches(2)] == [4] * 2
    same = found.batches(6, seed=0, items_per_step=4)
    for one, other in zip(found.batches(), same, strict=True):
        assert torch.equal(one.items, other.items) and torch.equal(one.targets, other.targets)
    own = found.made.model.backbone
    assert found.recipe_for(own) == found.recipe
    assert found.recipe_for("gru4rec") == replace(found.recipe, lr=max(3e-3, STUDENT.lr))
    student = {**MANIFEST["student"], "items_per_step": None}
    before = load(write_set(tmp_path / "before", manifest={**MANIFEST, "student": student, "metrics": {}}))
    assert before.recipe == before.made.student == replace(STUDENT, items_per_step=None)
    assert [b.items.tolist() for b in before.batches()] == [list(range(N))] * 9


def test_own_goals_are_read_over_their_items_and_predicted_over_all(tmp_path: Path) -> None:
    found = load(write_own(tmp_path / "own"))
    factors, V = parts()
    Q = torch.einsum("ma,tb,abd->mtd", factors["U"], factors["T"], factors["G"]).numpy()
    P, G = found.probabilities().numpy(), found.goals().numpy()
    assert found.own_goals and P.shape == G.shape == (M, L // 2, N)
    for m in range(M):
        for t in range(L // 2):
            read = np.exp(V[READS].numpy() @ Q[m, t])
            np.testing.assert_allclose(P[m, t, READS.numpy()], read / read.sum(), rtol=1e-4)
            goal = np.exp(V.numpy() @ Q[m, L // 2 + t])
            np.testing.assert_allclose(G[m, t], goal / goal.sum(), rtol=1e-4)
    assert (np.delete(P, READS.numpy(), axis=2) == 0).all()
    some = torch.tensor([9, 0])
    assert torch.equal(found.probabilities(slice(1, 2), some), found.probabilities()[1:2, :, some])
    np.testing.assert_allclose(found.goals(slice(1, 2), some).sum(-1), 1.0, rtol=1e-6)


def test_batches_of_a_mixed_set_lie_between_two_users(tmp_path: Path) -> None:
    found = load(write_own(tmp_path / "own"))
    P, V = found.probabilities(), found.V
    for batch in found.batches(3, seed=1, items_per_step=5):
        assert torch.equal(batch.read_items, READS)
        assert batch.inputs.shape == (2 * M, L // 2, 3) and batch.targets.shape == (2 * M, L // 2, 5)
        for b in range(2 * M):
            # the weights of the mixture, by least squares from what is read
            A = P[:, :, READS].reshape(M, -1).T.double()
            w = torch.linalg.lstsq(A, batch.inputs[b].reshape(-1, 1).double()).solution[:, 0]
            torch.testing.assert_close(w.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-4)
            goal = torch.einsum("m,mtd->td", w.float(), found.Q[:, L // 2 :])
            expected = torch.softmax(goal @ V[batch.items].T, -1)
            torch.testing.assert_close(batch.targets[b], expected, rtol=1e-3, atol=1e-4)


def test_batches_of_an_unmixed_set_with_own_goals_are_the_set(tmp_path: Path) -> None:
    found = load(write_own(tmp_path / "own", mix=False))
    (batch,) = found.batches(1, items_per_step=N)
    assert torch.equal(batch.inputs, found.probabilities()[..., READS])
    torch.testing.assert_close(batch.targets, found.goals())
