"""The rows beside a synthetic set, each against scores computed case by case, and which of them are left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from spying import spy

from foster_cli.data.windows import Cases, Windows
from foster_cli.errors import FosterError
from foster_cli.evaluate import plan, references, rows
from foster_cli.evaluate.references import REFERENCES, Sources
from foster_cli.evaluate.row import HeldOut, Row, held_out
from foster_cli.models.recommender import Recommender
from foster_cli.neighbours import ease, item_knn, mixed, recent, tfidf
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, ModelConfig, Settings, StudentConfig, TrainConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.anchors import full_teacher
from foster_cli.train.mixture import mixture_of
from foster_cli.train.task import Task, make_task

TRAIN = TrainConfig(batch=32, epochs=6, negatives=30, patience=6, lr=2e-2)  # it learns the order
SETTINGS = Settings(train=TRAIN, distill=DistillConfig(budget=3), student=StudentConfig(steps=4, check_every=2))
STUDENT = rows.Student(SETTINGS.student)
K = 5
Scores = npt.NDArray[np.float64]


@pytest.fixture
def of(task: Task) -> Sources:
    return Sources(task, held_out(task, K), TRAIN)


def _history(cases: Cases, c: int) -> list[int]:
    found: list[int] = cases.history[c, : cases.lengths[c]].tolist()
    return found


def _model_scores(model: Recommender, V: torch.Tensor, cases: Cases) -> Scores:
    """(C, n) float64, one history at a time: the items by `V`, which the model reads too."""
    out = np.empty((len(cases), len(V)))
    with torch.no_grad():
        for c in range(len(cases)):
            H = model.eval()(V[_history(cases, c)][None])[0, -1]
            out[c] = V.double().numpy() @ H.double().numpy()
    return out


def _ranked(scores: Scores, cases: Cases, k: int = K) -> tuple[list[float], float]:
    """Each target's rank and the share of the items in somebody's top k, in plain Python."""
    ranks, top = list[float](), set[int]()
    for c, line in enumerate(scores):
        out = set[int]()
        if cases.seen is not None:
            items, offsets = cases.seen
            out = set(items[offsets[c] : offsets[c + 1]].tolist())
        target = int(cases.target[c])
        left = [i for i in range(len(line)) if i not in out or i == target]
        others = [line[i] for i in left if i != target]
        ranks.append(1 + sum(s > line[target] for s in others) + sum(s == line[target] for s in others) / 2)
        left = [i for i in range(len(line)) if i not in out]
        top |= set(sorted(left, key=lambda i: (-line[i], i))[:k])
    return ranks, len(top) / scores.shape[1]


def _agrees(row: Row, scores: Scores, test: HeldOut) -> None:
    """The row has the ranks of these scores; float32 may swap two of thousands of neighbours."""
    expected, share = _ranked(scores, test.cases)
    (found,) = row.ranks
    assert np.abs(found - expected).max() <= 1.0 and (found != expected).mean() < 0.02
    assert row.coverage == pytest.approx([share], abs=1.01 / scores.shape[1])
    assert len(set(expected)) > 5


def _recall(scores: Scores, cases: Cases) -> float:
    return float(np.mean([rank <= 10 for rank in _ranked(scores, cases)[0]]))


def test_item_factor_by_hand(of: Sources) -> None:
    """V of the teacher of the bundle's seed, read and scored by an untrained backbone of the row's own seed. On one
    that starts elsewhere for every seed: an untrained default one averages the history."""
    task = make_task(of.task.data, replace(of.task.model, backbone="gru4rec"), of.task.length, of.task.session)
    of = replace(of, task=task)
    V = full_teacher(of.task, TRAIN, 1).model.embed_all()
    found = REFERENCES["item_factor"](replace(of, seed=1), 3)
    fresh = of.task.fresh(3)
    _agrees(found, _model_scores(fresh, V, of.test.cases), of.test)
    assert found.valid == pytest.approx([_recall(_model_scores(fresh, V, of.task.valid), of.task.valid)], abs=0.03)
    untrained = REFERENCES["untrained"](of, 3)
    _agrees(untrained, _model_scores(fresh, fresh.embed_all(), of.test.cases), of.test)
    other = REFERENCES["item_factor"](replace(of, seed=1), 4)
    for row in (untrained, other):
        assert (found.ranks != row.ranks).mean() > 0.2


def test_the_teacher_is_the_recommender_of_the_bundles_seed(of: Sources) -> None:
    teacher = REFERENCES["teacher"](replace(of, seed=2), 0)
    rows = {seed: REFERENCES["full"](of, seed) for seed in (0, 2)}
    assert np.array_equal(teacher.ranks, rows[2].ranks) and not np.array_equal(teacher.ranks, rows[0].ranks)
    assert teacher.valid == rows[2].valid and teacher.coverage == rows[2].coverage
    model = full_teacher(of.task, TRAIN, 2).model
    _agrees(teacher, _model_scores(model, model.embed_all(), of.test.cases), of.test)


def test_a_mixed_teacher_by_hand(of: Sources) -> None:
    """The weighted sum of the members' scores: the recommender's one history at a time, item kNN's by loops."""
    found = mixture_of("both,item_knn", of.task, TRAIN, 1)
    row = REFERENCES["teacher"](replace(of, seed=1, teacher="both,item_knn"), 0)
    model, knn = full_teacher(of.task, TRAIN, 1).model, item_knn.choose(of.task.data, of.task.valid).model
    W, cases = knn.weights.toarray().astype(np.float64), of.test.cases
    total = found.weights.get("both", 0.0) * _model_scores(model, model.embed_all(), cases)
    for c in range(len(cases)):
        for age, item in enumerate(reversed(_history(cases, c))):
            total[c] += found.weights.get("item_knn", 0.0) * knn.decay**age * W[item]
    _agrees(row, total, of.test)
    assert row.chosen == [found.text().split("; ")[0]] and row.valid == [found.valid["R@10"]]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("item_knn", item_knn),
        ("knn_tfidf", mixed),
        ("tfidf", tfidf),
        ("ease", ease),
        ("recent_popularity", recent),
    ],
)
def test_models_that_count(of: Sources, name: str, module: Any) -> None:
    """The settings that validation chooses, written in the row, and the ranks of that model's scores."""
    chosen = module.choose(of.task.data, of.task.valid)
    row, cases = REFERENCES[name](of, 7), of.test.cases
    expected, share = _ranked(chosen.model.scores(cases, np.arange(len(cases))).astype(np.float64), cases)
    assert row.ranks[0].tolist() == expected and row.coverage == [share]
    assert row.valid == [chosen.recall] and chosen.text.startswith(f"{row.chosen[0]}: validation R@10")


def test_equal_compute_takes_about_as_long_as_it_is_given(of: Sources) -> None:
    """Processor time: how busy the machine is has no say."""
    long = replace(of, train=replace(TRAIN, epochs=10**4, patience=10**4))
    took = {seconds: REFERENCES["equal_compute"](replace(long, seconds=seconds), 0) for seconds in (0.0, 0.3, 1.5)}
    for seconds, row in took.items():
        assert seconds <= row.processor[0] < 1.3 * seconds + 0.2
    steps = [int(row.chosen[0].removesuffix(" epochs")) for row in took.values()]
    assert steps[0] == 0 < steps[1] < steps[2]
    assert np.array_equal(took[0.0].ranks, REFERENCES["untrained"](of, 0).ranks)


def _made(
    task: Task, names: tuple[str, ...], seeds: list[int], monkeypatch: pytest.MonkeyPatch,
    student: rows.Student = STUDENT, source: Windows | None = None,
) -> tuple[Any, str]:  # fmt: skip
    """The rows of `names`, and what was noted meanwhile; of a synthetic set unless `source` is a coreset."""
    notes: list[str] = []
    console = task.session.console
    monkeypatch.setattr(type(console), "note", lambda self, text: notes.append(text))
    rng = torch.Generator().manual_seed(0)
    Q, V = torch.randn(3, 8, 16, generator=rng), torch.randn(30, 16, generator=rng)
    D = SyntheticSet(Q, V, uniform_subset(30, 10, task.device))
    found = rows.rows(task, held_out(task, K), source or D, SETTINGS, student, names, seeds)
    return found, "\n".join(notes)


@pytest.mark.parametrize("named", [True, False])
def test_equal_compute_is_given_what_the_synthetic_row_took(
    task: Task, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    given, original = [], references.equal_model

    def seen(of: Sources, seed: int) -> Any:
        given.append((of.seconds, seed))
        return original(of, seed)

    took = iter([1.0, 4.0])
    real = rows.synthetic_model
    monkeypatch.setattr(rows, "synthetic_model", lambda *args: real(*args)._replace(processor=next(took)))
    monkeypatch.setattr(references, "equal_model", seen)
    names = ("equal_compute", "synthetic") if named else ("equal_compute",)
    found, _ = _made(task, names, [0, 1], monkeypatch)
    assert given == [(2.5, 0), (2.5, 1)] and list(found) == list(reversed(names))


def _known_by(task: Task, items: str) -> Task:
    """The task of a recommender that knows items so, made anew."""
    return make_task(task.data, replace(task.model, items=items), task.length, Session(use_cache=False))


def test_texts_alone_and_ids_alone(of: Sources) -> None:
    """The row `full` of a recommender that is made to know items so."""
    assert of.task.model.items == "both"
    full = REFERENCES["full"](of, 1)
    for name in ("text", "id"):
        found, own = REFERENCES[name](of, 1), _known_by(of.task, name)
        assert np.array_equal(found.ranks, REFERENCES["full"](replace(of, task=own), 1).ranks)
        assert not np.array_equal(found.ranks, full.ranks)
    assert own.source is None


@pytest.mark.parametrize(
    ("items", "name", "note"),
    [
        ("text", "text", "with --items text it is the row full"),
        ("id", "id", "with --items id it is the row full"),
        ("id", "text", "without texts"),
        ("text", "synthetic_text", "with --items text it is the row synthetic"),
        ("id", "synthetic_text", "without texts"),
    ],
)
def test_a_row_that_is_another_one_is_left_out(
    task: Task, monkeypatch: pytest.MonkeyPatch, items: str, name: str, note: str
) -> None:
    own = _known_by(task, items)
    found, notes = _made(own, (name, "untrained", "popularity"), [0], monkeypatch)
    assert list(found) == ["untrained", "popularity"]
    assert f"row {name} is left out: {note}" in notes
    with pytest.raises(FosterError, match=f"--rows {name}: {note}"):  # by itself it would leave an empty table
        _made(own, (name,), [0], monkeypatch)


def test_the_row_without_the_factor_is_another_training_on_the_same_set(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item vectors start at their texts, with the steps and items that this needs; validated if the others are."""
    asked: list[dict[str, Any]] = []
    spy(monkeypatch, rows, "fit_synthetic", asked.append)
    monkeypatch.setattr(rows, "LONGER", {"steps": 6, "items_per_step": 7})
    for validated in (False, True):
        asked.clear()
        student = rows.Student(replace(SETTINGS.student, lr=0.5), validated)
        found, _ = _made(task, ("synthetic", "without_factor"), [3], monkeypatch, student)
        own, other = asked
        assert own["config"] == student.config and own["config"].item_start == "V"
        assert other["config"] == replace(student.config, item_start="text", steps=6, items_per_step=7)
        sizes = [len(given["D"].subset(torch.Generator().manual_seed(0))) for given in (own, other)]
        assert sizes == [10, 7] and torch.equal(own["D"].Q, other["D"].Q) and own["seed"] == other["seed"] == 3
        assert all((given["valid"] is not None) == validated for given in asked)
        assert not np.array_equal(found["synthetic"].ranks, found["without_factor"].ranks)


def test_the_row_of_texts_alone_trains_models_without_vectors(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same set, from what texts can hold of V, at the width of the others."""
    asked: list[dict[str, Any]] = []
    spy(monkeypatch, rows, "fit_synthetic", asked.append)
    monkeypatch.setattr(rows, "LONGER", {"steps": 6, "items_per_step": 7})
    _made(task, ("synthetic", "synthetic_text"), [3], monkeypatch, rows.Student(SETTINGS.student))
    own, other = asked
    assert own["phi"].table is not None and other["phi"].table is None
    assert own["phi"].width == other["phi"].width and other["config"].item_start == "V"
    assert other["config"].steps == 6 and torch.equal(own["D"].Q, other["D"].Q) and own["seed"] == other["seed"] == 3


def test_the_row_without_the_factor_takes_what_a_set_without_v_took() -> None:
    """The training that the sets of earlier versions were validated with."""
    config = rows.Student(StudentConfig(steps=4, items_per_step=5)).longer("text").config
    assert config == StudentConfig(steps=600, items_per_step=2048, item_start="text")


def test_the_row_without_the_factor_is_left_out_where_it_says_nothing(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    coreset = task.windows.take(np.arange(3)).alone()
    text = rows.Student(replace(SETTINGS.student, item_start="text"))
    for student, source, note in (
        (text, None, "it is the row synthetic"),
        (STUDENT, coreset, "real sequences bring no item factor"),
    ):
        found, notes = _made(task, ("without_factor", "popularity"), [0], monkeypatch, student, source)
        assert list(found) == ["popularity"] and f"row without_factor is left out: {note}" in notes
        with pytest.raises(FosterError, match=f"--rows without_factor: {note}"):
            _made(task, ("without_factor",), [0], monkeypatch, student, source)


def test_ids_leave_texts_to_the_rows_that_read_them(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the encoder there is no text similarity; titles by their words need none."""
    model = replace(task.model, items="id", encoder="/nowhere")
    own = make_task(task.data, model, task.length, Session(use_cache=False))
    found, notes = _made(own, ("text_similarity", "knn_tfidf"), [0], monkeypatch)
    assert list(found) == ["knn_tfidf"] and "row text_similarity is left out: " in notes and "/nowhere" in notes
    with pytest.raises(FosterError, match="nowhere"):
        _made(own, ("text_similarity",), [0], monkeypatch)


def test_ease_is_left_out_where_it_would_take_too_long(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ease.MOST_ITEMS == 30_000
    monkeypatch.setattr(ease, "MOST_ITEMS", 29)
    found, notes = _made(task, ("ease", "popularity"), [0], monkeypatch)
    assert list(found) == ["popularity"] and "row ease is left out: EASE inverts a matrix of 30 x 30 items" in notes
    with pytest.raises(FosterError, match="EASE inverts"):
        _made(task, ("ease",), [0], monkeypatch)
    monkeypatch.setattr(ease, "MOST_ITEMS", 30)
    found, notes = _made(task, ("ease", "popularity"), [0], monkeypatch)
    assert list(found) == ["ease", "popularity"] and "left out" not in notes


def test_another_error_of_a_row_is_not_hidden(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(of: Sources, seed: int) -> Row:
        raise FosterError("no space left", "free some")

    monkeypatch.setitem(REFERENCES, "item_knn", fails)
    with pytest.raises(FosterError, match="no space left"):
        _made(task, ("item_knn", "popularity"), [0], monkeypatch)


def test_the_default_recommender_has_the_rows() -> None:
    """A recommender with both leaves out no row but by an error of the data."""
    both = ModelConfig(items="both")
    assert [references.left_out(name, both) for name in rows.ROWS] == [None] * len(rows.ROWS)


@pytest.mark.parametrize("known", [rows.ROWS, plan.ROWS])
def test_the_rows_that_are_asked_for(known: tuple[str, ...]) -> None:
    """The tables of `foster eval` and `foster compare`: each row once, in the table's order, whatever was typed."""
    assert references.asked_rows("all", known) == references.asked_rows(",".join(reversed(known)), known) == known
    assert references.asked_rows(None, known) == tuple(name for name in known if name != "id")
    assert references.asked_rows(" popularity,id, full,,id", known) == ("full", "id", "popularity")
    for text, words in (("full,fulll", "--rows fulll: no such"), ("all,full", "--rows all"), (" ,", "names no row")):
        with pytest.raises(FosterError, match=words) as raised:
            references.asked_rows(text, known)
        assert raised.value.hint == f"use all, or some of {','.join(known)}"


def test_the_two_tables_share_their_common_rows() -> None:
    """What is a method in `foster compare` is no common row there."""
    assert [name for name in rows.ROWS if name not in plan.ROWS] == [*rows.SYNTHETIC, "random"]
    assert [name for name in rows.ROWS if name in plan.ROWS] == list(plan.ROWS)
    assert [name for name in rows.DEFAULT if name in plan.ROWS] == list(plan.COMMON)
