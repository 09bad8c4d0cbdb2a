"""The settings of a run as frozen dataclasses. Bundles record them, and the command line is made from their fields.

`option` makes a field from its default, a help text for both the field and its command-line option, the flag, and the
commands that offer it. A field without a flag can be set only in a settings file (`--settings`) or from Python.
This module imports nothing heavy, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from foster_cli.errors import FosterError, did_you_mean

T = TypeVar("T")

#: The largest number of characters in an id or a title of a bundle.
MOST_TITLE = 1 << 16
#: `--split-column none`: ignore the split in the table and split by time.
NO_SPLIT = "none"
#: `--time-column none`: rows are in the order in which they happened.
NO_TIME = "none"
#: How interactions are split where the tables have no split of their own.
SPLITS_BY = ("time", "leave-one-out")
#: Commands that make bundles from a table; all of them offer the options of the recommender.
TABLES = ("distill", "compare", "ablate", "sweep", "tune")
READERS = (*TABLES, "bench distill")
COLUMNS = (*READERS, "preprocess")


def option(
    default: T, help: str, flag: str | None = None, on: Iterable[str] = ("distill",), text: str | None = None,
    chosen: bool = False,
) -> T:  # fmt: skip
    """A field of the settings. `help`: what it does and when to change it; this documents the field and its option.

    `flag`: the option's name, `--on/--off` for a bool. `on`: the commands that offer it. `text`: how the value is
    typed, if not as the type of the field: `items` (a number, or `all` for None), `names` (A,B) or `list`
    (repeated). `chosen`: commands let validation choose it (`train.trials`) unless it was given.
    """
    return field(
        default=default, metadata={"help": help, "flag": flag, "on": tuple(on), "text": text, "chosen": chosen}
    )


@dataclass(frozen=True)
class PrepareSettings:
    """How to read a raw table. None: recognise the column; for `k_core`: 5, or 1 if the table has a split."""

    user_column: str | None = option(None, "Column of user ids; by default found by name.", "--user-column", COLUMNS)
    item_column: str | None = option(None, "Column of item ids; by default found by name.", "--item-column", COLUMNS)
    item_key: str | None = option(
        None, "Column of item ids in the table of items, where it is named otherwise.", "--item-key", COLUMNS
    )
    time_column: str | None = option(
        None, "Column of times (seconds to nanoseconds, dates); by default found by name; none: rows are in the order "
        "in which they happened.", "--time-column", COLUMNS,
    )  # fmt: skip
    text_columns: tuple[str, ...] | None = option(
        None, "Columns A,B that make up the text of an item; by default all that are found by name.", "--text-columns",
        COLUMNS, text="names",
    )  # fmt: skip
    text: str | None = option(
        None, "The text of an item, made of columns: '{title}. {genres}'; instead of --text-columns.", "--text", COLUMNS
    )
    where: tuple[str, ...] = option(
        (), "Keep only interactions with COLUMN=VALUE (A|B for several), !=, >=, <=, > or < (repeatable).", "--where",
        COLUMNS, text="list",
    )  # fmt: skip
    split_column: str | None = option(
        None, "Column of train, valid or test; none: ignore it, and the names of files.", "--split-column", COLUMNS
    )
    split_by: str = option(
        "time", "Split by time (8:1:1 of all interactions) or leave-one-out (each user's last for test, the one before "
        "for validation), where the tables have no split.", "--split-by", COLUMNS,
    )  # fmt: skip
    k_core: int | None = option(
        None, "Drop users and items with fewer interactions; by default 5, or 1 if the table has a split.",
        "--k-core", COLUMNS,
    )  # fmt: skip
    format: str | None = option(
        None, "Format of the tables: csv, tsv, semicolon, bar, colons (::), blank, json, python, parquet, arrow or "
        "sequences; by default found from content and name.", "--format", COLUMNS,
    )  # fmt: skip
    columns: tuple[str, ...] = option(
        (), "Names A,B,C of all columns of a table without a header (repeatable, in the order of the tables).",
        "--columns", COLUMNS, text="list",
    )  # fmt: skip
    encoding: str | None = option(
        None, "Encoding of the text, such as latin-1; by default UTF-8, or found from content.", "--encoding", COLUMNS
    )
    allow_bad: bool = option(
        False, "Leave out rows that cannot be read, however many; by default more than 1 % are refused.",
        "--allow-bad/--no-allow-bad", COLUMNS,
    )  # fmt: skip
    seed: int = option(0, "Seed for the order of interactions at the same time.", "--seed", ("preprocess",))


@dataclass(frozen=True)
class ModelConfig:
    """The recommender: item embeddings and a backbone (paper 4.1: a text encoder and SASRec)."""

    encoder: str = option(
        "minilm", "Text encoder or causal LM: minilm, tinybert, a folder, or org/name[@revision] on the hub.",
        "--encoder", READERS,
    )  # fmt: skip
    train_layers: str = option(
        "none", "Encoder layers to train: all, a number of top layers, or none (fast: only a linear head is trained).",
        "--train-layers", ("distill", "compare", "sweep", "tune"),
    )  # fmt: skip
    width: int | None = option(
        None,
        "d, recommender width: by default 64, or the encoder's with --items text; small is fast.",
        "--width",
        READERS,
    )
    layers: int = option(2, "Blocks of the backbone; in gru4rec and narm, stacked GRUs.")
    heads: int = option(2, "Attention heads of the backbone, if it has any.")
    dropout: float = option(0.2, "Dropout in the backbone during training.")
    max_tokens: int = option(64, "Texts are cut to this many tokens; raise it for longer texts.", "--max-tokens")
    precision: str = option("fp32", "fp32, or bf16 for faster training of encoder layers.", "--precision", TABLES)
    backbone: str = option(
        "sasrec-relative", "Sequence model: sasrec-relative, sasrec (paper), gru4rec, bert4rec, narm, hstu or ligr.",
        "--backbone", TABLES,
    )  # fmt: skip
    items: str = option(
        "both", "Source of item vectors: both (text, and a vector of each item), text, or id (without texts); by "
        "default both, or text where most targets are new and validation says so.", "--items", TABLES, chosen=True,
    )  # fmt: skip
    """With `both` and `id`, every anchor contains the vectors: n * width * 4 bytes for each validation."""
    vector_dropout: float = option(
        0.1, "With --items both, the probability in training that an item stands on its text alone; raise it if many "
        "items are new.", "--vector-dropout", ("distill", "compare"),
    )  # fmt: skip
    bias: bool = option(True, "Give every item a bias, one for all new items; without it, scores are h . e (paper).")
    lexical: int = option(
        256, "Dimensions of TF-IDF of the texts beside the encoder's vector, 0 for none (paper); by default validation "
        "chooses 256 or 0.", "--lexical", TABLES, chosen=True,
    )  # fmt: skip
    pooling: str | None = option(
        None, "How token states become one vector: mean, last or cls; by default as the encoder was trained.",
        "--pooling", TABLES,
    )  # fmt: skip
    lora: int | None = option(
        None, "Rank of LoRA in the layers of --train-layers, which are then frozen.", "--lora", TABLES
    )
    lora_alpha: float | None = option(
        None, "LoRA's alpha: its update is scaled by alpha / rank; by default 4 * rank.", "--lora-alpha", TABLES
    )
    """Paper D.4: alpha 128 and rank 32."""
    lora_dropout: float = option(0.1, "Dropout on the input of LoRA during training (paper D.4).")
    cache_precision: str | None = option(
        None, "Precision of cached hidden states: fp32, or bf16 to save disk space; by default that of the encoder.",
        "--cache-precision",
    )  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Training on real sequences, by BCE (Eq. 16) or sampled softmax."""

    loss: str = option("softmax", "Loss on real data: softmax, over all items or a sample, or bce (paper).", "--loss")
    negatives: int | None = option(
        None, "Items that a batch's softmax samples; by default 4096, or 512 if layers of the encoder learn.",
        "--negatives", ("distill", "compare"),
    )  # fmt: skip
    batch: int = option(256, "Windows per step.")
    recency: float | None = option(
        0.5, "An epoch holds a training window with probability exp(-age / this), its age being the share of windows "
        "that end later; None: always. By default 0.5, or None where most targets are new and validation says so.",
        chosen=True,
    )  # fmt: skip
    lr: float = option(3e-3, "AdamW learning rate on real data; it falls to a twentieth in half a cosine.", "--lr")
    encoder_lr: float = option(5e-5, "AdamW learning rate of the text encoder's own layers.")
    weight_decay: float = option(1e-4, "AdamW weight decay.")
    warmup: int = option(100, "Steps over which the learning rates rise from near 0.")
    average: int = option(100, "Steps over which weights are averaged, at least an epoch.")
    epochs: int = option(30, "Maximum epochs on the full data; validation may stop earlier.", "--epochs", TABLES)
    patience: int = option(
        5, "Stop after this many validations without a better R@10, once the loss has settled.", "--patience"
    )


@dataclass(frozen=True)
class StudentConfig:
    """Training a fresh recommender on a synthetic set (Algorithm 1, repeated)."""

    lr: float = option(1e-3, "AdamW learning rate for training on the synthetic set.", "--student-lr")
    encoder_lr: float = option(5e-5, "AdamW learning rate of the text encoder's own layers.")
    weight_decay: float = option(1e-4, "AdamW weight decay.")
    average: int = option(20, "Steps over which weights are averaged; the average is validated and returned.")
    dropout: bool = option(False, "Train with the recommender's dropout.")
    item_start: str = option(
        "V", "Where item vectors start: V (the item factor, which the set holds) or text.", "--item-start",
        ("distill", "compare"),
    )  # fmt: skip
    steps: int = option(
        400, "Maximum steps on the synthetic set; validation chooses how many when the set is made.", "--student-steps",
        TABLES,
    )  # fmt: skip
    items_per_step: int | None = option(
        512, "Items drawn at each of these steps, or all; fewer make the gradients noisier.", "--student-items",
        ("distill", "compare", "ablate", "sweep"), text="items",
    )  # fmt: skip
    check_every: int = option(50, "Steps between validations, where there are any.")
    patience: int = option(3, "Where R@10 chooses the state, stop after this many validations without a better one.")


@dataclass(frozen=True)
class DistillConfig:
    """FOSTER's own settings (paper 3 and Algorithm 2)."""

    budget: int = option(20, "M, sequences to make or choose; more come closer to the full data.", "--budget", READERS)
    length: int = option(20, "L, positions of a sequence, synthetic or real; fewer save memory.", "--length", READERS)
    teacher: str = option(
        "own", "Who answers at the start: own (the recommender), or several (A,B) of both, text, id, item_knn, ease, "
        "tfidf; validation chooses their weights.", "--teacher",
    )  # fmt: skip
    outer: str = option(
        "follow", "Outer steps: follow (targets follow students on their way to the teacher) or bome (Algorithm 2, the "
        "paper's).", "--outer", ("distill", "compare"),
    )  # fmt: skip
    steps: int = option(400, "K, outer steps; 0 returns the starting point, for a quick look.", "--steps", TABLES)
    targets: str = option(
        "own", "Target of a position: own (a separate distribution) or next (the next position, as in the paper).",
        "--targets", ("distill", "bench distill"),
    )  # fmt: skip
    mix: bool = option(
        True, "Train on random mixtures of two synthetic users; without it, on the M users (paper).", "--mix/--no-mix"
    )
    init: str = option(
        "probe",
        "Start of D~: probe, guided, rollout, real or random; of several (A,B) validation chooses one.",
        "--init",
    )
    draws: int = option(4, "Random draws of each start; validation chooses one. 1 is fastest.", "--draws", TABLES)
    gain: float = option(40.0, "Length of the vector of one item at the start; a larger one makes P sharper.", "--gain")
    rank_user: int | None = option(None, "d1, rank of the user factor; by default full.", "--rank-user")
    rank_time: int | None = option(None, "d2, rank of the time factor; by default full.", "--rank-time")
    items_per_step: int | None = option(
        512, "|S|, items drawn at each step, or all; fewer make a step faster.", "--items-per-step",
        ("distill", "ablate", "sweep", "bench distill"), text="items",
    )  # fmt: skip
    subset: str = option("fly", "How S is drawn: fly (anew at each step) or kmeans (fixed items).", "--subset")
    inner_steps: int = option(
        5, "T, inner steps on the synthetic set in each outer step.", "--inner-steps", ("distill", "ablate", "sweep")
    )
    inner_lr: float = option(1e-4, "AdamW learning rate of the inner steps; lower it if q stays below 0.", "--inner-lr")
    model_lr: float = option(2e-4, "AdamW learning rate of phi; lower it if a loss becomes NaN.", "--model-lr")
    synthetic_lr: float = option(1e-3, "AdamW learning rate of U, T, G; lower it if a loss is NaN.", "--synthetic-lr")
    synthetic_weight_decay: float = option(1e-4, "AdamW weight decay of U, T and G.")
    barrier: str = option("gradient", "Barrier form: gradient (eta |grad q|^2, Eq. 7) or loss (eta L_in).", "--barrier")
    outer_loss: str = option("bce", "The outer loss on real data: bce (Eq. 16) or softmax.", "--outer-loss")
    eta: float = option(0.5, "Strength of the barrier: a larger one gives q more weight against L_out.", "--eta")
    alpha: float = option(1.0, "Weight of feature matching (Eq. 17); 0 leaves it out.", "--alpha")
    dh_weight: float = option(
        0.1, "lambda, weight of the distributional-hypothesis loss (Eq. 11); 0 leaves it out.", "--dh-weight",
        ("distill", "ablate", "sweep"),
    )  # fmt: skip
    dh_form: str = option("rank", "How the two distances of L_DH are scaled: rank, mean or raw (Eq. 10).", "--dh-form")
    dh_items: int = option(64, "Items per step whose pairs L_DH compares.")
    reset: str = option(
        "anchor", "Where phi restarts: anchor (a checkpoint of the real training), random or never.", "--reset"
    )
    reset_every: int = option(
        100, "tau, outer steps between resets of phi.", "--reset-every", ("distill", "ablate", "sweep")
    )
    real_batch: int = option(256, "Real windows per outer step; more are slower.", "--real-batch", ("bench distill",))
    check_every: int = option(200, "Outer steps between validations of D~.", "--check-every", ("distill", "tune"))
    check_seeds: int = option(2, "Fresh models per validation, with fixed seeds; more reduce noise.", "--check-seeds")
    exact: bool = option(
        False, "Store the item factor and the factors in 32 bits; by default in as few as validation allows.",
        "--exact/--no-exact",
    )  # fmt: skip
    keep_state: bool = option(
        False, "Keep where the last outer step ended in the bundle, so that --extend can add steps.",
        "--keep-state/--no-keep-state",
    )  # fmt: skip


#: The fields of `DistillConfig` that Algorithm 2 alone reads (`--outer bome`).
BOME_ONLY = (
    "inner_steps", "inner_lr", "synthetic_lr", "synthetic_weight_decay", "barrier", "outer_loss", "eta", "alpha",
    "dh_weight", "dh_form", "dh_items", "reset", "real_batch",
)  # fmt: skip


@dataclass(frozen=True)
class RankingConfig:
    """Which held-out interactions are ranked, and among which items; in validation as in the test."""

    mask_seen: bool | None = option(
        None, "Leave out items that a user already has; by default where repeats are rare (below 1 % of training).",
        "--mask-seen/--no-mask-seen", TABLES,
    )  # fmt: skip
    cases: str = option("all", "Held-out interactions to rank: all, or each user's first or last.", "--cases", TABLES)


#: Where the item vectors of a student start.
ITEM_STARTS = ("V", "text")
#: The ranking of bundles from before it was recorded.
EARLIER = RankingConfig(mask_seen=False)
#: The sections of settings in a bundle, a settings file and every result, by name.
SECTIONS: dict[str, type] = {
    "model": ModelConfig, "train": TrainConfig, "distill": DistillConfig, "student": StudentConfig,
    "ranking": RankingConfig,
}  # fmt: skip
#: Every dataclass of settings by its name in `Settings`.
PARTS: dict[str, type] = {**SECTIONS, "prepare": PrepareSettings}


@dataclass(frozen=True)
class Settings:
    """A run: what it reads (`paths`, `prepare`), how it shrinks the data (`method`, the sections), its seed."""

    paths: tuple[str, ...] = ()
    prepare: PrepareSettings = PrepareSettings()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    distill: DistillConfig = DistillConfig()
    student: StudentConfig = StudentConfig()
    ranking: RankingConfig = RankingConfig()
    seed: int = option(0, "Random seed; it fixes the result on a given machine.", "--seed", ("distill", "tune"))
    method: str = "foster"

    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections as plain values, in the layout of a settings file."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values. JSON turns tuples into lists, which `from_dict` accepts too."""
        return {**dataclasses.asdict(self), "paths": list(self.paths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of `to_dict`, also after JSON. Missing values are defaults. FosterError for an unknown key."""
        built = {key: from_dict(PARTS[key], value) if key in PARTS else value for key, value in values.items()}
        return from_dict(cls, {**built, "paths": tuple(values.get("paths", ()))})

    @classmethod
    def of_manifest(cls, manifest: dict[str, Any]) -> Settings:
        """The settings that a bundle was made with, from its bundle.json. FosterError for missing or unknown ones."""
        try:
            manifest = {"ranking": dataclasses.asdict(EARLIER), **manifest}
            manifest["model"] = {"items": "text", "backbone": "sasrec", **LATER, **manifest["model"]}
            manifest["train"] = {"recency": None, **manifest["train"]}
            manifest["distill"] = {"outer": "bome", **manifest["distill"]}
            manifest["student"] = {"item_start": "text", **manifest["student"]}
            data, named = manifest["data"], {key: manifest[key] for key in (*SECTIONS, "seed", "method")}
            return cls.from_dict({"paths": data["path"], "prepare": data["prepare"], **named})
        except KeyError as error:
            raise FosterError(f"its manifest lacks {error}", "distill again") from error


def parameter_name(flag: str) -> str:
    """The name of the command's parameter that an option sets: `--mix/--no-mix` sets `mix`."""
    return flag.split("/")[0].removeprefix("--").replace("-", "_")


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """`kind(**values)`, lists as tuples for tuple fields. Raises FosterError for an unknown key, naming the nearest."""
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = did_you_mean(key, hints)
            raise FosterError(
                f"unknown setting {key!r} for {kind.__name__}",
                f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(hints))}",
            )
    return kind(**{k: tuple(v) if isinstance(v, list) and _is_tuple(hints[k]) else v for k, v in values.items()})


def _is_tuple(hint: Any) -> bool:
    """Whether a field's type is a tuple, or a tuple or None."""
    return any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))


#: Settings of the recommender that were added later, at the values that give the earlier behaviour.
LATER = {
    "pooling": None, "lora": None, "lora_alpha": None, "lora_dropout": 0.1, "cache_precision": None,
    "vector_dropout": 0.0, "bias": False, "lexical": 0,
}  # fmt: skip


def without(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that equal `defaults`, so that cache keys older than such a setting remain valid."""
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}


def choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`; otherwise raises FosterError naming the option."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise FosterError(f"{name} {value}: unknown", f"use one of {', '.join(allowed)}")
    return value


def is_number(text: str) -> bool:
    """Whether `text` is a whole number in the digits 0 to 9, which `int` reads; ² and other scripts are excluded."""
    return text.isascii() and text.isdecimal()


def positive(name: str, value: float, least: float = 1) -> None:
    """Raise FosterError unless `value` is finite and at least `least`."""
    if not (math.isfinite(value) and value >= least):
        raise FosterError(f"{name} {value}: out of range", f"use a number of {least} or more")
