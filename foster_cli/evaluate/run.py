"""A bundle's evaluation: settings read from its manifest, rows trained, one JSON-able result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from foster_cli.bundle import SUMS, Bundle
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, from_dict, is_number, positive
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.distill.loop import make_subset
from foster_cli.distill.pipeline import check_model
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import Cells, as_cell, as_row, base_fields
from foster_cli.evaluate.compare import Keep, Row, make_now, make_test, rows, summarise
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine
from foster_cli.train.setting import Setting, make_setting


def bundle_setting(
    bundle: Bundle, data: Dataset, model: ModelConfig, length: int, device: torch.device, console: Console,
    use_cache: bool, other_encoder: bool = False,
) -> Setting:  # fmt: skip
    """The setting that a bundle's recommenders train in. FosterError for another catalogue or text encoder.

    `other_encoder`: `model` names another one on purpose.
    """
    if data.catalogue.ids != bundle.item_ids:
        raise FosterError(f"{bundle.path} is of another catalogue than the data", "name its data: --data FILE")
    own, stated = from_dict(ModelConfig, bundle.manifest["model"]), bundle.manifest["encoder"]
    if own.items == "text" and not other_encoder:
        found = find_encoder(own.encoder, own.pooling).hash
        if found != stated["hash"]:
            raise FosterError(
                f"the encoder {own.encoder} is another than the bundle was made with "
                f"({found[:12]}… instead of {stated['hash'][:12]}…)",
                f"install revision {stated['revision']}, or evaluate with another: foster eval --encoder",
            )
    return make_setting(data, model, length, device, console, use_cache)


@dataclass(frozen=True)
class Other:
    """What recommenders are evaluated with in place of the bundle's own; None: the bundle's.

    Another encoder pools as it was trained where `pooling` is None. `train_layers` alone means without LoRA. `width`:
    a number, or `own`, that of the encoder. `student_steps` and `student_patience`: how long a fresh model is trained
    on the synthetic set (`StudentConfig.steps`, `.patience`); another recommender may need more than the bundle's.
    """

    backbone: str | None = None
    encoder: str | None = None
    pooling: str | None = None
    train_layers: str | None = None
    lora: int | None = None
    lora_alpha: float | None = None
    width: str | None = None
    precision: str | None = None
    student_steps: int | None = None
    student_patience: int | None = None

    def student(self, own: StudentConfig) -> StudentConfig:
        """`own` with what is asked for. Raises FosterError for a number below 1."""
        for option, value in (("--student-steps", self.student_steps), ("--student-patience", self.student_patience)):
            if value is not None:
                positive(option, value)
        return dataclasses.replace(
            own, steps=self.student_steps or own.steps, patience=self.student_patience or own.patience
        )

    def of(self, model: ModelConfig) -> ModelConfig:
        """`model` with what is asked for. Raises FosterError for what there is not, or does not fit together."""
        asked: dict[str, Any] = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and name not in ("width", "student_steps", "student_patience")
        }
        if self.encoder is not None:
            asked = {"pooling": None, **asked}
        if self.train_layers is not None or self.lora is not None:
            asked = {"lora": None, "lora_alpha": None, **asked}
        if self.train_layers in ("none", "all") and self.lora is None:
            asked |= {"cache_precision": None}
        if self.width is not None:
            if self.width != "own" and not is_number(self.width):
                raise FosterError(f"--width {self.width}: not a number", "use a number such as 128, or own")
            asked |= {"width": None if self.width == "own" else int(self.width)}
        changed = dataclasses.replace(model, **asked)
        check_model(changed)
        return changed


@contextmanager
def keeping(bundle: Bundle, fields: dict[str, Any], console: Console) -> Iterator[Keep]:
    """Keep each seed of a row in the folder `<bundle>.eval` until the evaluation is whole; what an interrupted one of
    the same `fields` left there is read. Where that folder cannot be made, a note says that nothing is kept."""
    path = bundle.path.resolve()
    folder = path.with_name(path.name + ".eval")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        console.note(f"{folder}: {error.strerror or error}; an interrupted evaluation begins anew")
        yield make_now
        return
    cells, used = Cells(folder, console), []

    def keep(name: str, seed: int, make: Callable[[], Row]) -> Row:
        own = {**fields, "row": name, "seed": seed}
        used.append(cells.path(f"{name}-s{seed}", own))
        return as_row(cells.cell(f"{name}-s{seed}", own, lambda: as_cell(make())))

    try:
        yield keep
        for stem in used:
            for ending in (".json", ".safetensors"):
                stem.with_name(stem.name + ending).unlink(missing_ok=True)
    except KeyboardInterrupt:
        console.note(f"interrupted; the same command goes on with what is kept in {folder}")
        raise
    finally:
        with contextlib.suppress(OSError):  # another evaluation of the bundle keeps something there
            folder.rmdir()


def evaluate_bundle(
    bundle: Bundle, data: Dataset, names: tuple[str, ...], seeds: int, ks: tuple[int, ...], mask_seen: bool,
    device: torch.device, console: Console = SILENT, use_cache: bool = True, other: Other | None = None,
    keep: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The evaluation JSON of README: data, cases, rows, paired. Seeds are the bundle's seed and those after it.

    `other`: every row is of such recommenders (Table 4), whatever the set was distilled with; None: of its own.
    Rows are kept while it runs (`keeping`); with `keep` False, all of them are made here and now. Raises FosterError
    for a backbone or an encoder there is not, another catalogue than the bundle's, or a text encoder of the bundle's
    name that is another one.
    """
    m = bundle.manifest
    own, train = from_dict(ModelConfig, m["model"]), from_dict(TrainConfig, m["train"])
    model = own if other is None else other.of(own)
    config, made_for = from_dict(DistillConfig, m["distill"]), from_dict(StudentConfig, m["student"])
    student = made_for if other is None else other.student(made_for)
    if bundle.windows is not None and student != made_for:
        raise FosterError(
            f"{bundle.path} holds real sequences, which --student-steps and --student-patience are not for",
            "leave them out: validation says when their training ends",
        )
    encoder = other is not None and other.encoder is not None
    with matmul_precision(model.precision, device):
        setting = bundle_setting(bundle, data, model, config.length, device, console, use_cache, encoder)
        used = [int(m["seed"]) + i for i in range(seeds)]
        test = make_test(setting, mask_seen, min(ks))
        Q = bundle.Q.to(device) if bundle.windows is None else bundle.windows
        V = bundle.V.to(device)
        subset = make_subset(config, V, int(m["seed"]), student)
        reading = bundle.reading.to(device)
        sums = (bundle.path / SUMS).read_text(encoding="utf-8")
        fields = {
            **base_fields(data, model, train, config.length, device), "threads": torch.get_num_threads(),
            "bundle": sums, "mask_seen": mask_seen, "k": min(ks), "student": dataclasses.asdict(student),
        }  # fmt: skip
        with keeping(bundle, fields, console) if keep else nullcontext(make_now) as kept:
            found = rows(
                setting, test, Q, V, subset, reading, student, train, config.budget, names, used, console, use_cache,
                kept,
            )  # fmt: skip
    head: dict[str, Any] = {"data": {"name": data.name, "hash": data.hash}, "bundle": str(bundle.path)}
    head["method"] = m["method"]
    head["backbone"] = {"distilled": own.backbone, "evaluated": model.backbone}
    head["encoder"] = {"distilled": m["encoder"], "evaluated": setting.encoder_identity()}
    settings = {
        "model": dataclasses.asdict(model),
        "train": m["train"],
        "distill": m["distill"],
        "student": dataclasses.asdict(student),
    }
    return {
        **head,
        **summarise(found, test, ks, used),
        "mask_seen": mask_seen,
        "settings": settings,
        "machine": machine(),
    }
