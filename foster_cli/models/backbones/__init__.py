"""The backbones (sequence models) by name. `base.py` describes their inputs and outputs.

In: a name of `BACKBONES` and sizes. Out: a `Backbone` with initial weights drawn from the given generator.
"""

from __future__ import annotations

import torch

from foster_cli.models.backbones.base import Backbone
from foster_cli.models.backbones.bert4rec import BERT4Rec
from foster_cli.models.backbones.gru4rec import GRU4Rec
from foster_cli.models.backbones.hstu import HSTU
from foster_cli.models.backbones.ligr import LiGR
from foster_cli.models.backbones.narm import NARM
from foster_cli.models.backbones.relative import RelativeSASRec
from foster_cli.models.backbones.sasrec import SASRec
from foster_cli.settings import choice

BACKBONES: dict[str, type[SASRec | GRU4Rec | BERT4Rec | NARM | HSTU | LiGR]] = {
    "sasrec": SASRec,
    "sasrec-relative": RelativeSASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "narm": NARM,
    "hstu": HSTU,
    "ligr": LiGR,
}


def make_backbone(
    name: str, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator
) -> Backbone:
    """Backbone `name` of width d = `width` for sequences of up to L = `length` positions.

    `layers`: blocks or stacked GRUs. `heads` is unused unless `attends`. Raises FosterError for an unknown name.
    """
    return BACKBONES[choice("--backbone", name, tuple(BACKBONES))](width, length, layers, heads, dropout, rng)
