"""Shared fixtures: a hand-built dataset, a tiny random BERT on disk, small recommenders, a private cache folder.

Torch is imported inside the fixtures only, so that the tests of the data layer stay fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported: no test uses the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
from encoders import WORDS, write_encoder
from hypothesis import settings
from weights import enlarged

from foster_cli.data.schema import Catalogue, Dataset, Interactions

#: The paper's recommender, in fields of `ModelConfig`.
PAPER = {"items": "text", "bias": False, "backbone": "sasrec", "lexical": 0}

settings.register_profile("foster", deadline=None)  # a busy machine is no failure
settings.load_profile("foster")


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FOSTER_CACHE in a temporary folder: no test reads or writes the user's."""
    before = os.environ.get("FOSTER_CACHE")
    os.environ["FOSTER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["FOSTER_CACHE"]
    else:
        os.environ["FOSTER_CACHE"] = before


@pytest.fixture(scope="session")
def torch_one() -> None:
    """One torch thread."""
    import torch

    torch.set_num_threads(1)


def build_dataset(rows: list[tuple[int, int, int]], items: int, texts: list[str], name: str = "tiny") -> Dataset:
    """A `Dataset` of (user, item, split) rows, in time order; nothing of foster's own preparation is used."""
    table = np.array([(u, t, i, s) for t, (u, i, s) in enumerate(rows)], dtype=np.int64).reshape(-1, 4)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    columns = Interactions(table[:, 0], table[:, 2], table[:, 1], table[:, 3].astype(np.int8))
    ids = [f"i{k}" for k in range(items)]
    users = int(table[:, 0].max()) + 1 if len(table) else 0
    catalogue = Catalogue(ids, [f"Title {k}" for k in range(items)], texts)
    return Dataset(name, f"hash-of-{name}", [f"u{k}" for k in range(users)], catalogue, columns)


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Dataset]:
    """`build_dataset`, for tests that bring their own rows."""
    return build_dataset


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """40 users, 30 items; an item is mostly followed by the next one, so that there is something to learn."""
    rng = np.random.default_rng(7)
    events = []
    for user in range(40):
        item = int(rng.integers(30))
        for _ in range(int(rng.integers(4, 15))):
            events.append((float(rng.random()), user, item))
            item = (item + 1) % 30 if rng.random() < 0.85 else int(rng.integers(30))
    # each user's own order in time is the order of the chain
    moments = {u: sorted(e[0] for e in events if e[1] == u) for u in range(40)}
    timed = sorted((moments[u].pop(0), u, i) for _, u, i in events)
    cut = (int(0.8 * len(timed)), int(0.9 * len(timed)))
    rows = [(u, i, int(k >= cut[0]) + int(k >= cut[1])) for k, (_, u, i) in enumerate(timed)]
    texts = [" ".join(rng.choice(WORDS, size=1 + k % 5)) + f" {k}" for k in range(30)]
    return build_dataset(rows, 30, texts)


@pytest.fixture(scope="session")
def mean_encoder(tmp_path_factory: pytest.TempPathFactory, torch_one: None) -> Path:
    """A folder with a random 4-layer BERT of width 32: mean pooling, normalised. Read only."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "mean", "mean", True)


@pytest.fixture(scope="session")
def cls_encoder(tmp_path_factory: pytest.TempPathFactory, torch_one: None) -> Path:
    """The same weights with CLS pooling, not normalised. Read only."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "cls", "cls", False)


@pytest.fixture(scope="session")
def task(dataset: Dataset, mean_encoder: Path) -> Any:
    """A `Task` on the tiny dataset: frozen texts, head, SASRec of width 16, L = 8. Read only."""
    from foster_cli.session import Session
    from foster_cli.settings import ModelConfig
    from foster_cli.train.task import make_task

    model = ModelConfig(encoder=str(mean_encoder), width=16, layers=1)
    return make_task(dataset, model, 8, Session(use_cache=False))


@pytest.fixture(scope="session")
def small_model(torch_one: None) -> Callable[..., Any]:
    """`small_model(n, width, length, seed, …, **more)`: a recommender on random text vectors, in eval mode.

    The texts are the same for every seed. Its weights are larger than SASRec's at the start (see `enlarged`). It is the
    paper's SASRec, with items known by their texts and without a bias, unless `more` has other fields of `ModelConfig`;
    `known` is that of `Recommender`.
    """
    import torch

    from foster_cli.models.encoder import TextCache, TextEncoder
    from foster_cli.models.recommender import Recommender
    from foster_cli.settings import ModelConfig

    def make(
        n: int = 12, width: int = 8, length: int = 6, seed: int = 0, double: bool = True, layers: int = 2,
        known: torch.Tensor | None = None, **more: Any,
    ) -> Recommender:  # fmt: skip
        pooled = torch.randn(n, width, generator=torch.Generator().manual_seed(999))
        cache = TextCache(pooled.double() if double else pooled, None, None, n, width)
        text = TextEncoder(cache, None, "mean", False)
        config = ModelConfig(**{**PAPER, "width": width, "layers": layers, "heads": 2, **more})
        model = Recommender(text, config, length, seed, known=known)
        enlarged(model, 1000 + seed)
        return (model.double() if double else model).eval()

    return make


@pytest.fixture
def call_foster(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls `foster ARGS…` in this process; gives code, stdout and stderr."""
    from foster_cli.__main__ import main

    def call(*args: str | os.PathLike[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foster", *map(str, args)])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        return (code, *capfd.readouterr())

    return call
