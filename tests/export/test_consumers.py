"""Every hard format, read by the program it is for. Run by `make test-consumers`.

The programs live in an environment of their own, whose Python FOSTER_CONSUMERS names; what they do with an export is
in `consumers.py`. The exports are made by `foster export` from bundles with hostile ids and titles. Without that
environment the formats are still tested, in `test_formats.py`, against `datasets`, transformers and written-out rules.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from foster_cli.bundle import Bundle, load
from foster_cli.data.prepare import load_dataset
from foster_cli.data.windows import evaluation_cases
from foster_cli.export.hard import HardSet, make_hard
from foster_cli.export.text import spoken

PYTHON = os.environ.get("FOSTER_CONSUMERS")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="the programs are not here: make test-consumers")

SCRIPT = Path(__file__).parent / "consumers.py"
KINDS = ("own", "next")
#: More than one copy, so that hostile titles are surely among the items.
DRAWN = ("--decode", "sample", "--copies", "4")
Read = Callable[..., tuple[Bundle, HardSet, dict[str, Any]]]


@pytest.fixture
def read(tmp_path: Path, shop_bundle: Callable[..., Path], call_foster: Callable[..., tuple[int, str, str]]) -> Read:
    """`read(kind, format, program)`: exports a bundle and has the program read it; the bundle, what was written of it,
    and what the program says."""

    def run(kind: str, format: str, program: str, ending: str = "") -> tuple[Bundle, HardSet, dict[str, Any]]:
        bundle, out = shop_bundle(kind), tmp_path / f"set{ending}"
        code, _, err = call_foster("export", bundle, "--format", format, "--out", out, *DRAWN)
        assert code == 0, err
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [str(PYTHON), str(SCRIPT), program, str(out), str(tmp_path / "said.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        loaded = load(bundle)
        return loaded, make_hard(loaded, "sample", 4), json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_recbole_trains_sasrec(kind: str, read: Read, shop_file: Path) -> None:
    bundle, hard, said = read(kind, "recbole-split", "recbole_split")
    ids = bundle.item_ids
    assert said["items"] == len(ids) + 1 and {unquote(t) for t in said["tokens"][1:]} == set(ids)

    def named(rows: list[list[Any]]) -> list[tuple[list[str], str]]:
        return sorted(([unquote(i) for i in history], unquote(target)) for history, target in rows)

    wanted = sorted(([ids[i] for i in e.history], ids[e.target]) for e in hard.examples())
    assert named(said["train"]) == wanted
    data = load_dataset(shop_file)
    for split in ("valid", "test"):
        cases = evaluation_cases(data, split, 6)
        real = [
            ([ids[i] for i in cases.history[k, : cases.lengths[k]]], ids[cases.target[k]]) for k in range(len(cases))
        ]
        assert named(said[split]) == sorted(real)
    assert said["moved"] and all(0 <= value <= 1 for value in said["metrics"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_recbole_holds_the_interactions(kind: str, read: Read) -> None:
    bundle, hard, said = read(kind, "recbole", "recbole")
    ids = bundle.item_ids
    assert said["items"] == len(ids) + 1
    users: dict[str, list[str]] = {}
    for user, _, item in said["rows"]:  # in order of time
        users.setdefault(user, []).append(unquote(item))
    if kind == "own":
        wanted = [[ids[e.history[-1]], ids[e.target]] for e in hard.examples()]
    else:
        wanted = [[ids[i] for i in hard.sequence(row)] for row in range(len(hard))]
    assert sorted(users.values()) == sorted(wanted)
    for token, title in said["titles"].items():
        if token != "[PAD]":
            was = bundle.titles[ids.index(unquote(token))]
            assert [c for c in title if c.isalnum()] == [c for c in was if c.isalnum()] or was == "NA"


@pytest.mark.parametrize("kind", KINDS)
def test_rectools_learns_the_goals(kind: str, read: Read) -> None:
    bundle, hard, said = read(kind, "rectools", "rectools", ".parquet")
    wanted = list(hard.examples())
    assert said["goals"] == sorted(bundle.item_ids[e.target] for e in wanted)
    assert said["users"] == (len(wanted) if kind == "own" else len(hard))
    assert said["finite"] and said["recommended"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_lenskit_trains_item_knn(kind: str, read: Read) -> None:
    bundle, hard, said = read(kind, "lkpy", "lkpy", ".parquet")
    wanted = list(hard.examples())
    if kind == "own":
        used = {i for e in wanted for i in (e.history[-1], e.target)}
        assert (said["users"], said["rows"]) == (len(wanted), 2 * len(wanted))
    else:
        used = set(hard.items.ravel().tolist())
        assert (said["users"], said["rows"]) == (len(hard), hard.items.size)
    assert said["ids"] == sorted(bundle.item_ids[i] for i in used)


def test_datasets_opens_the_folder(read: Read) -> None:
    bundle, hard, said = read("own", "hf", "hf")
    assert said["splits"] == ["train"]
    assert [(row["history"], row["item_id"], row["title"]) for row in said["rows"]] == [
        ([bundle.item_ids[i] for i in e.history], bundle.item_ids[e.target], bundle.titles[e.target])
        for e in hard.examples()
    ]


def answers(hard: HardSet) -> list[str]:
    return [spoken(hard.titles[e.target]) for e in hard.examples()]


def test_llamafactory_converts_the_folder(read: Read) -> None:
    _, hard, said = read("own", "llamafactory", "llamafactory")
    assert said["formatting"] == "alpaca"
    assert [row["_response"] for row in said["rows"]] == [
        [{"role": "assistant", "content": answer}] for answer in answers(hard)
    ]
    for row, e in zip(said["rows"], hard.examples(), strict=True):
        (prompt,) = row["_prompt"]
        assert prompt["role"] == "user" and len(prompt["content"].splitlines()) == 1 + len(e.history)


def test_axolotl_tokenizes_alpaca(read: Read) -> None:
    _, hard, said = read("own", "alpaca", "axolotl_alpaca", ".jsonl")
    assert said["answers"] == answers(hard)


def test_axolotl_tokenizes_chat(read: Read) -> None:
    _, hard, said = read("next", "chat", "axolotl_chat", ".jsonl")
    assert said["answers"] == answers(hard)


def test_trl_trains_on_chat(read: Read) -> None:
    _, hard, said = read("own", "chat", "trl", ".jsonl")
    assert said["conversational"] and said["rows"] == len(list(hard.examples()))
    assert 0 < said["loss"] < 10
