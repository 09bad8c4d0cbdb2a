"""How the cost of one training grows with the data: on all the data, and on a synthetic set.

    OMP_NUM_THREADS=1 python benches/growth.py --out benches/results/growth.json

Each size is a generated shop (`foster sample`, seed 0) of about that many interactions, with a catalogue of
12 sqrt(interactions) items unless `--items` says otherwise; it is prepared as `foster preprocess` does. The recommender
is the default one. Its text vectors are random ones of the default width (384 of the encoder and 256 lexical): texts
are encoded once for all trainings and are not part of a training, and values do not change the time of a step.

- All the data: the processor time of `--steps` training steps, as `fit_real` takes them (the first ones are not
  counted), and of the draw of an epoch's batches; an epoch is this mean by the number of its batches. Validations are
  left out; a training has several epochs.
- The set: 20 sequences of 20 positions of random factors. The processor time of the whole `fit_synthetic` with the
  recipe's 400 steps: what it takes to start the item vectors at V (`start_s`), and the steps (`student_steps_s`).

Each size runs in a process of its own. The file is written after every size, and sizes in it that were measured with
the same numbers of steps on the same machine are not measured again; other rows leave it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from foster_cli.data.prepare import prepare
from foster_cli.data.sample import MEAN, generate_shop
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Windows, evaluation_cases, training_windows
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender, known_items
from foster_cli.runtime import generator, machine, peak_memory_mb, reset_peak, stream_seed
from foster_cli.settings import DistillConfig, ModelConfig, PrepareSettings, StudentConfig, TrainConfig
from foster_cli.synthetic.reading import SyntheticSet, make_reading
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.batch import Pool, batch_count, batches, candidate_count, real_batch
from foster_cli.train.fit import _Training

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
#: Items of a shop of N interactions: this by the square root of N. MovieLens ml-latest-small has 12.1, Games 29.6.
ITEMS_PER_ROOT = 12
#: Width of the text vectors: minilm's own, beside which come the lexical ones.
TEXT_WIDTH = 384
#: Steps on all the data that are not counted, and validation cases (they are not ranked).
FIRST, CASES = 5, 256
CPU = torch.device("cpu")


def make_shop(interactions: int, items: int) -> Dataset:
    """A prepared shop of about so many interactions and at most so many items."""
    rng = np.random.default_rng(stream_seed(0, "sample"))
    table = generate_shop(max(10, round(interactions / MEAN)), items, rng)
    return prepare(table, None, PrepareSettings(), "shop")


def fresh_recommender(data: Dataset, config: ModelConfig, length: int) -> Recommender:
    """The recommender of `config`, on random text vectors."""
    width, n = TEXT_WIDTH + config.lexical, len(data.catalogue)
    vectors = torch.nn.functional.normalize(torch.randn(n, width, generator=generator(0, "texts")), dim=-1)
    text = TextEncoder(TextCache(vectors, None, None, n, width), None, "mean", True)
    model = Recommender(text, config, length, 0, known=known_items(data))
    model.sequence.seed_dropout(0)
    return model.eval()


def on_all_the_data(model: Recommender, data: Dataset, windows: Windows, length: int, steps: int) -> dict[str, float]:
    """Processor seconds of a training step and of an epoch, as in `fit_real`."""
    config = TrainConfig()
    cases = evaluation_cases(data, "valid", length)
    valid = cases.take(np.arange(min(CASES, len(cases))))
    total = batch_count(windows, config.batch, config.recency)
    training, pool = _Training.fresh(model, config, total, valid, 0), Pool.of(model, windows)
    negatives = candidate_count(model, config)
    predicted = model.sequence.predicted if len(windows) > config.batch else 1.0
    began = time.process_time()
    drawn = batches(windows, config.batch, training.rng, config.recency)
    draw = time.process_time() - began
    model.train()
    seconds = []
    for k in range(FIRST + steps):
        began = time.process_time()
        some = windows.take(drawn[k % len(drawn)])
        batch = real_batch(some, pool, config.loss, negatives, training.rng, CPU, predicted)
        training.step(batch, config.loss, 0.0)
        seconds.append(time.process_time() - began)
    model.eval()
    step = float(np.mean(seconds[FIRST:]))
    return {"step_s": step, "draw_s": draw, "epoch_steps": total, "epoch_s": draw + step * total}


def on_the_set(model: Recommender, length: int, steps: int) -> dict[str, float]:
    """Processor seconds of one whole training on a random set of the default shape, without validations."""
    config, student, n = DistillConfig(), StudentConfig(), model.n
    rng = generator(0, "set")
    V = torch.nn.functional.normalize(torch.randn(n, model.width, generator=rng), dim=-1)
    read = V[torch.randperm(n, generator=rng)[torch.arange(config.budget * length) % n]]
    goal = torch.randn(config.budget * length, model.width, generator=rng)
    Q = torch.cat([x.view(config.budget, length, -1) for x in (config.gain * read, goal)], dim=1)
    D = SyntheticSet(Q, V, make_subset(config, V, 0, student), make_reading(True, config.mix, Q, V))
    fit_synthetic(model, D, None, replace(student, steps=min(steps, FIRST)), 0)  # not counted
    began = time.process_time()
    fit = fit_synthetic(model, D, None, replace(student, steps=steps), 0)
    own = time.process_time() - began
    return {"student_steps": steps, "student_step_s": fit.processor / steps, "student_steps_s": fit.processor,
            "start_s": own - fit.processor, "own_s": own, "factor_bytes": V.numel() * 4}  # fmt: skip


def measure(interactions: int, items: int, steps: int, student_steps: int) -> dict[str, Any]:
    """One size."""
    length, config = DistillConfig().length, ModelConfig()
    data = make_shop(interactions, items)
    windows = training_windows(data, length)
    reset_peak()
    full = on_all_the_data(fresh_recommender(data, config, length), data, windows, length, steps)
    full["peak_mb"] = peak_memory_mb(CPU)
    own = on_the_set(fresh_recommender(data, config, length), length, student_steps)
    found = {"interactions": len(data.interactions), "items": len(data.catalogue), "windows": len(windows)}
    ratio = full["epoch_s"] / own["own_s"]
    return {**found, "steps": steps, **full, **own, "epoch_over_own": ratio, "load": os.getloadavg()[0]}


def apart(interactions: int, items: int, steps: int, student_steps: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--child", "--sizes", str(interactions), "--items", str(items),
               "--steps", str(steps), "--student-steps", str(student_steps)]  # fmt: skip
    done: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return done


def kept(out: Path | None, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `out` that were measured on this machine and have the fields `wanted`."""
    if out is None or not out.exists():
        return []
    found = json.loads(out.read_text())
    same = found["machine"] == json.loads(json.dumps(machine()))
    return [row for row in found["rows"] if same and wanted.items() <= row.items()]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| interactions | items | ms per step, all | steps of an epoch | s per epoch, all | ms per step, set | "
        "start at V, s | s per training, set | epoch / training on the set |",
        "|---" * 9 + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['interactions']:,} | {r['items']:,} | {1000 * r['step_s']:.0f} | {r['epoch_steps']:,} | "
            f"{r['epoch_s']:.1f} | {1000 * r['student_step_s']:.1f} | {r['start_s']:.2f} | {r['own_s']:.1f} | "
            f"{r['epoch_over_own']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every size in turn, write the JSON after each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="about so many interactions")
    parser.add_argument("--items", type=int, help="items of each shop; by default 12 sqrt(interactions)")
    parser.add_argument("--steps", type=int, default=40, help="timed steps on all the data")
    parser.add_argument("--student-steps", type=int, default=StudentConfig().steps)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        print(json.dumps(measure(a.sizes[0], a.items, a.steps, a.student_steps)))
        return
    rows = kept(a.out, {"steps": a.steps, "student_steps": a.student_steps})
    for size in a.sizes:
        asked = {"asked": size, "asked_items": a.items or round(ITEMS_PER_ROOT * size**0.5)}
        if any(asked.items() <= row.items() for row in rows):
            continue
        row = {**asked, **apart(size, asked["asked_items"], a.steps, a.student_steps)}
        rows = sorted([*rows, row], key=lambda row: (row["asked"], row["asked_items"]))
        with contextlib.redirect_stdout(io.StringIO()):
            record(rows, a.out)
        print(markdown([row]).splitlines()[-1], file=sys.stderr)
    print(markdown(rows))


if __name__ == "__main__":
    main()
