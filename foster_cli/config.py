"""Settings as frozen dataclasses. A bundle stores them; the command line is made of them.

`from_dict` refuses unknown keys, so that a settings file with a typing error is not half obeyed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from foster_cli.errors import FosterError, did_you_mean

T = TypeVar("T")

#: Characters of the longest id and the longest title that a bundle holds.
MOST_TITLE = 1 << 16


@dataclass(frozen=True)
class ModelConfig:
    """The recommender: item embeddings and a backbone (paper 4.1: a text encoder and SASRec)."""

    encoder: str = "minilm"
    """Alias (minilm, tinybert), local folder or hub id (`org/name` or `org/name@revision`)."""
    train_layers: str = "none"
    """How much of the text encoder learns: `all`, the number of top layers, or `none` (a linear head learns)."""
    width: int | None = None
    """d, the width of the recommender; None: the encoder's own width, without a projection (64 with `items` id)."""
    layers: int = 2
    """Blocks of the backbone; stacked GRUs of gru4rec and narm."""
    heads: int = 2
    """Attention heads of the backbone, where it has some."""
    dropout: float = 0.2
    """Dropout in the backbone while it trains (`StudentConfig.dropout`: also on synthetic sequences)."""
    max_tokens: int = 64
    """A text is cut to this many tokens."""
    precision: str = "fp32"
    """`fp32`; `bf16`: the text encoder's layers that learn run in it (`ops.precision`)."""
    backbone: str = "sasrec"
    """The sequence model: `sasrec`, `gru4rec`, `bert4rec`, `narm` or `hstu` (`models.backbones`)."""
    items: str = "text"
    """Where item embeddings come from: `text`, the encoder; `id`, a table (n, width) that learns from nothing.
    Every anchor then holds the table: n * width * 4 bytes for each epoch of the teacher."""
    pooling: str | None = None
    """How token states become a text's vector: `mean`, `last` or `cls`; None: as the encoder was trained, and the
    last token for a causal LM."""
    lora: int | None = None
    """Rank of LoRA on the linear layers of the top `train_layers`, which alone then learn; None: the layers learn."""
    lora_alpha: float | None = None
    """LoRA's alpha: what it adds is scaled by alpha / rank. None: 4 times the rank (paper D.4: 128 and 32)."""
    lora_dropout: float = 0.1
    """Dropout of what LoRA reads, while the recommender trains with its own (paper D.4)."""
    cache_precision: str | None = None
    """`fp32` or `bf16`: how the hidden states below the learning layers are kept; None: as the encoder computes them,
    bf16 for a causal LM of 16-bit weights."""


@dataclass(frozen=True)
class TrainConfig:
    """Training on real sequences, by BCE (Eq. 16) or sampled softmax."""

    loss: str = "softmax"
    """`softmax`: 512 negatives shared in a batch; `bce`: the paper's, one negative per position."""
    negatives: int = 512
    """Shared negatives of the sampled softmax."""
    batch: int = 256
    """Windows per step."""
    lr: float = 1e-3
    """AdamW rate of the backbone and the linear head (or the table of items)."""
    encoder_lr: float = 5e-5
    """AdamW rate of the text encoder's own layers."""
    weight_decay: float = 1e-4
    """AdamW weight decay."""
    warmup: int = 100
    """Steps over which the rates rise from near 0 (without: Games falls from 0.050 to 0.046 before it learns)."""
    average: int = 100
    """Weights are averaged over about this many steps, or an epoch where that is longer; the average is validated."""
    epochs: int = 30
    """Most passes over the training windows."""
    patience: int = 5
    """Stop after this many epochs without a better validation R@10 (3 stopped Games before it had begun to rise)."""


@dataclass(frozen=True)
class StudentConfig:
    """Training a fresh recommender on a synthetic set (Algorithm 1, repeated)."""

    lr: float = 1e-3
    """AdamW rate of the backbone and the linear head (or the table of items)."""
    encoder_lr: float = 5e-5
    """AdamW rate of the text encoder's own layers."""
    weight_decay: float = 1e-4
    """AdamW weight decay."""
    average: int = 20
    """Weights are averaged over about this many steps; the average is validated and kept."""
    dropout: bool = True
    """With the recommender's own dropout; False: without."""
    steps: int = 600
    """Most steps."""
    items_per_step: int | None = 2048
    """Items drawn at every step, on which goals and outputs are compared; None: all. More than in distillation: the
    gradients are less noisy (movielens, validation R@10 0.0479 against 0.0471 with 512)."""
    check_every: int = 100
    """Steps between validations; the best state is kept, step 0 included."""
    patience: int = 3
    """Stop after this many validations without a better R@10."""


@dataclass(frozen=True)
class DistillConfig:
    """FOSTER's own settings (paper 3 and Algorithm 2)."""

    budget: int = 20
    """M, synthetic sequences."""
    length: int = 20
    """L, positions of a synthetic sequence; also the longest history a recommender reads."""
    steps: int = 200
    """K, outer steps."""
    targets: str = "own"
    """What a position is to predict: `own`, a distribution of its own; `next`, the position after it (Eq. 18)."""
    mix: bool = True
    """Train on users mixed anew at every step, 2M of them, each between two of the M; False: on the M (the paper)."""
    init: str = "probe"
    """Where D~ starts: `probe`, `guided`, `rollout`, `real` or `random` (TD3's); of several, validation keeps the
    best."""
    draws: int = 6
    """Draws of the items of a `probe`, or of the M contexts of the starts from real windows: one fresh model is
    trained on each, and the best on validation is where D~ starts."""
    gain: float = 40.0
    """Length of the vectors that stand for one item (all that a probe or a real start reads, the first one of a
    rollout): the larger, the harder P."""
    rank_user: int | None = None
    """d1, rank of the user factor; None: M (full)."""
    rank_time: int | None = None
    """d2, rank of the time factor; None: L (full)."""
    items_per_step: int | None = 512
    """|S|, items drawn at every step of both loops; None: all."""
    subset: str = "fly"
    """`fly`: a fresh uniform S at every step; `kmeans`: S fixed to the items nearest to k-means centres of V."""
    inner_steps: int = 5
    """T, inner steps from phi to phi^T."""
    inner_lr: float = 1e-4
    """AdamW rate of the inner steps."""
    model_lr: float = 2e-4
    """AdamW rate of phi in the outer step."""
    synthetic_lr: float = 1e-3
    """AdamW rate of U, T, G."""
    synthetic_weight_decay: float = 1e-4
    """AdamW weight decay of U, T, G."""
    barrier: str = "gradient"
    """`gradient`: phi_k = eta * |grad q|^2 (Eq. 7); `loss`: phi_k = eta * L_in (the BOME code's other form)."""
    outer_loss: str = "bce"
    """Real-data part of the outer loss: `bce` (Eq. 16) or `softmax`."""
    eta: float = 0.5
    """Barrier strength."""
    alpha: float = 1.0
    """Weight of feature matching (Eq. 17)."""
    dh_weight: float = 0.1
    """lambda, weight of the distributional-hypothesis loss (Eq. 11)."""
    dh_form: str = "rank"
    """How d_sem and d_cond come to one scale: `rank`, `mean` (each over its mean), `raw` (Eq. 10 as read)."""
    dh_items: int = 64
    """Items per step whose pairs L_DH compares."""
    reset: str = "anchor"
    """`anchor`: to a random checkpoint of the real trajectory; `random`: to a fresh model; `never`."""
    reset_every: int = 100
    """tau, outer steps between resets."""
    real_batch: int = 256
    """Real windows per outer step."""
    check_every: int = 100
    """Outer steps between validations of D~ by fresh models."""
    check_seeds: int = 2
    """Fresh models per validation of D~ (the same seeds each time)."""


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """`kind(**values)`; FosterError names an unknown key and the nearest known one."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = did_you_mean(key, known)
            raise FosterError(
                f"unknown setting {key!r} for {kind.__name__}",
                f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(known))}",
            )
    return kind(**values)


#: Settings of the recommender that came later, at the values that stand for how things were before.
LATER = {"pooling": None, "lora": None, "lora_alpha": None, "lora_dropout": 0.1, "cache_precision": None}


def without(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` less those that stand at `defaults`: what was kept before there were such settings keeps its key."""
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` if allowed, else FosterError naming the option."""
    if value not in allowed:
        raise FosterError(f"{name} {value}: unknown", f"use one of {', '.join(allowed)}")
    return value


def is_number(text: str) -> bool:
    """Whether `text` is a whole number in the digits 0 to 9 alone: what `int` reads, without ² and other scripts."""
    return text.isascii() and text.isdecimal()


def positive(name: str, value: float, least: float = 1) -> None:
    """FosterError unless value >= least."""
    if not (math.isfinite(value) and value >= least):
        raise FosterError(f"{name} {value}: out of range", f"use a number of {least} or more")
