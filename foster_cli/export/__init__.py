"""The export formats by name. A format writes a `Job` to an open binary file or into an empty folder.

To add a format, write a module here with `write(job, file)` (or `write(job, folder)`) and an entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError, did_you_mean
from foster_cli.export import csv, hf, interactions, jsonl, llm, parquet, recbole, soft_torch

if TYPE_CHECKING:
    from foster_cli.export.job import Job


@dataclass(frozen=True)
class Format:
    """One way to write a synthetic set. `write` takes a `Job` and an open binary file or an empty folder."""

    name: str
    default: str
    """Default name of the file or folder in the bundle, without `--out`; begins with `synthetic`."""
    description: str
    write: Callable[[Job, Any], None]
    lists: bool = False
    """Lists the most probable items of a position; `--top` applies."""
    hard: bool = False
    """Writes one item per position; `--decode`, `--copies` and `--measure` apply."""
    folder: bool = False
    binary: bool = False
    """Must not be written to a terminal."""
    template: str | None = None
    """Name of the shipped prompt template that it fills."""
    data: bool = False
    """Needs the real data."""

    @property
    def extension(self) -> str:
        """The file name extension without the dot; empty for a folder."""
        return "" if self.folder else self.default.rpartition(".")[2]


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("jsonl", "synthetic.jsonl", "one JSON object per position with its top items", jsonl.write, lists=True),
        Format(
            "parquet", "synthetic.parquet", "one row per position and top item", parquet.write,
            lists=True, binary=True,
        ),
        Format("torch", "synthetic-torch", "soft targets with a loader of one file", soft_torch.write, folder=True),
        Format("csv", "synthetic.csv", "the hard sequences, one item per position", csv.write, hard=True),
        Format(
            "hf", "synthetic-hf", "a Hugging Face datasets folder of training examples", hf.write,
            hard=True, folder=True,
        ),
        Format(
            "alpaca", "synthetic.alpaca.jsonl", "instruction, input, output", llm.write_alpaca,
            hard=True, template="alpaca",
        ),
        Format("chat", "synthetic.chat.jsonl", "messages with roles", llm.write_chat, hard=True, template="chat"),
        Format(
            "llamafactory", "synthetic-llamafactory", "alpaca with dataset_info.json", llm.write_llamafactory,
            hard=True, folder=True, template="alpaca",
        ),
        Format(
            "recbole", "synthetic-recbole", "RecBole's interactions and items", recbole.write_raw,
            hard=True, folder=True,
        ),
        Format(
            "recbole-split", "synthetic-recbole-split", "RecBole, with the real validation and test cases",
            recbole.write_split, hard=True, folder=True, data=True,
        ),
        Format(
            "rectools", "synthetic.rectools.parquet", "RecTools' interactions", interactions.write_rectools,
            hard=True, binary=True,
        ),
        Format(
            "lkpy", "synthetic.lkpy.parquet", "LensKit's interactions", interactions.write_lkpy,
            hard=True, binary=True,
        ),
    )
}  # fmt: skip


def get_format(name: str) -> Format:
    """The format called `name`, case ignored. Raises FosterError with a list of the formats for an unknown name."""
    if name.lower() in FORMATS:
        return FORMATS[name.lower()]
    near = did_you_mean(name.lower(), FORMATS, 0.4)
    known = ", ".join(FORMATS)
    hint = f"did you mean {near}? Formats are {known}" if near else f"formats are {known}"
    raise FosterError(f"--format {name}: no such format", hint)
