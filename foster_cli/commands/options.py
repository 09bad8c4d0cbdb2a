"""Options that several commands share; what `foster compare`, `ablate`, `sweep` and `tune` do first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from foster_cli.commands.settings import DATA_HELP, opt
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig

if TYPE_CHECKING:
    import torch

    from foster_cli.console import Console
    from foster_cli.data.columns import PrepareSettings
    from foster_cli.data.schema import Dataset

DISTILL, MODEL, TRAIN, STUDENT = DistillConfig(), ModelConfig(), TrainConfig(), StudentConfig()

Data = Annotated[list[Path], typer.Argument(metavar="DATA", help=DATA_HELP)]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Fresh models per trained row.")]
K = Annotated[str, opt("--k", "Cut-offs of R@k and N@k.")]
Length = Annotated[int, opt("--length", "L, positions of a sequence, real or synthetic.")]
Encoder = Annotated[str, opt("--encoder", "minilm, tinybert, a folder or org/name: a text encoder or a causal LM.")]
Backbone = Annotated[str, opt("--backbone", "The sequence model: sasrec, gru4rec, bert4rec, narm or hstu.")]
Items = Annotated[str, opt("--items", "What an item is known by: text, or id.")]
TrainLayers = Annotated[
    str, opt("--train-layers", "all, a number of top layers, or none (a linear head learns).")
]  # fmt: skip
Width = Annotated[int | None, opt("--width", "d, width of the recommender; the encoder's own without it.")]
Precision = Annotated[str, opt("--precision", "fp32, or bf16 for the encoder's layers that learn.")]
Epochs = Annotated[int, opt("--epochs", "Most epochs on the full data; stops early on validation.")]
StudentSteps = Annotated[int, opt("--student-steps", "Most steps of training on a synthetic set.")]
StudentItems = Annotated[str, opt("--student-items", "Items drawn at each of these steps, or all.")]
Device = Annotated[str, opt("--device", "cpu, cuda, cuda:N, mps or auto.")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Share one teacher; without, every bundle trains its own.")
]  # fmt: skip
Json = Annotated[bool, opt("--json", "Print JSON instead of the table.")]
UserColumn = Annotated[str | None, opt("--user-column", "Column of user ids.")]
ItemColumn = Annotated[str | None, opt("--item-column", "Column of item ids.")]
TimeColumn = Annotated[str | None, opt("--time-column", "Column of times.")]
TextColumns = Annotated[str | None, opt("--text-columns", "Columns of the item texts: A,B.")]
SplitColumn = Annotated[str | None, opt("--split-column", "Column of train/valid/test; none: by time.")]
KCore = Annotated[
    int | None,
    opt("--k-core", "Keep users and items with this many interactions; 5, or 1 where the table brings a split."),
]


class Begun(NamedTuple):
    """What a command has in hand once the data are read."""

    console: Console
    device: torch.device
    data: Dataset
    paths: list[str]
    prepare: PrepareSettings
    out: Path


def begin(paths: list[Path], device: str, out: Path | None, kind: str, budget: int, prepare: PrepareSettings) -> Begun:
    """Check folder and device, read the data, say where what is finished is kept. FosterError for what does not fit.

    Without `out`: runs/<data>-<kind>-b<budget>.
    """
    from foster_cli.commands import settings
    from foster_cli.commands.common import RUNS, note_ops, safe_name
    from foster_cli.console import Console
    from foster_cli.data.prepare import load_dataset
    from foster_cli.errors import FosterError
    from foster_cli.runtime import pick_device

    if out is not None and out.exists() and not out.is_dir():
        raise FosterError(f"--out {out}: is a file", "give the name of a folder")
    where = pick_device(device)
    console = Console()  # its lines go to stderr; stdout is for the table, or the JSON
    note_ops(console, where)
    dataset = load_dataset(paths, prepare)
    out = out or RUNS / f"{safe_name(dataset.name)}-{kind}-b{budget}"
    console.note(f"what is finished is kept in {out}; the same command goes on from there")
    return Begun(console, where, dataset, settings.absolute(paths), prepare, out)
