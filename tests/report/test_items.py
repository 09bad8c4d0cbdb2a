"""Top items, spread, popularity and map against independent computations in numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from foster_cli.bundle import Bundle, load
from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.report.content import Chart
from foster_cli.report.gather import gather
from foster_cli.report.items import Mass, item_map, popularity, read_sequences


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _expected(bundle: Bundle) -> tuple[np.ndarray, np.ndarray | None]:
    """P read and predicted, (M, L, n) each, from the factors by hand."""
    U, T, G = (bundle.factors[k].double().numpy() for k in "UTG")
    V = bundle.V.double().numpy()
    Q = np.einsum("ma,tb,abd->mtd", U, T, G)
    if not bundle.own_goals:
        return _softmax(Q @ V.T), None
    half = Q.shape[1] // 2
    read = np.zeros((len(Q), half, len(V)))
    assert bundle.reading.items is not None
    items = bundle.reading.items.numpy()
    read[..., items] = _softmax(Q[:, :half] @ V[items].T)
    return read, _softmax(Q[:, half:] @ V.T)


@pytest.mark.parametrize("own", [True, False])
def test_positions_hold_the_likeliest_items(make_bundle: Callable[..., Path], tmp_path: Path, own: bool) -> None:
    loaded = load(make_bundle(tmp_path / "b", own))
    sequences, mass = read_sequences(loaded)
    P, goals = _expected(loaded)
    assert len(sequences) == len(P)
    for m, sequence in enumerate(sequences):
        assert len(sequence.read) == P.shape[1] and len(sequence.goals) == (P.shape[1] if own else 0)
        for side, truth in ((sequence.read, P), (sequence.goals, goals)):
            for t, position in enumerate(side):
                assert truth is not None
                p = truth[m, t]
                assert position.items.tolist() == np.argsort(-p, kind="stable")[:10].tolist()
                assert position.probability == pytest.approx(np.sort(p)[::-1][:10], rel=1e-4)
                assert position.spread == pytest.approx(np.exp(stats.entropy(p)), rel=1e-4)
    assert mass.read == pytest.approx(P.mean((0, 1)), rel=1e-4, abs=1e-9)
    if goals is None:
        assert mass.goals is None
    else:
        assert mass.goals == pytest.approx(goals.mean((0, 1)), rel=1e-4)


def test_a_coreset_is_read_as_it_is(coreset: Path) -> None:
    sequences, mass = read_sequences(load(coreset))
    assert [[int(p.items[0]) for p in s.read] for s in sequences] == [[0, 1, 2, 3, 4, 5, 6], [7, 7, 8]]
    assert all(p.probability.tolist() == [1.0] and p.spread == 1 for s in sequences for p in s.read)
    assert mass.read[:10] == pytest.approx(np.array([1, 1, 1, 1, 1, 1, 1, 2, 1, 0]) / 10) and mass.goals is None


def test_not_finite_is_refused(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load(make_bundle(tmp_path / "b", False))
    loaded.factors["U"][1, 0] = torch.nan
    with pytest.raises(FosterError, match="sequence 2: probabilities that are not finite"):
        read_sequences(loaded)


def test_equal_probabilities_stand_in_the_order_of_the_catalogue(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = load(make_bundle(tmp_path / "b", False))
    loaded.factors["G"].zero_()
    sequences, _ = read_sequences(loaded)
    assert sequences[0].read[0].items.tolist() == sorted(sequences[0].read[0].items.tolist())
    assert sequences[0].read[0].spread == pytest.approx(len(loaded.titles))


def _line(chart: Chart, label: str) -> np.ndarray:
    return next(s.y for s in chart.series if s.label == label)


def test_popularity_is_counted_in_training_alone(data: Dataset) -> None:
    rows = data.interactions
    train = rows.item[rows.split == 0]
    n = len(data.catalogue)
    read = np.zeros(n)
    read[[0, 3]] = [0.75, 0.25]
    by_rank, cumulative = popularity(Mass(read, np.full(n, 1 / n)), train, real=False)
    counts: dict[int, int] = {}
    for item in train.tolist():
        counts[item] = counts.get(item, 0) + 1
    falling = sorted((counts.get(i, 0) for i in range(n)), reverse=True)
    assert by_rank.x.tolist() == list(range(1, n + 1)) and by_rank.log_x and by_rank.log_y
    assert _line(by_rank, "real") == pytest.approx([c / len(train) * n if c else np.nan for c in falling], nan_ok=True)
    assert _line(by_rank, "synthetic, read")[:3] == pytest.approx([0.75 * n, 0.25 * n, np.nan], nan_ok=True)
    assert _line(by_rank, "synthetic, predicted") == pytest.approx(np.ones(n))
    order = sorted(range(n), key=lambda i: -counts.get(i, 0))
    k = round(n * 0.25)
    at = int(np.argmin(abs(cumulative.x - k / n)))
    assert cumulative.x[at] == pytest.approx(k / n)
    assert _line(cumulative, "real")[at] == pytest.approx(sum(falling[:k]) / len(train))
    assert _line(cumulative, "synthetic, read")[at] == pytest.approx(sum(read[i] for i in order[:k]))
    assert all(s.y[0] == 0 and s.y[-1] == pytest.approx(1) for s in cumulative.series)


def test_popularity_of_many_items_is_drawn_by_few_points() -> None:
    share = np.arange(50_000, 0, -1) / (50_000 * 50_001 / 2)
    (chart,) = popularity(Mass(share, None), None, real=False)
    assert len(chart.x) <= 200 and chart.x[0] == 1 and chart.x[-1] == 50_000
    assert [s.label for s in chart.series] == ["synthetic"]
    expected = share[chart.x.astype(int) - 1] * 50_000
    expected[expected < 1e-4] = np.nan  # the last one, 4e-5
    assert chart.series[0].y == pytest.approx(expected, nan_ok=True) and np.isnan(expected).sum() == 1


def test_the_map_is_the_first_two_principal_components(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load(make_bundle(tmp_path / "b"))
    found = item_map(loaded.V, read_sequences(loaded)[0])
    X = loaded.V.double().numpy()
    X = X - X.mean(0)
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    expected = X @ Vt[:2].T
    assert found.items.tolist() == list(range(len(X))) and found.total == len(X)
    for axis in (0, 1):
        sign = np.sign(expected[:, axis] @ found.xy[:, axis])
        assert found.xy[:, axis] == pytest.approx(sign * expected[:, axis], abs=1e-9)
    assert found.explained == pytest.approx(s[:2] ** 2 / (s**2).sum())


def test_a_large_map_keeps_what_the_sequences_name(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load(make_bundle(tmp_path / "b"))
    sequences, _ = read_sequences(loaded)
    named = {int(p.items[0]) for s in sequences for p in (*s.read, *s.goals)}
    found = item_map(loaded.V, sequences, limit=len(named) + 3)
    whole = item_map(loaded.V, sequences)
    assert named <= set(found.items.tolist()) and len(named) <= len(found.items) <= len(named) + 3
    assert found.xy == pytest.approx(whole.xy[found.items])
    assert found.total == len(loaded.titles)
    again = item_map(loaded.V, sequences, limit=len(named) + 3)
    assert again.items.tolist() == found.items.tolist()


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (3, 2)])
def test_maps_of_very_little(shape: tuple[int, int]) -> None:
    found = item_map(torch.ones(shape), [])
    assert found.xy.shape == (shape[0], 2) and np.isfinite(found.xy).all() and np.isfinite(found.explained).all()


def test_the_report_counts_training_interactions_alone(
    make_bundle: Callable[..., Path], tmp_path: Path, data: Dataset
) -> None:
    found = gather(load(make_bundle(tmp_path / "b")), None, data)
    counts = [0] * len(data.catalogue)
    for item, split in zip(data.interactions.item.tolist(), data.interactions.split.tolist(), strict=True):
        counts[item] += split == 0
    assert 0 < sum(counts) < len(data.interactions)
    real = [count / sum(counts) * len(counts) for count in sorted(counts, reverse=True)]
    assert _line(found.popularity[0], "real") == pytest.approx(real)
    assert found.missing_real == "" and found.real is False and found.own
