"""Evaluates bundles: reads their settings from the manifests, trains the rows, returns one JSON-able result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foster_cli.bundle import SUMS, Bundle
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import CASES, Windows
from foster_cli.distill.checks import check_model, check_settings
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import Cells, as_cell, as_row, base_fields
from foster_cli.evaluate.economics import data_bytes, economics, mean_bytes
from foster_cli.evaluate.formats import shares
from foster_cli.evaluate.row import Row, RowCache, held_out, joined, make_now
from foster_cli.evaluate.rows import DEFAULT, OWN, Student, rows
from foster_cli.evaluate.summary import summarise
from foster_cli.files import sha256_json
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.ranking.metrics import shown
from foster_cli.runtime import machine
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, RankingConfig, Settings, StudentConfig, choice, is_number, positive
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.task import Task, make_task


def bundle_task(
    bundle: Bundle, data: Dataset, settings: Settings, session: Session, other_encoder: bool = False
) -> Task:
    """The task for training on a bundle with the recommender and the ranking of `settings`.

    `other_encoder`: they name another encoder on purpose. Raises FosterError if the catalogue or the text encoder is
    not the bundle's.
    """
    if data.catalogue.ids != bundle.item_ids:
        raise FosterError(f"{bundle.path} is of another catalogue than the data", "name its data: --data FILE")
    made, stated = bundle.made, bundle.manifest.get("encoder") or {}
    check_settings(made)
    if made.model.items != "id" and not other_encoder:
        found = find_encoder(made.model.encoder, made.model.pooling).hash
        if "hash" not in stated:
            raise FosterError(
                f"{bundle.path}: its manifest does not say which encoder it was made with", "distill again"
            )
        if found != stated["hash"]:
            raise FosterError(
                f"the encoder {made.model.encoder} is another than the bundle was made with "
                f"({found[:12]}… instead of {stated['hash'][:12]}…)",
                f"install revision {stated.get('revision', '?')}, or evaluate with another: foster eval --encoder",
            )
    return make_task(data, settings.model, made.distill.length, session, settings.ranking)


@dataclass(frozen=True)
class Other:
    """Settings that replace the bundle's in an evaluation; None: the bundle's own.

    For another encoder, `pooling` None is the pooling it was trained with. `train_layers` alone turns LoRA off.
    `width`: a number, or `own`, that of the encoder. `student_steps`: how long a fresh model trains on the synthetic
    set (`StudentConfig.steps`); another recommender may need more. `mask_seen` and `cases`: another ranking
    (`RankingConfig`), in validation too.
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
    mask_seen: bool | None = None
    cases: str | None = None

    def ranking(self, own: RankingConfig) -> RankingConfig:
        """`own` with the replacements. Raises FosterError for unknown cases."""
        return RankingConfig(
            own.mask_seen if self.mask_seen is None else self.mask_seen,
            own.cases if self.cases is None else choice("--cases", self.cases, CASES),
        )

    def student(self, own: StudentConfig) -> StudentConfig:
        """`own` with the replacements. Raises FosterError for a number below 1."""
        if self.student_steps is None:
            return own
        positive("--student-steps", self.student_steps)
        return dataclasses.replace(own, steps=self.student_steps)

    def of(self, model: ModelConfig) -> ModelConfig:
        """`model` with the replacements. Raises FosterError for a value that is unknown or does not fit the others."""
        asked: dict[str, Any] = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and name != "width" and hasattr(model, name)
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

    def settings(self, made: Settings) -> Settings:
        """The settings of a bundle with the replacements."""
        return dataclasses.replace(
            made, model=self.of(made.model), student=self.student(made.student), ranking=self.ranking(made.ranking)
        )


@dataclass(frozen=True)
class Evaluation:
    """The options of an evaluation. `names`: rows; `seeds`: number of models per row and bundle, from the bundle's seed
    on (of K bundles, every K-th seed); `ks`: cut-offs; `other`: recommenders (Table 4) or a ranking that are not the
    bundle's own; `validate`: validation chooses the best state of a training on the synthetic set, which else takes as
    many steps as the set says; `resumable`: finished rows are stored during the run."""

    names: tuple[str, ...] = DEFAULT
    seeds: int = 3
    ks: tuple[int, ...] = (10, 20)
    other: Other = Other()
    validate: bool = False
    resumable: bool = True


@contextmanager
def row_cache(bundle: Bundle, fields: dict[str, Any], session: Session) -> Iterator[RowCache]:
    """Store each seed of a row in the folder `<bundle>.eval` until the evaluation is complete. Rows of an interrupted
    one with the same `fields` are read from there. If the folder cannot be made, nothing is stored, with a note."""
    folder, console = cells_folder(bundle), session.console
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        console.note(f"{folder}: {error.strerror or error}; an interrupted evaluation begins anew")
        yield make_now
        return
    cells, used = Cells(folder, console), []

    def cached(name: str, seed: int, make: Callable[[], Row]) -> Row:
        own = {**fields, "row": name, "seed": seed}
        used.append(cells.path(f"{name}-s{seed}", own))
        return as_row(cells.cell(f"{name}-s{seed}", own, lambda: as_cell(make())))

    try:
        yield cached
        for stem in used:
            for ending in (".json", ".safetensors"):
                stem.with_name(stem.name + ending).unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # another evaluation of the bundle stores something there
            folder.rmdir()


def cells_folder(bundle: Bundle) -> Path:
    """The folder in which rows are stored until an evaluation of `bundle` is complete."""
    path = bundle.path.resolve()
    return path.with_name(path.name + ".eval")


def check_sets(bundles: Sequence[Bundle]) -> None:
    """Raise FosterError unless the bundles are of one kind: what differs between them is the seed."""
    first, seeds = bundles[0], set[int]()
    for bundle in bundles:
        for what, own, other in _kinds(bundle, first):
            if own != other:
                raise FosterError(
                    f"{bundle.path}: its {what} is {own}, that of {first.path} is {other}",
                    "one table is of sets that differ in their seeds alone; evaluate others by themselves",
                )
        if bundle.made.seed in seeds:
            raise FosterError(
                f"{bundle.path}: made with seed {bundle.made.seed}, as one before", "distill with another --seed"
            )
        seeds.add(bundle.made.seed)


def _kinds(one: Bundle, other: Bundle) -> Iterator[tuple[str, Any, Any]]:
    """What must be the same in two bundles, as (its name, that of `one`, that of `other`)."""
    for part in ("data", "encoder"):
        own, theirs = (str((b.manifest.get(part) or {}).get("hash"))[:12] for b in (one, other))
        yield part, own, theirs
    yield "catalogue", sha256_json(one.item_ids)[:12], sha256_json(other.item_ids)[:12]
    yield "method", one.made.method, other.made.method
    sections = other.made.sections()
    for section, values in one.made.sections().items():
        for name, value in values.items():
            yield f"{section}.{name}", value, sections[section][name]


def evaluate_bundles(bundles: Sequence[Bundle], data: Dataset, asked: Evaluation, session: Session) -> dict[str, Any]:
    """The JSON of `foster eval`: data, cases, rows, paired differences.

    Several bundles are of one kind (`check_sets`) and differ in their seeds. Each row that depends on a seed then has
    `asked.seeds` models of each. Raises FosterError for bundles of different kinds, for an unknown backbone or encoder,
    or if the catalogue or the text encoder is not the bundle's.
    """
    check_sets(bundles)
    made, other_encoder = bundles[0].made, asked.other.encoder is not None
    settings = asked.other.settings(made)
    if bundles[0].windows is not None and (settings.student != made.student or asked.validate):
        raise FosterError(
            f"{bundles[0].path} holds real sequences, which --student-steps and --validate are not for",
            "leave them out: validation says when their training ends",
        )
    with matmul_precision(settings.model.precision, session.device), contextlib.ExitStack() as stored:
        task = bundle_task(bundles[0], data, settings, session, other_encoder)
        test = held_out(task, min(asked.ks))
        found, seeds, students = dict[str, Row](), list[int](), list[StudentConfig]()
        try:
            for bundle in bundles:
                own = [bundle.made.seed + i * len(bundles) for i in range(asked.seeds)]
                names = asked.names if not found else tuple(name for name in OWN if name in found)
                student = _student(bundle, settings, asked)
                cache = stored.enter_context(_cache(bundle, task, settings, student, asked, session))
                of_set = dataclasses.replace(settings, seed=bundle.made.seed)
                source, trained = training_source(bundle, of_set, session.device), Student(student, asked.validate)
                for name, row in rows(task, test, source, of_set, trained, names, own, cache).items():
                    found[name] = joined([found[name], row]) if name in found else row
                seeds, students = seeds + own, [*students, student]
        except KeyboardInterrupt:
            folders = ", ".join(str(folder) for b in bundles if any((folder := cells_folder(b)).glob("*")))
            if folders:
                session.console.note(f"interrupted; the same command continues with what is stored in {folders}")
            raise
    spent = {name: float(np.mean(found[name].train_seconds)) for name in ("full", "synthetic") if name in found}
    costs = economics(bundles, spent["full"], spent["synthetic"]) if len(spent) == 2 else None
    table, raw = summarise(found, test, asked.ks, seeds, sets=len(bundles)), data_bytes(made.paths)
    for name, row in table["rows"].items():
        row["bytes"] = mean_bytes(name, bundles, raw)
    steps = [student.steps for student in students]
    return {
        "data": {"name": data.name, "hash": data.hash}, "bundle": str(bundles[0].path), "method": made.method,
        "sets": [{"bundle": str(bundle.path), "seed": bundle.made.seed} for bundle in bundles],
        "backbone": {"distilled": made.model.backbone, "evaluated": settings.model.backbone},
        "encoder": {"distilled": bundles[0].manifest.get("encoder"), "evaluated": task.encoder_identity()},
        "student": {**dataclasses.asdict(students[0]), "steps_of_each": steps, "validated": asked.validate},
        "economics": costs, "synthetic_of_full": shares(table["rows"], shown(asked.ks)), **table,
        "settings": settings.sections(), "machine": machine(),
    }  # fmt: skip


def _student(bundle: Bundle, settings: Settings, asked: Evaluation) -> StudentConfig:
    """How a fresh model trains on the bundle's set."""
    if asked.validate or bundle.windows is not None:
        return settings.student
    return asked.other.student(bundle.recipe_for(settings.model.backbone))


def _cache(
    bundle: Bundle, task: Task, settings: Settings, student: StudentConfig, asked: Evaluation, session: Session
) -> AbstractContextManager[RowCache]:
    """Where rows of a bundle are stored, by all that they depend on."""
    if not asked.resumable:
        return nullcontext(make_now)
    fields = {
        **base_fields(settings, task.data, session.device), "threads": torch.get_num_threads(),
        "bundle": (bundle.path / SUMS).read_text(encoding="utf-8"), "k": min(asked.ks),
        "student": dataclasses.asdict(student), "validate": asked.validate,
    }  # fmt: skip
    return row_cache(bundle, fields, session)


def training_source(bundle: Bundle, settings: Settings, device: torch.device) -> SyntheticSet | Windows:
    """The training data: the bundle's synthetic set on `device`, or the real windows of a coreset."""
    if bundle.windows is not None:
        return bundle.windows
    V = bundle.V.to(device)
    subset = make_subset(settings.distill, V, settings.seed, settings.student)
    return SyntheticSet(bundle.Q.to(device), V, subset, bundle.reading.to(device))
