"""`foster eval`: a bundle in; the table of its models beside honest baselines on the test split out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands.settings import AlphaOption, LoraOption, PoolingOption
from foster_cli.console import clean

#: What tells two text encoders apart in a record: weights, tokenizer and pooling; and what learns.
_ENCODER = ("hash", "train_layers", "lora")
_ROWS = "synthetic,full,random,untrained,popularity,text_similarity"


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="The bundle; the newest in ./runs without it.", show_default=False),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="The data it was distilled from, if it has moved (repeatable)."),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", show_default=False, help="Which rows, by comma; all of them without it.")
    ] = _ROWS,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh models per trained row.")] = 3,
    k: Annotated[str, typer.Option("--k", help="Cut-offs of R@k and N@k.")] = "10,20",
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Train all rows with another: sasrec, gru4rec, bert4rec, narm or hstu."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Train all rows on the texts of another: minilm, tinybert, a folder, org/name."),
    ] = None,
    pooling: PoolingOption = None,
    train_layers: Annotated[
        str | None,
        typer.Option("--train-layers", help="all, a number of top layers, or none; without --lora no LoRA."),
    ] = None,
    lora: LoraOption = None,
    lora_alpha: AlphaOption = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Width of the recommenders, or own: that of the encoder.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, or bf16 for the encoder's layers that learn.")
    ] = None,
    student_steps: Annotated[
        int | None,
        typer.Option("--student-steps", help="Most steps of training on the synthetic set; as the bundle has it."),
    ] = None,
    student_patience: Annotated[
        int | None,
        typer.Option(
            "--student-patience", help="Validations without a better one, after which it ends; as the bundle has it."
        ),
    ] = None,
    mask_seen: Annotated[bool, typer.Option("--mask-seen", help="Leave out what the user already has.")] = False,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, mps or auto.")] = "auto",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse models trained on the full data.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="The JSON; BUNDLE/eval.json without it, for a whole table.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Train fresh models on the synthetic set and compare them on the test split, over all items.

    Rows: the synthetic set (or a coreset's real sequences), all the data, random real sequences at the same
    budget, an untrained model, popularity, nearest texts. 95 % intervals and paired differences by bootstrap
    over users and seeds.

    The recommenders are as the bundle says, or as the options say from --backbone to --precision: so a set is tried
    on other models than it was distilled with. They may need more steps: --student-steps, --student-patience.

    A whole table (all rows, all as in the bundle, no --mask-seen) is kept in BUNDLE/eval.json, where foster
    report finds it.

    Example: foster eval, or: foster eval runs/games-foster-b20-1 --seeds 3
    """
    import json as json_module
    import sys

    from foster_cli.bundle import load
    from foster_cli.commands.common import bundle_data, note_ops, resolve_bundle, spare_data
    from foster_cli.commands.settings import numbers
    from foster_cli.config import ModelConfig, StudentConfig, from_dict
    from foster_cli.console import Console
    from foster_cli.evaluate.compare import ROWS, check_rows
    from foster_cli.evaluate.run import Other, evaluate_bundle
    from foster_cli.runtime import check_writable, pick_device, writing

    console = Console(json_mode=json)
    names = check_rows(tuple(r.strip() for r in rows.split(",") if r.strip()))
    ks = numbers("--k", k)
    other = Other(
        backbone, encoder, pooling, train_layers, lora, lora_alpha, width, precision, student_steps, student_patience
    )
    where = pick_device(device)
    note_ops(console, where)
    loaded = load(resolve_bundle(bundle, console))
    if out is not None:
        spare_data(out, loaded)
        check_writable(out)
    dataset = bundle_data(loaded, data)
    found = evaluate_bundle(loaded, dataset, names, seeds, ks, mask_seen, where, console, cache, other)
    text = json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    if json:
        sys.stdout.write(text + "\n")
    else:
        show(console, found, ks)
    if out is not None:  # after it is shown: a disk that has become full meanwhile costs the file alone
        with writing(out) as tmp:
            tmp.write_text(text + "\n", encoding="utf-8")
    model = from_dict(ModelConfig, loaded.manifest["model"])
    student = from_dict(StudentConfig, loaded.manifest["student"])
    own = other.of(model) == model and other.student(student) == student
    if out is None and own and not mask_seen and set(names) == set(ROWS):
        _keep(loaded.path, text, console)


def _keep(bundle: Path, text: str, console: Any) -> None:
    """Write the JSON into the bundle's folder; where that cannot be written, say so: the table is out already."""
    from foster_cli.errors import FosterError
    from foster_cli.report.results import EVALUATION
    from foster_cli.runtime import writing

    try:
        with writing(bundle / EVALUATION) as tmp:
            tmp.write_text(text + "\n", encoding="utf-8")
    except FosterError as error:
        console.note(f"the JSON is not kept in the bundle: {error.message}; give --out FILE to have it")
        return
    console.note(f"kept as {bundle / EVALUATION}; next: foster report {bundle}")


def _models(found: dict[str, Any], stage: str) -> str:
    """The backbone and, where it is not the one distilled with, the text encoder and what learns in it."""
    made, used = ([(e or {}).get(k) for k in _ENCODER] for e in found["encoder"].values())
    encoder = found["encoder"][stage]
    if made == used or encoder is None:
        return str(found["backbone"][stage])
    lora = f", LoRA {encoder['lora']}" if encoder.get("lora") else ""
    return f"{found['backbone'][stage]} on {clean(encoder['name'])} (train layers {encoder['train_layers']}{lora})"


def show(console: Any, found: dict[str, Any], ks: tuple[int, ...]) -> None:
    """The table and the paired differences, for a person."""
    metrics = [f"{m}@{k}" for k in ks for m in ("R", "N")] + ["MRR"]
    lines = []
    for name, row in found["rows"].items():
        cells = [f"{row[m]['mean']:.4f} [{row[m]['low']:.4f}, {row[m]['high']:.4f}]" for m in metrics[:2]]
        cells += [f"{row[m]['mean']:.4f}" for m in metrics[2:]]
        label = f"{name} ({found['method']})" if name == "synthetic" and found["method"] != "foster" else name
        lines.append([label, *cells, f"{row['coverage']:.1%}", f"{row['train_seconds']:.0f}", f"{row['peak_mb']:.0f}"])
    data = found["data"]["name"]
    title = f"{data}: {found['cases']:,} test cases, all items ranked, seeds {', '.join(map(str, found['seeds']))}"
    made, used = (_models(found, stage) for stage in ("distilled", "evaluated"))
    if made != used:
        title += f"; distilled with {made}, evaluated with {used}"
    console.table(title, ["", *metrics, "coverage", "train s", "peak MiB"], lines)
    pairs = []
    for name, values in found["paired"].items():
        pairs.append(
            [
                name,
                *[f"{values[m]['diff']:+.4f} [{values[m]['low']:+.4f}, {values[m]['high']:+.4f}]" for m in metrics[:2]],
            ]
        )
    if pairs:
        console.table("paired differences, 95 % intervals", ["", *metrics[:2]], pairs)
    if "full" in found["rows"] and "synthetic" in found["rows"]:
        share = {
            m: found["rows"]["synthetic"][m]["mean"] / max(found["rows"]["full"][m]["mean"], 1e-12) for m in metrics[:2]
        }
        console.result("synthetic / full: " + ", ".join(f"{m} {v:.3f}" for m, v in share.items()))
