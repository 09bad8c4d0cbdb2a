"""Checks of the settings, made before anything slow begins: values out of range or in conflict raise FosterError."""

from __future__ import annotations

from foster_cli.data.windows import CASES
from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES
from foster_cli.models.encoder import check_encoder
from foster_cli.models.recommender import ITEMS
from foster_cli.ops.precision import PRECISIONS
from foster_cli.settings import ITEM_STARTS, DistillConfig, ModelConfig, Settings, choice, positive
from foster_cli.train.mixture import MEMBERS

STARTS = ("probe", "guided", "rollout", "real", "random")
#: Starts that query the teacher: their targets are its answers, not the next items.
ASKING = {"probe", "guided"}


def check_model(model: ModelConfig) -> None:
    """Raise FosterError for a recommender setting that is out of range."""
    choice("--precision", model.precision, PRECISIONS)
    choice("--backbone", model.backbone, tuple(BACKBONES))
    choice("--items", model.items, ITEMS)
    if model.train_layers not in ("all", "none") and not (model.train_layers.isdecimal() and int(model.train_layers)):
        raise FosterError(
            f"--train-layers {model.train_layers}: not a choice", "use none, all, or a number of top layers"
        )
    if model.items == "id" and model.train_layers != "none":
        raise FosterError(
            f"--train-layers {model.train_layers}: --items id has no text encoder", "use --train-layers none"
        )
    if model.items == "id" and model.precision != "fp32":
        raise FosterError(f"--precision {model.precision}: --items id has no text encoder", "use --precision fp32")
    check_encoder(model)
    positive("heads", model.heads)
    positive("layers", model.layers)
    if model.width is not None:
        positive("--width", model.width)
    positive("--max-tokens", model.max_tokens, 3)  # room for [CLS], [SEP] and one word
    for name, share in (("dropout", model.dropout), ("--vector-dropout", model.vector_dropout)):
        if not 0 <= share < 1:
            raise FosterError(f"{name} {share}: out of range", "use 0 or more, below 1")
    positive("--lexical", model.lexical, 0)


def check_settings(settings: Settings) -> None:
    """Raise FosterError for a setting that is out of range or conflicts with another."""
    train, config, student = settings.train, settings.distill, settings.student
    for name in config.init.split(","):
        choice("--init", name, STARTS)
    if config.teacher != "own":
        for name in config.teacher.split(","):
            choice("--teacher", name, MEMBERS)
    positive("--draws", config.draws)
    for option, value, allowed in (
        ("--outer", config.outer, ("follow", "bome")), ("--targets", config.targets, ("own", "next")),
        ("--subset", config.subset, ("fly", "kmeans")),
        ("--barrier", config.barrier, ("gradient", "loss")), ("--reset", config.reset, ("anchor", "random", "never")),
        ("--dh-form", config.dh_form, ("rank", "mean", "raw")), ("--outer-loss", config.outer_loss, ("bce", "softmax")),
        ("--item-start", student.item_start, ITEM_STARTS),
        ("--loss", train.loss, ("softmax", "bce")), ("--cases", settings.ranking.cases, CASES),
    ):  # fmt: skip
        choice(option, value, allowed)
    asking = ASKING & set(config.init.split(","))
    if asking and config.targets == "next":
        raise FosterError(f"--init {min(asking)}: needs goals of its own", "use --targets own, or --init rollout")
    check_model(settings.model)
    for name, number, least in (
        ("--budget", config.budget, 1), ("--inner-steps", config.inner_steps, 1),
        ("--reset-every", config.reset_every, 1), ("--check-every", config.check_every, 1),
        ("--check-seeds", config.check_seeds, 1), ("--epochs", train.epochs, 1), ("--patience", train.patience, 1),
        ("train average", train.average, 1), ("student average", student.average, 1),
        ("student patience", student.patience, 1), ("batch", train.batch, 1),
        ("recency", 1.0 if train.recency is None else train.recency, 1e-6),
        ("--negatives", 1 if train.negatives is None else train.negatives, 1),
        ("student check_every", student.check_every, 1), ("--real-batch", config.real_batch, 1),
        ("dh_items", config.dh_items, 2), ("--length", config.length, 2), ("--steps", config.steps, 0),
        ("--items-per-step", 2 if config.items_per_step is None else config.items_per_step, 2),
        ("--student-items", 2 if student.items_per_step is None else student.items_per_step, 2),
        ("--eta", config.eta, 0), ("--alpha", config.alpha, 0), ("--dh-weight", config.dh_weight, 0),
        ("--inner-lr", config.inner_lr, 0), ("--model-lr", config.model_lr, 0),
        ("--synthetic-lr", config.synthetic_lr, 0), ("--lr", train.lr, 0), ("--student-lr", student.lr, 0),
        ("--student-steps", student.steps, 0), ("--gain", config.gain, 0), ("warmup", train.warmup, 0),
        ("train weight_decay", train.weight_decay, 0), ("train encoder_lr", train.encoder_lr, 0),
        ("student weight_decay", student.weight_decay, 0), ("student encoder_lr", student.encoder_lr, 0),
        ("synthetic_weight_decay", config.synthetic_weight_decay, 0),
    ):  # fmt: skip
        positive(name, number, least)
    for name, rank, most in (
        ("--rank-user", config.rank_user, config.budget),
        ("--rank-time", config.rank_time, config.length * (2 if config.targets == "own" else 1)),
    ):
        if rank is not None and not 1 <= rank <= most:
            raise FosterError(f"{name} {rank}: out of range", f"use 1 to {most}")


def check_budget(count: int, config: DistillConfig) -> None:
    """Raise FosterError if `config.budget` exceeds the number of training windows, `count`."""
    if config.budget > count:
        raise FosterError(
            f"--budget {config.budget}: there are only {count} training windows", f"use --budget {count} or fewer"
        )
