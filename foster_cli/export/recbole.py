"""Writes hard sequences as RecBole's atomic files: a folder NAME with NAME.*.inter, NAME.item and NAME.yaml.

    recbole        NAME.inter: user_id:token, item_id:token, rating:float, timestamp:float. If positions have separate
                   targets, every position becomes a user with two items: the last input, and the target
    recbole-split  NAME.train.inter, NAME.valid.inter, NAME.test.inter: user_id:token, item_id_list:token_seq,
                   item_id:token. Train is the synthetic set; valid and test are the real cases that foster itself
                   validates and tests on
    NAME.item      item_id:token, title:token_seq for the whole catalogue, so that no item is lost
    NAME.yaml      the settings to read the folder with, for RecBole started in the parent folder of NAME

Tabs separate fields, and spaces separate the tokens of a sequence. An id may hold neither: `token` percent-encodes it,
and `urllib.parse.unquote` decodes it. Times count from 0, because RecBole stores them as float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError
from foster_cli.export.interactions import plain_rows
from foster_cli.export.text import encodable

if TYPE_CHECKING:
    from foster_cli.data.windows import Cases
    from foster_cli.export.job import Job

#: RecBole reads files with pandas, which takes these for missing values. [PAD] is RecBole's padding token.
_TAKEN = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]"}
)  # fmt: skip
_UNSAFE = re.compile(r'[\s\x00-\x1f\x7f-\x9f\ufeff"%]')


def token(text: str) -> str:
    """Percent-encode `text` as one token: blanks, control characters, `"`, `%`, and the first character of a text that
    pandas would take for a missing value. Raises FosterError for empty text, which has no token."""
    if not text:
        raise FosterError("an empty item or user id: RecBole has no token for it", "give it an id, or drop the row")
    out = _UNSAFE.sub(lambda found: _percent(found.group()), text)
    return _percent(out[0]) + out[1:] if out in _TAKEN else out


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))


def words(title: str) -> str:
    """`title` as a token_seq: without `"`, and with one space for each run of blanks and control characters."""
    return " ".join(re.sub(r'[\s\x00-\x1f\x7f-\x9f\ufeff"]', " ", title).split())


def write_raw(job: Job, folder: Path) -> None:
    """Write interactions."""
    ids = [token(i) for i in job.hard.item_ids]
    rows = [[row.user, ids[row.item], f"{row.weight:g}", str(row.time)] for row in plain_rows(job.hard)]
    head = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    _table(folder / f"{job.name}.inter", head, rows)
    _items(job, ids, folder)
    settings = {
        **_fields(job),
        "RATING_FIELD": "rating",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "title"]},
    }
    _yaml(job, folder, settings)


def write_split(job: Job, folder: Path) -> None:
    """Write training examples, and the real validation and test cases."""
    from foster_cli.data.windows import evaluation_cases

    data, hard = job.data, job.hard
    if data.catalogue.ids != job.bundle.item_ids:
        raise FosterError("the bundle is of another catalogue than the data", "name its data: --data FILE")
    ids = [token(i) for i in hard.item_ids]
    users = [token(encodable(u)) for u in data.user_ids]
    prefix = ""  # keeps synthetic users apart from real ones
    while any(user.startswith(f"{prefix}synthetic-") for user in users):
        prefix += "_"
    length = int(job.bundle.manifest["distill"]["length"])
    rows = [
        [f"{prefix}{hard.label(e.row)}.{e.position}", " ".join(ids[i] for i in e.history[-length:]), ids[e.target]]
        for e in hard.examples()
    ]
    head = ["user_id:token", "item_id_list:token_seq", "item_id:token"]
    _table(folder / f"{job.name}.train.inter", head, rows)
    for split in ("valid", "test"):
        cases = evaluation_cases(data, split, length)
        _table(folder / f"{job.name}.{split}.inter", head, _case_rows(cases, users, ids))
    _items(job, ids, folder)
    settings = {
        **_fields(job),
        "MAX_ITEM_LIST_LENGTH": length,
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id", "title"]},
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "eval_args": {"order": "TO", "group_by": "none", "mode": "full"},
        "train_neg_sample_args": None,
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10, 20],
        "valid_metric": "NDCG@10",
    }
    _yaml(job, folder, settings)


def _case_rows(cases: Cases, users: list[str], ids: list[str]) -> Iterable[list[str]]:
    for row, size in enumerate(cases.lengths.tolist()):
        history = " ".join(ids[i] for i in cases.history[row, :size].tolist())
        yield [users[cases.user[row]], history, ids[cases.target[row]]]


def _table(path: Path, head: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for cells in ([*head], *rows):
            file.write("\t".join(cells) + "\n")


def _items(job: Job, ids: list[str], folder: Path) -> None:
    rows = ([item, words(title)] for item, title in zip(ids, job.hard.titles, strict=True))
    _table(folder / f"{job.name}.item", ["item_id:token", "title:token_seq"], rows)


def _fields(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.name,
        "data_path": ".",
        "field_separator": "\t",
        "seq_separator": " ",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
    }


def _yaml(job: Job, folder: Path, settings: dict[str, Any]) -> None:
    """Write NAME.yaml with one line per setting. JSON values are valid YAML."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
    (folder / f"{job.name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
