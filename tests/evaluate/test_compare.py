"""`foster compare`'s parts: pairs, the choice of a rate, what names a cell; differences by brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import held_out_of, row_of

from foster_cli.baselines import METHODS
from foster_cli.console import SILENT
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate import compare
from foster_cli.evaluate.bootstrap import Bootstrap
from foster_cli.evaluate.cells import Cell, Cells
from foster_cli.evaluate.compare import Learned, Shrunk, pairs
from foster_cli.evaluate.plan import COMMON, Comparison, method_variant
from foster_cli.evaluate.row import Trained
from foster_cli.evaluate.summary import summarise
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import stream_seed
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, ModelConfig, Settings, StudentConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.task import Task

IDS = Settings(model=ModelConfig(items="id"))


def test_pairs() -> None:
    assert pairs(("kcenter",)) == (("kcenter", "full"),)
    assert pairs(("random", "kcenter")) == (("random", "full"), ("kcenter", "full"), ("kcenter", "random"))
    assert pairs(("td3", "random", "foster")) == (
        ("td3", "full"), ("random", "full"), ("foster", "full"), ("td3", "random"), ("foster", "random"),
        ("foster", "td3"),
    )  # fmt: skip


def test_paired_differences_by_brute_force() -> None:
    """Users and seeds of every resample written out, case by case, for rows of any name."""
    users, draws = [0, 0, 1, 2, 2, 2, 3], 40
    rng = np.random.default_rng(0)
    ranks = {name: rng.integers(1, 20, (2, len(users))).astype(float).tolist() for name in ("b", "a", "c")}
    found = summarise(
        {k: row_of(v) for k, v in ranks.items()}, held_out_of(users), (10,), [0, 1], draws, (("a", "b"), ("c", "d"))
    )
    assert list(found["paired"]) == ["a-b"] and list(found["rows"]) == ["b", "a", "c"]

    weights = Bootstrap.of(np.array(users), draws, np.random.default_rng(stream_seed(0, "bootstrap"))).weights
    times = np.random.default_rng(stream_seed(0, "bootstrap seeds", 2)).multinomial(2, [0.5, 0.5], size=draws)
    values: dict[str, list[float]] = {}
    for name in ranks:
        values[name] = []
        for b in range(draws):
            hits = [
                float(ranks[name][seed][case] <= 10)
                for seed in range(2) for _ in range(times[b, seed])
                for case, user in enumerate(users) for _ in range(int(weights[b, user]))
            ]  # fmt: skip
            values[name].append(sum(hits) / len(hits))
    low, high = np.percentile(np.array(values["a"]) - np.array(values["b"]), [2.5, 97.5])
    mean = {name: np.mean(np.array(r) <= 10) for name, r in ranks.items()}
    assert found["paired"]["a-b"]["R@10"] == pytest.approx({"diff": mean["a"] - mean["b"], "low": low, "high": high})


# the choice of a rate


def _stand_in(folder: Path) -> None:
    """The sums of a bundle of real sequences: all that is read of one where nothing trains on it."""
    (folder / "SHA256SUMS").write_text("0  windows.safetensors\n1  bundle.json\n")


def _choose(values: dict[float, float | None], tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> Shrunk:
    """The choice among the rates of `values`, where a model trained with each has this validation R@10 (None: NaN)."""

    def train_on(self: object, shrunk: Shrunk, rate: float, seed: int, label: str) -> Trained:
        value = values[rate]
        if value is None:
            raise NotFinite("the loss became nan", "use a lower learning rate")
        assert seed == 0
        model = SimpleNamespace(learnables=lambda: {"rate": rate}, named_parameters=list, known=None)
        return Trained(model, 1.0, 1.0, "step 5", value, 7.0)  # type: ignore[arg-type]

    monkeypatch.setattr(compare._Work, "train_on", train_on)
    plan = Comparison(task.data, IDS, (method_variant("random", IDS),), tuple(values), 1, (10,), Session(), tmp_path)
    _stand_in(tmp_path)
    work = compare._Work(plan, Cells(tmp_path / "cells", SILENT), {IDS.model: plan.base(IDS.model)}, {IDS.model: task})
    return work.choose_rate(Shrunk(plan.variants[0], tmp_path, {}, {}))


@pytest.mark.parametrize("held", [True, False])
def test_a_model_is_the_same_again(small_model: Callable[..., Any], held: bool) -> None:
    """Whether its items were held at V or learned, and although some of them do not occur in training."""

    def fresh(seed: int) -> Recommender:
        known = torch.arange(12) % 3 > 0
        model: Recommender = small_model(items="both", bias=True, known=known, seed=seed, double=False)
        return model

    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    Q = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    model, config = fresh(0), StudentConfig(steps=5, lr=1e-2, average=1, item_start="V" if held else "text")
    fit_synthetic(model, SyntheticSet(Q, V, uniform_subset(12, 6, V.device)), None, config, 0)
    again = Learned.of(Trained(model, 1.0, 1.0, "step 5", 0.5)).on(fresh(7)).model.eval()
    assert torch.equal(again.embed_all(), model.embed_all())
    assert torch.equal(again(V[None, :5]), model(V[None, :5]))


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({1e-3: 0.1, 3e-3: 0.3, 1e-2: 0.2}, 3e-3),
        ({1e-3: 0.3, 3e-3: 0.3}, 1e-3),
        ({1e-3: 0.0, 1e-2: None}, 1e-3),
        ({1e-2: None, 1e-3: 0.1}, 1e-3),
    ],
)
def test_the_best_rate_on_validation(
    values: dict[float, float | None], rate: float, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _choose(values, tmp_path, task, monkeypatch)
    assert found.rate == rate
    assert found.valid == {f"{k:g}": v for k, v in values.items()}
    assert found.first is not None and found.first.state == {"rate": rate} and found.first.valid == values[rate]
    given: list[dict[str, Any]] = []
    fresh: Any = SimpleNamespace(restore=given.append, learnables=dict, vector_dropout=SimpleNamespace(p=0.1))
    restored = found.first.on(fresh)
    assert restored == (fresh, 1.0, 1.0, "step 5", values[rate], 7.0) and given == [{"rate": rate}]
    again = _choose(values, tmp_path, task, monkeypatch)  # its cells are read
    assert again == replace(found, first=None)


def test_no_rate_that_works(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FosterError, match=r"--rates.*random"):
        _choose({1e-2: None, 1e-1: None}, tmp_path, task, monkeypatch)


def test_one_rate_is_no_choice(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _choose({0.5: None}, tmp_path, task, monkeypatch)
    assert found.rate == 0.5 and found.valid == {} and not (tmp_path / "cells").exists()


def test_what_a_method_does_not_read_decides_no_cell() -> None:
    config, student = DistillConfig(budget=7, length=9, steps=3, draws=2), StudentConfig(steps=5)
    settings = Settings(distill=config, student=student)
    other = replace(settings, distill=replace(config, steps=4), student=replace(student, steps=6))
    for name, method in METHODS.items():
        a, b = method_variant(name, settings), method_variant(name, other)
        assert (a.name, a.cell, a.settings.method, a.real) == (name, name, name, method.real)
        assert a.settings.model == settings.model
        own = a.settings.distill
        assert (own.draws == 2) == (name in ("foster", "rollout"))
        assert (own.budget, own.length) == (7, 9)
        assert (own == b.settings.distill) == (method.real or name == "rollout")
        assert (a.settings.student == b.settings.student) == method.real
    td3 = method_variant("td3", settings).settings.distill
    assert (td3.init, td3.targets, td3.mix, td3.items_per_step, td3.rank_user) == ("random", "next", False, None, 7)


# what names a cell


class _Recorded(Cells):
    """Cells that are made of nothing; `names` hears where each would lie."""

    names: list[str] = []  # noqa: RUF012

    def cell(self, name: str, fields: dict[str, Any], make: Any) -> Cell:
        self.names.append(self.path(name, fields).name)
        record = {"valid": 0.1, "coverage": 0.1, "train_seconds": 1.0, "peak_mb": 1.0, "chosen": None}
        record["processor"] = 1.0
        return Cell(record, np.array([1.0]))

    def bundle(self, name: str, fields: dict[str, Any], make: Any) -> Any:
        self.names.append(self.path(name, fields).name)
        return SimpleNamespace(path=self.folder, manifest={})


def test_what_decides_a_cell_decides_its_name(
    dataset_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell has a name of its own; another split or rate of the full data gives the cells it concerns others, and
    so does another encoder, which one row reads where items are known by their ids, or another row that says for how
    long one of them trains."""
    encoder = SimpleNamespace(hash="one")
    monkeypatch.setattr(compare, "find_encoder", lambda *_: encoder)
    _stand_in(tmp_path)
    data = dataset_of([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)], 2, ["a", "b"])
    variants = tuple(method_variant(method, IDS) for method in ("foster", "random", "rollout", "td3"))
    plan = Comparison(data, IDS, variants, (1e-3, 3e-3), 1, (20, 10), Session(), tmp_path)
    nothing: Any = SimpleNamespace(model=IDS.model)  # a task that no cell of these reads otherwise
    base, tasks, test = {IDS.model: plan.base(IDS.model)}, {IDS.model: nothing}, held_out_of([0])

    def names(split: str, full: float, first: int = 0, settings: Settings = IDS) -> list[str]:
        cells = _Recorded(tmp_path, SILENT)
        cells.names.clear()
        work = compare._Work(replace(plan, split=split, settings=settings), cells, base, tasks)
        made = [work.choose_rate(work.shrink(variant)) for variant in variants]
        for shrunk in made:
            work.variant_row(shrunk, test)
        work.common_rows(test, {IDS.model: full}, made[first], 1.0)
        return list(cells.names)

    plain = names("test", 1e-3)
    common = [f"{name}-s0" for name in COMMON if name != "text"]
    assert len(set(plain)) == len(plain) == 4 * 4 + len(common)
    assert names("test", 1e-3) == plain
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 3e-3), strict=True) if a != b]
    assert changed == ["full-s0", "equal_compute-s0"]  # what was distilled has the rate of the settings
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("valid", 1e-3), strict=True) if a != b]
    assert changed == ["foster-s0", "random-s0", "rollout-s0", "td3-s0", *common]
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 1e-3, first=1), strict=True) if a != b]
    assert changed == ["equal_compute-s0"]
    mixed = replace(IDS, distill=DistillConfig(teacher="id,item_knn"))
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 1e-3, settings=mixed), strict=True) if a != b]
    assert changed == ["teacher-s0"]
    encoder.hash = "another"
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 1e-3), strict=True) if a != b]
    assert changed == ["text_similarity-s0"]


def test_where_a_distillation_ended_decides_no_training(tmp_path: Path) -> None:
    """Bundles that differ in `state.safetensors` alone train the same models; those of other factors do not."""
    variant = method_variant("foster", Settings())

    def fields(factors: str, state: str) -> dict[str, Any]:
        (tmp_path / "SHA256SUMS").write_text(f"0  bundle.json\n{factors}  factors.safetensors\n{state}")
        return Shrunk(variant, tmp_path, {}, {}).training_fields(1e-3, 0)

    first = fields("1", "")
    assert fields("1", "2  state.safetensors\n3  state.json\n") == first != fields("4", "")
