"""`foster eval`. In: a bundle. Out: a table of models trained on it, and of baselines, on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands.from_settings import Asked, Force, K, Moved, Seeds, asks, opt
from foster_cli.console import clean

#: The entries of a record by which two text encoders differ: weights, tokenizer and pooling; trained layers.
_ENCODER = ("hash", "train_layers", "lora")


@asks("eval", "device", "cache", "json")
def command(
    asked: Asked,
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BUNDLE",
            help="The bundle; the newest in ./runs without it. Several that differ in --seed: intervals cover the draw "
            "of the set too.",
            show_default=False,
        ),
    ] = None,
    data: Moved = None,
    rows: Annotated[
        str | None, opt("--rows", "Rows, comma-separated, or all; by default all but id, a model without texts.")
    ] = None,
    seeds: Seeds = 3,
    k: K = "10,20",
    backbone: Annotated[
        str | None, opt("--backbone", "Train another: sasrec-relative, sasrec, gru4rec, bert4rec, narm, hstu or ligr.")
    ] = None,
    encoder: Annotated[
        str | None, opt("--encoder", "Train all rows with another text encoder: minilm, tinybert, a folder, org/name.")
    ] = None,
    pooling: Annotated[str | None, opt("--pooling", "mean, last or cls; by default the encoder's own.")] = None,
    train_layers: Annotated[
        str | None, opt("--train-layers", "Layers to train: all, a number of top layers, or none; add --lora for LoRA.")
    ] = None,
    lora: Annotated[int | None, opt("--lora", "Rank of LoRA in the layers of --train-layers.")] = None,
    lora_alpha: Annotated[float | None, opt("--lora-alpha", "LoRA's alpha; by default 4 times the rank.")] = None,
    width: Annotated[str | None, opt("--width", "Width of the recommenders, or own: the encoder's width.")] = None,
    precision: Annotated[str | None, opt("--precision", "fp32, or bf16 for the trained encoder layers.")] = None,
    student_steps: Annotated[
        int | None, opt("--student-steps", "Training steps on the synthetic set; by default as the bundle says.")
    ] = None,
    validate: Annotated[
        bool, opt("--validate", "Let validation choose the best state of each training on the synthetic set.")
    ] = False,
    mask_seen: Annotated[
        bool | None,
        opt(
            "--mask-seen/--no-mask-seen", "Leave out items that a user already has; by default as the bundle was made."
        ),
    ] = None,
    cases: Annotated[
        str | None,
        opt("--cases", "Interactions to rank: all, or each user's first or last; by default as in the bundle."),
    ] = None,
    out: Annotated[Path | None, opt("--out", "JSON to write; for a full table, by default BUNDLE/eval.json.")] = None,
    force: Force = False,
) -> None:
    """Train fresh models on the synthetic set and compare them on the test split, over all items.

    Rows: the synthetic set (or a coreset's real sequences), with item vectors that start at its item factor, with texts
    alone (synthetic_text), and with vectors that start at texts (without_factor); all the data (full, text, id), the
    teacher, all the data for as long as the set took (equal_compute); random real sequences at the same budget; an
    untrained model, alone and with the teacher's item embeddings (item_factor); models that count (item_knn, knn_tfidf,
    tfidf, ease, recent_popularity, popularity); nearest texts. 95 % intervals and paired differences by bootstrap over
    users and seeds.

    The recommenders have the bundle's settings. The options from --backbone to --precision change them, to try the
    set on other models. Those may need more steps: --student-steps, --validate. Validation ranks as the test does.

    A complete table (all rows, the bundle's settings) is stored in BUNDLE/eval.json, where foster report finds it.

    Example: foster eval, or: foster eval runs/games-foster-b20-1 --seeds 3, or, of three sets that were distilled with
    --seed 0, 1 and 2: foster eval games0 games1 games2 --seeds 1
    """
    from foster_cli.bundle import load
    from foster_cli.commands import shared
    from foster_cli.evaluate.bundle_rows import Evaluation, Other, evaluate_bundles
    from foster_cli.evaluate.references import asked_rows
    from foster_cli.evaluate.rows import DEFAULT, ROWS
    from foster_cli.files import check_writable, may_write, writing

    names = asked_rows(rows, ROWS)
    other = Other(
        backbone, encoder, pooling, train_layers, lora, lora_alpha, width, precision, student_steps, mask_seen, cases,
    )  # fmt: skip
    wanted = Evaluation(names, seeds, shared.numbers("--k", k), other, validate)
    session = asked.session(events=True)
    loaded = [load(path) for path in bundles or [shared.resolve_bundle(None, session.console)]]
    if out is not None:
        for bundle in loaded:
            shared.refuse_own_data(out, bundle)
        may_write(out, force, (".json",))
        check_writable(out)
    found = evaluate_bundles(loaded, shared.bundle_data(loaded[0], data), wanted, session)
    if asked.json:
        shared.print_json(found)
    else:
        show(session.console, found, wanted.ks)
    if out is not None:  # after printing, so that a full disk loses only the file
        with writing(out, force) as tmp:
            tmp.write_text(shared.as_json(found), encoding="utf-8")
    made = loaded[0].made
    own = other.settings(made) == made and student_steps is None and not validate and len(loaded) == 1
    if out is None and own and set(names) >= set(DEFAULT):
        _store(loaded[0].path, shared.as_json(found), session.console)


def _store(bundle: Path, text: str, console: Any) -> None:
    """Write the JSON into the bundle's folder. A failure is only noted, because the table is already printed."""
    from foster_cli.errors import FosterError
    from foster_cli.files import writing
    from foster_cli.report.results import EVALUATION

    try:
        with writing(bundle / EVALUATION) as tmp:
            tmp.write_text(text, encoding="utf-8")
    except FosterError as error:
        console.note(f"the JSON is not stored in the bundle: {error.message}; give --out FILE to have it")
        return
    console.note(f"stored as {bundle / EVALUATION}; next: foster report {bundle}")


def _models(found: dict[str, Any], stage: str) -> str:
    """The backbone and, if it differs from the one distilled with, the text encoder and its trained layers."""
    made, used = ([(e or {}).get(k) for k in _ENCODER] for e in found["encoder"].values())
    encoder = found["encoder"][stage]
    if made == used or encoder is None:
        return str(found["backbone"][stage])
    lora = f", LoRA {encoder['lora']}" if encoder.get("lora") else ""
    return f"{found['backbone'][stage]} on {clean(encoder['name'])} (train layers {encoder['train_layers']}{lora})"


def show(console: Any, found: dict[str, Any], ks: tuple[int, ...]) -> None:
    """Print the table and the paired differences."""
    from foster_cli.evaluate.economics import line
    from foster_cli.evaluate.formats import interval, nothing_learned, ranked_words, shares, shares_words
    from foster_cli.ranking.metrics import shown

    metrics = [*shown(ks), "MRR"]
    lines = []
    for name, row in found["rows"].items():
        cells = [interval(row[m]) for m in metrics[:2]]
        cells += ["-" if row[m] is None else f"{row[m]['mean']:.4f}" for m in metrics[2:]]
        label = f"{name} ({found['method']})" if name == "synthetic" and found["method"] != "foster" else name
        size = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f}"
        costs = [f"{row['coverage']:.1%}", f"{row['train_seconds']:.0f}", size, f"{row['peak_mb']:.0f}"]
        lines.append([label, *cells, *costs])
    title = f"{found['data']['name']}: {ranked_words(found)}"
    if len(found["sets"]) > 1:
        title += f"; {len(found['sets'])} sets, of seeds {', '.join(str(one['seed']) for one in found['sets'])}"
    made, used = (_models(found, stage) for stage in ("distilled", "evaluated"))
    if made != used:
        title += f"; distilled with {made}, evaluated with {used}"
    console.table(title, ["", *metrics, "coverage", "train s", "MB", "peak MiB"], lines)
    pairs = [[name, *[interval(values[m], "+") for m in metrics[:2]]] for name, values in found["paired"].items()]
    if pairs:
        console.table("paired differences, 95 % intervals", ["", *metrics[:2]], pairs)
    if share := shares(found["rows"], metrics[:2]):
        console.result(shares_words(share))
    if said := nothing_learned(found["rows"], metrics[:2]):
        console.result(said)
    if found["economics"] is not None:
        console.result(line(found["economics"]))
