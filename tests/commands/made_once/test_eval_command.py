"""`foster eval` interrupted: what was trained is kept beside the bundle until the table is whole.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_eval_command.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import sign
from calling import FEW_ROWS, Foster, Said, numbers, ok
from spying import spy
from watching import trainings

from foster_cli.bench.train import measure
from foster_cli.console import SILENT
from foster_cli.distill import algorithm1
from foster_cli.evaluate import rows
from foster_cli.files import sha256_file
from foster_cli.train import best

QUICK = ("--budget", "3", "--length", "6", "--steps", "0", "--epochs", "1", "--draws", "1", "--student-steps", "20",
         "--check-seeds", "1", "--k-core", "2", "--width", "8")  # fmt: skip


@pytest.fixture
def bundle(folder: Path, foster: Foster, shop: Path, mean_encoder: Path) -> Path:
    path = folder / "bundle"
    if not path.exists():
        code, _, err = foster("distill", shop, *QUICK, "--encoder", mean_encoder, "--out", path)
        assert code == 0, err
    return path


def _table(said: Said) -> dict[str, Any]:
    """The JSON of an evaluation, but times and memory."""
    return numbers(json.loads(ok(said)))


def test_an_interrupted_evaluation_goes_on(foster: Foster, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second seed; the same command trains the rest, to the same numbers, and leaves nothing behind."""
    kept, asked = bundle.with_name("bundle.eval"), ("eval", bundle, "--seeds", "2", "--rows", ",".join(FEW_ROWS))
    whole = _table(foster(*asked, "--json"))
    assert not kept.exists()
    with monkeypatch.context() as patch:
        seen = trainings(patch, rows, lambda label: label == "synthetic, seed 1")
        code, out, err = foster(*asked, "--json")
    assert code == 130 and not out and "interrupted" in err and seen == ["synthetic, seed 0", "synthetic, seed 1"]
    assert [p.name.rsplit("-", 1)[0] for p in kept.glob("*.json")] == ["synthetic-s0"]
    seen = trainings(monkeypatch, rows)
    assert _table(foster(*asked, "--json")) == whole
    assert seen == ["synthetic, seed 1", "random 3", "random 3"] and not kept.exists()


def _other(folder: Path, foster: Foster, shop: Path, mean_encoder: Path, name: str, *more: str) -> Path:
    """A bundle that differs from `bundle` in the options `more`."""
    path = folder / name
    if not path.exists():
        ok(foster("distill", shop, *QUICK, "--encoder", mean_encoder, "--out", path, *more))
    return path


def test_sets_of_several_seeds_are_one_table(
    foster: Foster, bundle: Path, folder: Path, shop: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers as of each by itself, interrupted or not; what has no seed is there once."""
    second = _other(folder, foster, shop, mean_encoder, "second", "--seed", "1")
    few = ("--seeds", "1", "--rows", "synthetic,random,item_factor,item_knn", "--json")
    alone = [_table(foster("eval", path, *few)) for path in (bundle, second)]
    with monkeypatch.context() as patch:
        trainings(patch, rows, lambda label: label == "synthetic, seed 1")
        code, out, err = foster("eval", bundle, second, *few)
    assert code == 130 and not out and "bundle.eval" in err and "second.eval" not in err
    seen = trainings(monkeypatch, rows)
    together = _table(foster("eval", bundle, second, *few))
    assert seen == ["synthetic, seed 1", "random 3"] and not bundle.with_name("bundle.eval").exists()
    assert together["seeds"] == [0, 1] and [one["seed"] for one in together["sets"]] == [0, 1]
    for name in ("synthetic", "random", "item_factor"):
        seeds = [found["rows"][name]["R@10"]["seeds"] for found in alone]
        assert together["rows"][name]["R@10"]["seeds"] == seeds[0] + seeds[1]
    assert together["rows"]["item_knn"]["R@10"] == alone[0]["rows"]["item_knn"]["R@10"]
    code, out, _ = foster("eval", bundle, second, *few[:-1])
    assert code == 0 and "2 sets, of seeds 0, 1" in " ".join(out.split())


def test_sets_of_two_kinds_are_no_table(
    foster: Foster, bundle: Path, folder: Path, shop: Path, mean_encoder: Path
) -> None:
    larger = _other(folder, foster, shop, mean_encoder, "larger", "--seed", "1", "--budget", "4")
    code, out, err = foster("eval", bundle, larger, "--rows", "synthetic")
    assert code == 2 and not out and "its distill.budget is 4" in " ".join(err.split())
    other = _other(folder, foster, shop, mean_encoder, "other", "--seed", "2")
    manifest = json.loads((other / "bundle.json").read_text())
    del manifest["data"]["hash"]
    (other / "bundle.json").write_text(json.dumps(manifest))
    sign(other)
    code, out, err = foster("eval", bundle, other, "--rows", "synthetic")
    assert code == 2 and not out and "its data is None" in " ".join(err.split())
    code, out, err = foster("eval", bundle, bundle, "--rows", "synthetic")
    assert code == 2 and not out and "made with seed 0, as one before" in " ".join(err.split())


@pytest.mark.parametrize(
    "other",
    [("--backbone", "gru4rec"), ("--no-mask-seen",), ("--cases", "last"), ("--k", "5,20"), ("--student-steps", "30")],
)
def test_another_evaluation_reads_none_of_it(
    foster: Foster, bundle: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, ...]
) -> None:
    """What an interrupted one left stays for its own command."""
    few = ("--rows", "synthetic,untrained", "--seeds", "2")
    whole = _table(foster("eval", bundle, *few, *other, "--json"))
    with monkeypatch.context() as patch:
        trainings(patch, rows, lambda label: label == "synthetic, seed 1")
        assert foster("eval", bundle, *few)[0] == 130
    seen = trainings(monkeypatch, rows)
    assert _table(foster("eval", bundle, *few, *other, "--json")) == whole
    assert seen == ["synthetic, seed 0", "synthetic, seed 1"]
    seen.clear()
    ok(foster("eval", bundle, *few))
    assert seen == ["synthetic, seed 1"] and not bundle.with_name("bundle.eval").exists()


def test_a_measured_training_is_not_what_was_kept(
    foster: Foster, bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`foster bench train` trains anew beside an interrupted evaluation, and leaves what that one has kept."""
    with monkeypatch.context() as patch:
        trainings(patch, rows, lambda label: label == "synthetic, seed 1")
        assert foster("eval", bundle, "--seeds", "2", "--rows", "synthetic", "--k", "10")[0] == 130
    kept = bundle.with_name("bundle.eval")
    before = sorted(p.name for p in kept.iterdir())
    seen = trainings(monkeypatch, rows)
    asked = {"bundle": str(bundle), "paths": None, "row": "synthetic", "seeds": 1, "device": "cpu"}
    assert measure(asked, SILENT)["train_seconds"] > 0
    assert seen == ["synthetic, seed 0"] and sorted(p.name for p in kept.iterdir()) == before
    ok(foster("eval", bundle, "--seeds", "2", "--rows", "synthetic", "--k", "10"))


def test_fresh_models_train_as_long_as_is_asked(
    foster: Foster, bundle: Path, folder: Path, shop: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are counted where they are taken: as many as the bundle says or are asked for; or validation ends them."""
    taken: list[int] = []
    original, checks = best.Best.check, list[int]()

    def worse(self: best.Best, at: int, **extra: float) -> float:
        found = original(self, at, **extra)
        checks.append(at)
        self.stale = at // 100  # no validation counts as a better one
        return found

    spy(monkeypatch, algorithm1, "inner_steps", lambda given: taken.append(given["count"]))
    monkeypatch.setattr(best.Best, "check", worse)
    few, kept = ("--rows", "synthetic", "--seeds", "1"), bundle / "eval.json"
    chosen = json.loads((bundle / "bundle.json").read_text())["metrics"]["student_steps"]
    assert chosen in (0, 20)  # at most `--student-steps`, by validation when the set was made
    for asked, limit, steps in (
        ((), chosen, chosen), (("--student-steps", "450"), 450, 450), (("--validate",), 20, 20),
        (("--student-steps", "450", "--validate"), 450, 300),
    ):  # fmt: skip
        taken.clear()
        checks.clear()
        found = json.loads(ok(foster("eval", bundle, *few, *asked, "--json")))
        assert sum(taken) == steps
        validated = "--validate" in asked
        assert checks == ([0, *np.cumsum(taken)] if validated else [])
        assert (found["student"]["steps"], found["student"]["validated"]) == (limit, validated)
        assert found["settings"]["student"]["steps"] == (450 if "450" in asked else 20)
    before = kept.read_bytes() if kept.exists() else None
    ok(foster("eval", bundle, "--seeds", "1", "--student-steps", "30"))
    ok(foster("eval", bundle, "--seeds", "1", "--validate"))
    assert (kept.read_bytes() if kept.exists() else None) == before  # neither is the bundle's own table
    code, out, err = foster("eval", bundle, "--student-steps", "0")
    assert (code, out) == (2, "") and "--student-steps 0: out of range" in err
    users = folder / "users"
    made = ("--budget", "3", "--epochs", "1", "--k-core", "2", "--width", "8", "--encoder", mean_encoder)
    ok(foster("distill", shop, "--method", "random", *made, "--out", users))
    for other in (("--student-steps", "30"), ("--validate",)):
        code, out, err = foster("eval", users, *other)
        assert (code, out) == (2, "") and "holds real sequences, which --student-steps and --validate are not" in err


def test_the_folder_one_stands_in(foster: Foster, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert "text_similarity" in ok(foster("eval", ".", "--seeds", "1", "--rows", "text_similarity"))


def test_where_the_json_goes_is_looked_at_first(
    foster: Foster, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trainings(monkeypatch, rows)
    (tmp_path / "file").write_text("x")
    for out, words in ((tmp_path, "is a folder; name a file"), (tmp_path / "file" / "x.json", "file")):
        code, shown, err = foster("eval", bundle, "--seeds", "1", "--out", out)
        assert code == 2 and not shown and words in err.splitlines()[-1]
    code, _, err = foster("eval", bundle, "--rows", ",")
    assert code == 2 and "--rows: names no row" in err
    assert not seen and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_where_nothing_can_be_kept_it_says_so(foster: Foster, bundle: Path) -> None:
    kept = bundle.with_name("bundle.eval")
    kept.write_text("a file in its place")
    code, out, err = foster("eval", bundle, "--rows", "synthetic,untrained", "--seeds", "1", "--json")
    assert code == 0 and json.loads(out)["rows"]
    assert "bundle.eval: " in err and "an interrupted evaluation begins anew" in err
    kept.unlink()


def test_a_bundle_is_evaluated_as_it_was_made(
    foster: Foster, folder: Path, shop: Path, bundle: Path, mean_encoder: Path
) -> None:
    """Nobody has an item twice in the shop: what a user has is left out. Options and bundles from before differ."""
    words = (*QUICK, "--encoder", mean_encoder, "--cases", "first", "--out", folder / "first")
    said = foster("distill", shop, *words)
    assert said.code == 0 and " ".join(said.err.split()).count("items that a user already has are left out") == 1
    before = folder / "before"
    shutil.copytree(bundle, before)
    manifest = json.loads((before / "bundle.json").read_text(encoding="utf-8"))
    assert manifest.pop("ranking") == {"mask_seen": True, "cases": "all"}
    (before / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    sums = (before / "SHA256SUMS").read_text().splitlines()
    new = f"{sha256_file(before / 'bundle.json')}  bundle.json"
    (before / "SHA256SUMS").write_text("".join(f"{new if x.endswith('  bundle.json') else x}\n" for x in sums))
    assert foster("verify", before).code == 0
    ranks: dict[tuple[bool, str], float] = {}
    for path, options, ranking in (
        (bundle, (), (True, "all")), (bundle, ("--mask-seen",), (True, "all")),
        (bundle, ("--no-mask-seen",), (False, "all")), (bundle, ("--cases", "last"), (True, "last")),
        (folder / "first", (), (True, "first")), (folder / "first", ("--no-mask-seen",), (False, "first")),
        (before, (), (False, "all")), (before, ("--mask-seen", "--cases", "first"), (True, "first")),
    ):  # fmt: skip
        found = _table(foster("eval", path, *options, "--rows", "popularity", "--json"))
        assert found["ranking"] == found["settings"]["ranking"] == {"mask_seen": ranking[0], "cases": ranking[1]}
        ranks.setdefault(ranking, found["rows"]["popularity"]["MRR"]["mean"])
        assert found["rows"]["popularity"]["MRR"]["mean"] == ranks[ranking]
    assert len(set(ranks.values())) == len(ranks)
    said = foster("eval", before, "--rows", "popularity")
    assert "(all of each user), full ranking, seen items ranked too" in " ".join(said.out.split())
    said = foster("eval", bundle, "--cases", "never")
    assert said.code == 2 and "--cases never" in said.err and "first" in said.err
