"""`foster compare`'s parts: pairs, cells, the choice of a rate, the written forms; differences by brute force."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.baselines import METHODS
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.windows import Cases
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate import table
from foster_cli.evaluate.cells import Cell, Cells, as_cell, as_row
from foster_cli.evaluate.compare import Row, joined, summarise
from foster_cli.evaluate.compare import Test as Held  # a name that pytest does not collect
from foster_cli.evaluate.formats import md_escape, metrics, tex_escape, to_csv, to_md, to_tex
from foster_cli.evaluate.metrics import Bootstrap
from foster_cli.evaluate.plan import Plan, method_variant
from foster_cli.evaluate.table import Shrunk, choose_rate, pairs
from foster_cli.runtime import stream_seed


def test_pairs() -> None:
    assert pairs(("kcenter",)) == (("kcenter", "full"),)
    assert pairs(("random", "kcenter")) == (("random", "full"), ("kcenter", "full"), ("kcenter", "random"))
    assert pairs(("td3", "random", "foster")) == (
        ("td3", "full"), ("random", "full"), ("foster", "full"), ("td3", "random"), ("foster", "random"),
        ("foster", "td3"),
    )  # fmt: skip


def _row(ranks: list[list[float]]) -> Row:
    n = len(ranks)
    return Row(np.array(ranks, dtype=np.float64), [0.5] * n, [2.0] * n, [100.0] * n, [None] * n)


def _held(users: list[int]) -> Held:
    C = len(users)
    zero = np.zeros(C, np.int64)
    return Held(Cases(np.zeros((C, 1), np.int64), zero + 1, zero, np.array(users), np.arange(C)), None, 10)


def test_paired_differences_by_brute_force() -> None:
    """Users and seeds of every resample written out, case by case, for rows of any name."""
    users, draws = [0, 0, 1, 2, 2, 2, 3], 40
    rng = np.random.default_rng(0)
    ranks = {name: rng.integers(1, 20, (2, len(users))).astype(float).tolist() for name in ("b", "a", "c")}
    found = summarise(
        {k: _row(v) for k, v in ranks.items()}, _held(users), (10,), [0, 1], draws, (("a", "b"), ("c", "d"))
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


# cells


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    cells, made = Cells(tmp_path, SILENT), []

    def make() -> Cell:
        made.append(1)
        return Cell({"x": 0.1, "title": "ü"}, np.array([1.0, 2.5, 0.1]))

    for _ in range(3):
        found = cells.cell("a", {"rate": 1e-3}, make)
        assert found.record == {"x": 0.1, "title": "ü"}
        assert found.ranks is not None and found.ranks.dtype == np.float64 and found.ranks.tolist() == [1.0, 2.5, 0.1]
    assert len(made) == 1
    cells.cell("a", {"rate": 1e-2}, make)
    assert len(made) == 2 and len(list(tmp_path.iterdir())) == 4


def test_every_damage_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A byte of either file changed, a file cut short, one missing: the cell is made again, with a note."""
    cells = Cells(tmp_path, Console())
    made = []

    def make() -> Cell:
        made.append(1)
        return Cell({"x": 1.5}, np.array([1.0, 7.0]))

    cells.cell("a", {"f": 1}, make)
    whole = {p: p.read_bytes() for p in sorted(tmp_path.iterdir())}
    assert [p.suffix for p in whole] == [".json", ".safetensors"]
    changes = [
        (p, data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        for p, data in whole.items()
        for i in range(0, len(data), 5)
    ]
    changes += [(p, data[: len(data) // 2]) for p, data in whole.items()]
    changes += [(p, b"") for p in whole]
    changes += [(p, b"[1]") for p in whole]
    remade = 0
    for path, data in changes:
        path.write_bytes(data)
        before = len(made)
        found = cells.cell("a", {"f": 1}, make)
        assert found.record == {"x": 1.5} and found.ranks is not None and found.ranks.tolist() == [1.0, 7.0]
        remade += len(made) - before
        for p, content in whole.items():
            assert p.read_bytes() == content or p == path
            p.write_bytes(content)
    assert remade == len(changes)
    assert capfd.readouterr().err.count("a damaged cell is made again") == remade
    next(tmp_path.glob("*.safetensors")).unlink()
    assert cells.cell("a", {"f": 1}, make).ranks is not None


def test_an_interrupted_cell_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> Cell:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, SILENT).cell("a", {}, stop)
    assert list(tmp_path.iterdir()) == []


def test_a_row_comes_back_from_its_cells() -> None:
    row = Row(np.array([[1.0, 2.0], [3.0, 4.5]]), [0.1, 0.2], [1.0, 2.0], [5.0, 6.0], ["step 1", None])
    cells = [
        as_cell(Row(row.ranks[[i]], [row.coverage[i]], [row.train_seconds[i]], [row.peak_mb[i]], [row.chosen[i]]))
        for i in range(2)
    ]
    back = joined([as_row(cell) for cell in cells])
    assert back.ranks.tolist() == row.ranks.tolist()
    assert (back.coverage, back.train_seconds, back.peak_mb, back.chosen) == (
        row.coverage, row.train_seconds, row.peak_mb, row.chosen
    )  # fmt: skip


# the choice of a rate


def _plan(rates: tuple[float, ...], out: Path, data: Any) -> Plan:
    config, student = DistillConfig(), StudentConfig()
    return Plan(
        data, [], PrepareSettings(), {"": ModelConfig(items="id")}, TrainConfig(), config, student,
        (method_variant("random", config, student),), rates, 1, (10,), torch.device("cpu"), out,
    )  # fmt: skip


def _choose(values: dict[float, float | None], tmp_path: Path, setting: Any, monkeypatch: pytest.MonkeyPatch) -> Shrunk:
    def train_on(plan: Plan, setting: Any, shrunk: Shrunk, rate: float, seed: int, *_: object) -> table.Trained:
        value = values[rate]
        if value is None:
            raise NotFinite("the loss became nan", "use a lower learning rate")
        assert seed == 0
        model = SimpleNamespace(learnables=lambda: {"rate": rate})
        return table.Trained(model, 1.0, 1.0, "step 5", value)  # type: ignore[arg-type]

    monkeypatch.setattr(table, "train_on", train_on)
    plan = _plan(tuple(values), tmp_path, setting.data)
    (tmp_path / "SHA256SUMS").write_text("0  windows.safetensors\n1  bundle.json\n")
    shrunk = Shrunk(plan.variants[0], tmp_path, {}, {})
    return choose_rate(plan, Cells(tmp_path / "cells", SILENT), setting, shrunk, SILENT)


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
    values: dict[float, float | None], rate: float, tmp_path: Path, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _choose(values, tmp_path, setting, monkeypatch)
    assert found.rate == rate
    assert found.valid == {f"{k:g}": v for k, v in values.items()}
    assert found.first is not None and found.first.state == {"rate": rate} and found.first.valid == values[rate]
    again = _choose(values, tmp_path, setting, monkeypatch)  # its cells are read
    assert again == replace(found, first=None)


def test_no_rate_that_works(tmp_path: Path, setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FosterError, match=r"--rates.*random"):
        _choose({1e-2: None, 1e-1: None}, tmp_path, setting, monkeypatch)


def test_one_rate_is_no_choice(tmp_path: Path, setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _choose({0.5: None}, tmp_path, setting, monkeypatch)
    assert found.rate == 0.5 and found.valid == {} and not (tmp_path / "cells").exists()


def test_what_a_method_does_not_read_decides_no_cell() -> None:
    config, student = DistillConfig(budget=7, length=9, steps=3, draws=2), StudentConfig(steps=5)
    for name, method in METHODS.items():
        a = method_variant(name, config, student)
        assert (a.name, a.cell, a.method, a.model, a.real) == (name, name, name, "", method.real)
        assert (a.config.draws == 2) == (name in ("foster", "rollout"))
        b = method_variant(name, replace(config, steps=4), replace(student, steps=6))
        assert (a.config.budget, a.config.length) == (7, 9)
        assert (a.config == b.config) == (method.real or name == "rollout")
        assert (a.student == b.student) == method.real
    td3 = method_variant("td3", config, student).config
    assert (td3.init, td3.targets, td3.mix, td3.items_per_step, td3.rank_user) == ("random", "next", False, None, 7)


# the written forms

HOSTILE = [
    "a_b & 50% $x$ #1 {y} ~^\\",
    "=cmd|'x'!A1",
    "<script>*b*</script> [l](u) `c` | d",
    'x",\n"y',
    "\x1b[31mré\u202e",
]


def _found(name: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = {n: _row(rng.integers(1, 30, (2, 6)).tolist()) for n in ("foster", "kcenter", "full", "text_similarity")}
    out = summarise(rows, _held([0, 1, 2, 3, 4, 5]), (10, 20), [0, 1], 20, pairs(("foster", "kcenter")))
    for n in ("foster", "kcenter", "full", "text_similarity"):
        out["rows"][n]["method"] = n if n in ("foster", "kcenter") else None
    for n in ("foster", "kcenter"):
        out["rows"][n] |= {"select_seconds": 1.25, "select_peak_mb": 300.0, "rate": 3e-4}
    return {"data": {"name": name}, "budget": 3, "k": [10, 20], **out}


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
def test_csv_reads_back(name: str) -> None:
    found = _found(name)
    lines = list(csv.DictReader(io.StringIO(to_csv(found), newline="")))
    assert [line["row"] for line in lines] == list(found["rows"])
    assert len({line["data"] for line in lines}) == 1 and not re.search(r"[\n\x1b\u202e]", lines[0]["data"])
    assert not lines[0]["data"].startswith(("=", "+", "-", "@"))  # no formula in a spreadsheet
    for line in lines:
        row = found["rows"][line["row"]]
        for metric in metrics(found):
            for key, part in ((metric, "mean"), (f"{metric}_low", "low"), (f"{metric}_high", "high")):
                assert float(line[key]) == row[metric][part]
        assert line["rate"] == str(row.get("rate", ""))


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
def test_markdown(name: str) -> None:
    lines = to_md(_found(name)).splitlines()
    assert not re.search(r"(?<!\\)[<>`*\[\]|]", lines[0]) and not re.search(r"[\x1b\u202e]", lines[0])
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    head, rule, *body = rows[:6]
    assert [x.strip() for x in head[1:]] == [
        "R@10", "N@10", "R@20", "N@20", "coverage", "select s", "peak MiB", "train s", "rate"
    ]  # fmt: skip
    assert all(len(row) == len(head) for row in [rule, *body])
    assert [row[0].strip() for row in body] == ["foster", "kcenter", "full", r"text\_similarity"]
    assert re.fullmatch(r" 0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\] ", body[0][1])
    assert [row[0].strip() for row in rows[8:]] == [r"foster\-full", r"kcenter\-full", r"foster\-kcenter"]


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
def test_latex(name: str) -> None:
    text = to_tex(_found(name))
    assert not re.search(r"[\x1b\u202e]", text)
    lines = text.splitlines()
    assert lines[0].startswith("% ") and [line[:1] for line in lines].count("%") == 2
    for begin, end in zip(
        [i for i, x in enumerate(lines) if x.startswith(r"\begin{tabular}")],
        [i for i, x in enumerate(lines) if x == r"\end{tabular}"],
        strict=True,
    ):
        columns = re.fullmatch(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), lines[begin])
        assert columns is not None
        body = [x for x in lines[begin + 1 : end] if x != r"\hline"]
        for line in body:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
            assert not re.search(r"(?<!\\)[%$#_]", line)
    assert r"text\_similarity & " in text


@pytest.mark.parametrize("name", HOSTILE)
def test_escapes(name: str) -> None:
    tex = tex_escape(name)
    assert "\n" not in tex and not re.search(r"(?<!\\)[&%$#_]|[\^~<>|](?!\w)", tex.replace("{}", ""))
    assert tex.count("{") == tex.count("}") or "{" in name
    assert not re.search(r"(?<!\\)[`*_\[\]|]|[<>]", md_escape(name))


def test_the_json_is_json() -> None:
    json.dumps(_found(HOSTILE[0]), allow_nan=False)


# what names a cell


class _Recorded(Cells):
    """Cells that are made of nothing; `names` hears where each would lie."""

    names: list[str] = []  # noqa: RUF012

    def cell(self, name: str, fields: dict[str, Any], make: Any) -> Cell:
        self.names.append(self.path(name, fields).name)
        record = {"valid": 0.1, "coverage": 0.1, "train_seconds": 1.0, "peak_mb": 1.0, "chosen": None}
        return Cell(record, np.array([1.0]))

    def bundle(self, name: str, fields: dict[str, Any], make: Any) -> Any:
        self.names.append(self.path(name, fields).name)
        return SimpleNamespace(path=self.folder, manifest={})


def test_what_decides_a_cell_decides_its_name(
    dataset_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell has a name of its own; another split or rate of the full data gives the cells it concerns others, and
    so does another encoder, which one row reads where items are known by their ids."""
    encoder = SimpleNamespace(hash="one")
    monkeypatch.setattr(table, "find_encoder", lambda *_: encoder)
    (tmp_path / "SHA256SUMS").write_text("0  windows.safetensors\n1  bundle.json\n")
    config, student = DistillConfig(), StudentConfig()
    plan = Plan(
        dataset_of([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)], 2, ["a", "b"]), [], PrepareSettings(),
        {"": ModelConfig(items="id")}, TrainConfig(), config, student,
        tuple(method_variant(m, config, student) for m in ("foster", "random", "rollout", "td3")), (1e-3, 3e-3), 1,
        (20, 10), torch.device("cpu"), tmp_path,
    )  # fmt: skip
    base = plan.fields()

    def names(split: str, full: float) -> list[str]:
        own = replace(plan, split=split)
        cells, setting, held = (
            _Recorded(tmp_path, SILENT),
            SimpleNamespace(source=None, model=ModelConfig(items="id")),
            _held([0]),
        )
        cells.names.clear()
        for variant in own.variants:
            shrunk = choose_rate(own, cells, setting, table.shrink(own, cells, base, variant, SILENT), SILENT)  # type: ignore[arg-type]
            table.variant_row(own, cells, setting, held, shrunk, SILENT)  # type: ignore[arg-type]
        table.common_rows(own, cells, {"": setting}, held, {"": base}, {"": (full, {})}, SILENT)  # type: ignore[dict-item]
        return list(cells.names)

    plain = names("test", 1e-3)
    assert len(set(plain)) == len(plain) == 4 * 4 + 4
    assert names("test", 1e-3) == plain
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 3e-3), strict=True) if a != b]
    assert changed == ["full-s0"]
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("valid", 1e-3), strict=True) if a != b]
    assert changed == ["foster-s0", "random-s0", "rollout-s0", "td3-s0", "full-s0", "untrained-s0", "popularity-s0",
                       "text_similarity-s0"]  # fmt: skip
    encoder.hash = "another"
    changed = [a.rsplit("-", 1)[0] for a, b in zip(plain, names("test", 1e-3), strict=True) if a != b]
    assert changed == ["text_similarity-s0"]


def test_where_a_distillation_ended_decides_no_training(tmp_path: Path) -> None:
    """Bundles that differ in `state.safetensors` alone train the same models; those of other factors do not."""
    variant = method_variant("foster", DistillConfig(), StudentConfig())

    def fields(factors: str, state: str) -> dict[str, Any]:
        (tmp_path / "SHA256SUMS").write_text(f"0  bundle.json\n{factors}  factors.safetensors\n{state}")
        return table.training_fields(Shrunk(variant, tmp_path, {}, {}), 1e-3, 0)

    first = fields("1", "")
    assert fields("1", "2  state.safetensors\n3  state.json\n") == first != fields("4", "")
