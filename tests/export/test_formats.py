"""The formats by name; what the hard ones write, read back: by `datasets`, pandas, a chat template, RecBole's rules."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import yaml
from fakes import fake
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.bundle import Bundle, load
from foster_cli.data.prepare import load_dataset
from foster_cli.data.windows import evaluation_cases
from foster_cli.errors import FosterError
from foster_cli.export import FORMATS, get_format
from foster_cli.export.hard import HardSet
from foster_cli.export.job import Job
from foster_cli.export.recbole import token, words
from foster_cli.export.text import spoken

KINDS = ("own", "next", "real")


def written(name: str, bundle: Any, folder: Path, **how: Any) -> Path:
    """The export of `bundle` as `name`, in a new file or folder called `set`."""
    job, target = Job(bundle, "set", **how), folder / "set"
    if FORMATS[name].folder:
        target.mkdir()
        FORMATS[name].write(job, target)
    else:
        with target.open("wb") as file:
            FORMATS[name].write(job, file)
    return target


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def examples(bundle: Bundle, **how: Any) -> tuple[HardSet, list[Any]]:
    hard = Job(bundle, **how).hard
    return hard, list(hard.examples())


@pytest.mark.parametrize("kind", KINDS)
def test_hf_is_opened_by_datasets(kind: str, shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    from datasets import load_dataset as open_folder

    bundle = load(shop_bundle(kind))
    how = {} if kind == "real" else {"decode": "sample", "copies": 2}
    path = written("hf", bundle, tmp_path, **how)
    found = open_folder(str(path), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]
    hard, wanted = examples(bundle, **how)
    rows = found["train"].to_list()
    assert len(rows) == len(wanted) > 0
    for row, e in zip(rows, wanted, strict=True):
        assert row == {
            "synthetic_user": hard.user[e.row], "copy": hard.copy[e.row], "position": e.position,
            "history": [bundle.item_ids[i] for i in e.history],
            "history_titles": [bundle.titles[i] for i in e.history],
            "item_id": bundle.item_ids[e.target], "title": bundle.titles[e.target], "probability": e.probability,
        }  # fmt: skip


def chat_tokenizer() -> Any:
    """Bytes and ChatML's control tokens, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>"]
    vocabulary = {t: i for i, t in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=special)
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_chat_goes_through_a_chat_template(kind: str, shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = load(shop_bundle(kind))
    how = {} if kind == "real" else {"decode": "sample", "copies": 5}
    hard, wanted = examples(bundle, **how)
    tokenizer = chat_tokenizer()
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    found = json_lines(written("chat", bundle, tmp_path, **how))
    assert len(found) == len(wanted)
    shown = " ".join(title for e in wanted for title in (hard.titles[i] for i in [*e.history, e.target]))
    assert kind == "real" or "<|im_end|>" in shown, "a hostile title is among them"
    for line, e in zip(found, wanted, strict=True):
        assert [m["role"] for m in line["messages"]] == ["system", "user", "assistant"]
        codes = list(tokenizer.apply_chat_template(line["messages"], tokenize=True, return_dict=False))
        assert codes.count(start) == codes.count(end) == 3, "no title opens or closes a message"
        said = tokenizer.decode(codes).split("<|im_start|>assistant\n")[1]
        assert said == spoken(hard.titles[e.target] or hard.item_ids[e.target]) + "<|im_end|>\n"
        listed = line["messages"][1]["content"].splitlines()[1:-1]
        assert listed == [f"{k + 1}. {spoken(hard.titles[i])}" for k, i in enumerate(e.history)]


def test_alpaca_and_llamafactory(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = load(shop_bundle("own"))
    hard, wanted = examples(bundle)
    lines = json_lines(written("alpaca", bundle, tmp_path))
    assert [line["output"] for line in lines] == [spoken(hard.titles[e.target]) for e in wanted]
    assert all(list(line) == ["instruction", "input", "output"] and all(line.values()) for line in lines)
    (tmp_path / "lf").mkdir()
    folder = written("llamafactory", bundle, tmp_path / "lf")
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info == {
        "set": {
            "file_name": "set.jsonl", "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output"},
        }
    }  # fmt: skip
    assert json_lines(folder / "set.jsonl") == lines


def test_your_own_template(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = load(shop_bundle("next"))
    hard, wanted = examples(bundle)
    mine = tmp_path / "mine.txt"
    mine.write_text("[item]\n$id\n[user]\n$length: $history_line?\n[assistant]\n$target_id\n", encoding="utf-8")
    lines = json_lines(written("chat", bundle, tmp_path, template=mine))
    for line, e in zip(lines, wanted, strict=True):
        read = ", ".join(spoken(hard.titles[i]) for i in e.history)
        assert line == {
            "messages": [
                {"role": "user", "content": f"{len(e.history)}: {read}?"},
                {"role": "assistant", "content": spoken(hard.item_ids[e.target])},
            ]
        }


def fields(path: Path) -> list[dict[str, Any]]:
    """An atomic file as RecBole 1.2.1 reads it (`recbole/data/dataset/dataset.py`, `_load_feat`): pandas' C engine is
    not used, the header gives names and types, token columns are `str`, sequences are split on spaces."""
    with path.open(encoding="utf-8") as file:
        head = [cell.split(":") for cell in file.readline()[:-1].split("\t")]
    kinds = {":".join(cell): np.float64 if cell[1] == "float" else str for cell in head}
    table = pd.read_csv(path, delimiter="\t", dtype=kinds, encoding="utf-8", engine="python")
    rows = []
    for values in table.itertuples(index=False):
        assert len(values) == len(head)
        row: dict[str, Any] = {}
        for (name, kind), value in zip(head, values, strict=True):
            sequence = kind == "token_seq"
            row[name] = list(filter(None, value.split(" "))) if sequence and isinstance(value, str) else value
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_recbole_split_holds_the_examples_and_the_real_cases(
    kind: str, shop_bundle: Callable[..., Path], shop_file: Path, tmp_path: Path
) -> None:
    bundle, data = load(shop_bundle(kind)), load_dataset(shop_file)
    folder = written("recbole-split", bundle, tmp_path, find_data=lambda: data)
    _, wanted = examples(bundle)
    train = fields(folder / "set.train.inter")
    assert [[unquote(i) for i in row["item_id_list"]] for row in train] == [
        [bundle.item_ids[i] for i in e.history] for e in wanted
    ]
    assert [unquote(row["item_id"]) for row in train] == [bundle.item_ids[e.target] for e in wanted]
    for split in ("valid", "test"):
        cases = evaluation_cases(data, split, 6)
        rows = fields(folder / f"set.{split}.inter")
        assert len(rows) == len(cases) > 0
        for k, row in enumerate(rows):
            assert unquote(row["user_id"]) == data.user_ids[cases.user[k]]
            history = cases.history[k, : cases.lengths[k]]
            assert [unquote(i) for i in row["item_id_list"]] == [bundle.item_ids[i] for i in history]
            assert unquote(row["item_id"]) == bundle.item_ids[cases.target[k]]
    items = fields(folder / "set.item")
    assert [unquote(row["item_id"]) for row in items] == bundle.item_ids, "the whole catalogue"
    settings = yaml.safe_load((folder / "set.yaml").read_text())
    assert settings["benchmark_filename"] == ["train", "valid", "test"]
    assert settings["alias_of_item_id"] == ["item_id_list"] and settings["eval_args"]["order"] == "TO"
    assert settings["field_separator"] == "\t" and settings["MAX_ITEM_LIST_LENGTH"] == 6
    assert "item" in settings["load_col"]


def test_recbole_split_refuses_other_data(shop_bundle: Callable[..., Path], dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="another catalogue"):
        written("recbole-split", load(shop_bundle("own")), tmp_path, find_data=lambda: dataset)


@pytest.mark.parametrize("kind", KINDS)
def test_interaction_tables(kind: str, shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = load(shop_bundle(kind))
    hard, wanted = examples(bundle)
    raw = fields(written("recbole", bundle, tmp_path) / "set.inter")
    tables = {}
    for name in ("rectools", "lkpy"):
        file = io.BytesIO()
        FORMATS[name].write(Job(bundle), file)
        tables[name] = pd.read_parquet(io.BytesIO(file.getvalue()))
    rectools, lkpy = tables["rectools"], tables["lkpy"]
    assert list(rectools) == ["user_id", "item_id", "weight", "datetime"]
    assert list(lkpy) == ["user_id", "item_id", "rating", "timestamp"]
    assert rectools["datetime"].dtype.kind == "M" and lkpy["timestamp"].dtype == np.int64
    assert [(r["user_id"], unquote(r["item_id"]), r["rating"]) for r in raw] == list(
        lkpy[["user_id", "item_id", "rating"]].itertuples(index=False, name=None)
    )
    assert [r["timestamp"] for r in raw] == (lkpy["timestamp"] - 946_684_800).tolist()
    for table, time in ((rectools, "datetime"), (lkpy, "timestamp")):
        assert all(part[time].is_monotonic_increasing for _, part in table.groupby("user_id"))
        assert not table.duplicated(["user_id", time]).any()
    ids = bundle.item_ids
    if kind != "own":
        sequences = [[ids[i] for i in hard.sequence(row)] for row in range(len(hard))]
        for table in (rectools, lkpy):
            assert [part["item_id"].tolist() for _, part in table.groupby("user_id", sort=False)] == sequences
        assert (rectools["weight"] == 1).all()
        return
    pairs = [part["item_id"].tolist() for _, part in lkpy.groupby("user_id", sort=False)]
    assert pairs == [[ids[e.history[-1]], ids[e.target]] for e in wanted]
    parts = [part for _, part in rectools.groupby("user_id", sort=False)]
    assert [part["item_id"].tolist() for part in parts] == [[ids[i] for i in [*e.history, e.target]] for e in wanted]
    assert [part["weight"].tolist() for part in parts] == [[0.0] * len(e.history) + [1.0] for e in wanted]


ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    ["NA", "nan", "None", "null", "[PAD]", "%4EA", "N/A", "<NA>", "a b", "\u2028", "\ufeffx", '"', "'", "#x", "\x85"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ID, min_size=1, max_size=6, unique=True), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
def test_any_id_and_title_pass_through_an_atomic_file(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], title: str
) -> None:
    path = tmp_path_factory.mktemp("atomic") / "x.item"
    rows = "".join(f"{token(i)}\t{' '.join(map(token, ids))}\t{words(title)}\n" for i in ids)
    path.write_text("item_id:token\tall:token_seq\ttitle:token_seq\n" + rows, encoding="utf-8", newline="\n")
    found = fields(path)
    assert [unquote(row["item_id"]) for row in found] == ids
    assert all([unquote(i) for i in row["all"]] == ids for row in found)
    assert len({token(i) for i in ids}) == len(ids)
    kept = [c for c in title if c.isalnum()]
    for row in found:
        text = row["title"] if isinstance(row["title"], list) else [words(title)]  # pandas takes NA for missing
        assert [c for c in "".join(text) if c.isalnum()] == kept


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(FosterError, match="empty item or user id"):
        token("")


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if name != "torch" and not f.data])
def test_lone_surrogates_become_question_marks(name: str, tmp_path: Path) -> None:
    bundle = fake(1, 2, ["a\ud800", "b"])
    bundle.item_ids = ["x\udfff", "y"]
    path = written(name, bundle, tmp_path, top=2)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    data = b"".join(file.read_bytes() for file in files)
    shows = {"rectools": b"x?", "lkpy": b"x?"}
    assert shows.get(name, b"a?") in data


def test_formats() -> None:
    assert list(FORMATS)[:4] == ["jsonl", "parquet", "torch", "csv"]
    assert get_format("JSONL") is FORMATS["jsonl"]
    with pytest.raises(FosterError, match=r"did you mean jsonl.*jsonl, parquet, torch, csv"):
        get_format("json")
    with pytest.raises(FosterError, match="formats are jsonl, parquet, torch, csv"):
        get_format("xyz")
