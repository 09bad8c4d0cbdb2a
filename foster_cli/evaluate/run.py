"""A bundle's evaluation: settings read from its manifest, rows trained, one JSON-able result."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from foster_cli.bundle import Bundle
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, choice, from_dict
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.distill.loop import make_subset
from foster_cli.errors import FosterError
from foster_cli.evaluate.compare import make_test, rows, summarise
from foster_cli.models.backbones import BACKBONES
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine
from foster_cli.train.setting import Setting, make_setting


def bundle_setting(
    bundle: Bundle, data: Dataset, model: ModelConfig, length: int, device: torch.device, console: Console,
    use_cache: bool,
) -> Setting:  # fmt: skip
    """The setting that a bundle's recommenders train in. FosterError for another catalogue or text encoder."""
    if data.catalogue.ids != bundle.item_ids:
        raise FosterError(f"{bundle.path} is of another catalogue than the data", "name its data: --data FILE")
    setting = make_setting(data, model, length, device, console, use_cache)
    stated = bundle.manifest["encoder"]
    if setting.source is not None and setting.source.hash != stated["hash"]:
        raise FosterError(
            f"the encoder {model.encoder} is another than the bundle was made with "
            f"({setting.source.hash[:12]}… instead of {stated['hash'][:12]}…)",
            f"install revision {stated['revision']}",
        )
    return setting


def evaluate_bundle(
    bundle: Bundle, data: Dataset, names: tuple[str, ...], seeds: int, ks: tuple[int, ...], mask_seen: bool,
    device: torch.device, console: Console = SILENT, use_cache: bool = True, backbone: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The evaluation JSON of README: data, cases, rows, paired. Seeds are the bundle's seed and those after it.

    `backbone`: every trained row is of this one (Table 4), whatever the set was distilled with; None: of that one.
    Raises FosterError for an unknown backbone, another catalogue or another text encoder than the bundle's.
    """
    m = bundle.manifest
    model, train = from_dict(ModelConfig, m["model"]), from_dict(TrainConfig, m["train"])
    distilled_with = model.backbone
    if backbone is not None:
        model = dataclasses.replace(model, backbone=choice("--backbone", backbone, tuple(BACKBONES)))
    config, student = from_dict(DistillConfig, m["distill"]), from_dict(StudentConfig, m["student"])
    with matmul_precision(model.precision, device):
        setting = bundle_setting(bundle, data, model, config.length, device, console, use_cache)
        used = [int(m["seed"]) + i for i in range(seeds)]
        test = make_test(setting, mask_seen, min(ks))
        Q = bundle.Q.to(device) if bundle.windows is None else bundle.windows
        V = bundle.V.to(device)
        subset = make_subset(config, V, int(m["seed"]), student)
        reading = bundle.reading.to(device)
        found = rows(
            setting, test, Q, V, subset, reading, student, train, config.budget, names, used, console, use_cache
        )
    head: dict[str, Any] = {"data": {"name": data.name, "hash": data.hash}, "bundle": str(bundle.path)}
    head["method"] = m["method"]
    head["backbone"] = {"distilled": distilled_with, "evaluated": model.backbone}
    settings = {
        "model": dataclasses.asdict(model),
        "train": m["train"],
        "distill": m["distill"],
        "student": m["student"],
    }
    return {
        **head,
        **summarise(found, test, ks, used),
        "mask_seen": mask_seen,
        "settings": settings,
        "machine": machine(),
    }
