"""Collects a bundle, its evaluation and its data into a `Report`.

In: a loaded `Bundle`; the JSON of `foster eval` or None; the `Dataset` or the reason why it is missing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from foster_cli.baselines import METHODS
from foster_cli.bundle import FILES, Bundle
from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.errors import FosterError
from foster_cli.report.choices import Facts, chosen, ranking
from foster_cli.report.content import Report
from foster_cli.report.curves import curves
from foster_cli.report.items import item_map, popularity, read_sequences
from foster_cli.report.results import results
from foster_cli.settings import BOME_ONLY, DistillConfig


def gather(bundle: Bundle, evaluation: dict[str, Any] | None, data: Dataset | str) -> Report:
    """Everything that the report of `bundle` shows. `data`: the dataset it was made from, or why it is missing.

    Raises FosterError for a bundle.json with other content than foster writes.
    """
    try:
        return _gather(bundle, evaluation, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FosterError(
            f"{bundle.path}: its bundle.json holds something else than foster writes ({type(error).__name__}: {error})",
            "distill again",
        ) from error


def _gather(bundle: Bundle, evaluation: dict[str, Any] | None, data: Dataset | str) -> Report:
    m, real = bundle.manifest, bundle.windows is not None
    sequences, mass = read_sequences(bundle)
    train, there = None, data if isinstance(data, Dataset) else None
    if there is not None:
        rows = there.interactions
        train = rows.item[rows.split == SPLITS.index("train")]
    table = None if evaluation is None else results(evaluation, real, len(sequences))
    charts = curves(bundle.path, m)
    statistics = m["data"].get("statistics", {})
    kind = "real sequences, chosen by " + m["method"] if real else "synthetic sequences"
    lead = f"{len(sequences)} {kind}"
    if "interactions" in statistics:
        lead += f", in the place of {statistics['interactions']:,} interactions of {statistics['users']:,} users"
    return Report(
        name=str(m["data"]["name"]), path=str(bundle.path), method=str(m["method"]), real=real,
        own=bool(sequences[0].goals), lead=lead + ".", tiles=_tiles(bundle, table),
        facts=_facts(bundle, there), settings=_settings(m), results=table,
        missing_results=f"foster eval {bundle.path}" if table is None else "",
        curves=charts,
        missing_curves="" if charts else "Real sequences were chosen, nothing was learned: there are no curves."
        if real else "No outer step was taken: there are no curves.",
        popularity=popularity(mass, train, real), missing_real=data if isinstance(data, str) else "",
        map=item_map(bundle.V, sequences), sequences=sequences, titles=bundle.titles, ids=bundle.item_ids,
    )  # fmt: skip


def _tiles(bundle: Bundle, table: Any) -> list[tuple[str, str, str]]:
    """A few numbers for the head of the page: (value, label, detail)."""
    m = bundle.manifest
    found = []
    if table is not None and table.compared:
        share = "-" if table.share is None else f"{table.share:.3f}"
        found.append((share, f"of full data's {table.metrics[0]}", "on the test split"))
    metrics = m.get("metrics", {})
    if "valid_R@10" in metrics:
        full = metrics.get("full_valid_R@10")
        detail = "fresh models" if full is None else f"full data {full:.4f}"
        found.append((f"{metrics['valid_R@10']:.4f}", "validation R@10", detail))
    n, width = bundle.V.shape
    found.append((f"{n:,}", "items", f"{width} numbers each"))
    if bundle.windows is None:
        numbers = sum(t.numel() for t in bundle.factors.values())
        size = (bundle.path / FILES[1]).stat().st_size
        found.append((f"{numbers:,}", "numbers in U, T, G", f"{size / 1e6:.2f} MB"))
    return found


def _amount(value: Any) -> str:
    """Format a setting or a statistic for a person."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_amount, value)) or "–"
    return str(value)


def _facts(bundle: Bundle, data: Dataset | None) -> list[tuple[str, Facts]]:
    """The facts about the real data, the ranking, the choices on validation, the set, the recommender, the machine."""
    m = bundle.manifest
    d, model, metrics = m["distill"], m["model"], m.get("metrics", {})
    encoder = m.get("encoder")
    set_facts: Facts = [("method", m["method"])]
    if bundle.windows is None:
        shape = " × ".join(str(list(bundle.factors[name].shape)) for name in ("U", "T", "G"))
        own = "a distribution of its own" if bundle.own_goals else "the next position"
        set_facts += [
            ("sequences × positions", f"{d['budget']} × {d['length']}"), ("factors U, T, G", shape),
            ("a position predicts", own), ("users are mixed", _amount(bool(d.get("mix", False)))),
            ("start", _amount(metrics.get("start"))), ("best outer step", _amount(metrics.get("best_step"))),
        ]  # fmt: skip
    else:
        set_facts += [
            ("sequences", str(len(bundle.windows))),
            ("positions, at most", str(bundle.windows.items.shape[1])),
        ]
    for key, label in (
        ("seconds_select", "seconds to choose"), ("seconds_total", "seconds in all"),
        ("seconds_per_outer_step", "seconds per outer step"), ("peak_mb", "peak memory, MiB"), ("stopped", "stopped"),
    ):  # fmt: skip
        if metrics.get(key) is not None:
            set_facts.append((label, _amount(metrics[key])))
    recommender: Facts = []
    if encoder is not None:
        recommender = [
            ("text encoder", str(encoder["name"])), ("revision", str(encoder["revision"])),
            ("sha256", str(encoder["hash"])), ("layers that learn", str(encoder["train_layers"])),
        ]  # fmt: skip
    recommender += [
        ("backbone", str(model.get("backbone", "sasrec"))), ("items known by", str(model.get("items", "text"))),
        ("width of the item factor", str(bundle.V.shape[1])), ("seed", str(m["seed"])),
    ]  # fmt: skip
    machine: Facts = [(key, _amount(value)) for key, value in m.get("machine", {}).items()]
    groups = [
        ("Real data", _data(m["data"])), ("Ranking, in validation and test", ranking(m, data)),
        ("Synthetic set" if bundle.windows is None else "Chosen set", set_facts), ("Recommender", recommender),
        ("Chosen on validation", chosen(m)), ("Machine", machine),
    ]  # fmt: skip
    return [group for group in groups if group[1]]


def _data(data: dict[str, Any]) -> Facts:
    s = data.get("statistics", {})
    found: Facts = [("name", str(data["name"])), ("files", _amount(data.get("path", [])))]
    labels = {
        "interactions": "interactions", "users": "users", "items": "items", "average_length": "interactions per user",
        "k_core": "k-core", "split": "split by", "duplicates_removed": "duplicates removed", "tie_rate": "tied times",
        "share_without_text": "items without text",
    }  # fmt: skip
    for key, label in labels.items():
        if key in s:
            share = key in ("tie_rate", "share_without_text")
            found.append((label, f"{s[key]:.1%}" if share else _amount(s[key])))
    for split, label in (("train", "training"), ("valid", "validation"), ("test", "test")):
        if split in s.get("splits", {}):
            found.append((f"{label} interactions", _amount(s["splits"][split]["interactions"])))
    if "text_tokens" in s:
        found.append(("tokens per text", _amount(s["text_tokens"]["mean"])))
    return [*found, ("hash", str(data["hash"]))]


def _settings(m: dict[str, Any]) -> list[tuple[str, Facts]]:
    """The settings in bundle.json; of the distillation, those that the method read or set."""
    method, plain = METHODS.get(m["method"]), dataclasses.asdict(DistillConfig())
    reads = set(plain if method is None else method.reads)
    if m["distill"].get("outer") == "follow":
        reads -= {*BOME_ONLY}
    used = {k: v for k, v in m["distill"].items() if k in reads or v != plain.get(k)}
    m = {**m, "distill": used}
    named = (("distill", "Distillation"), ("student", "Training on the result"), ("train", "Training on real data"),
             ("model", "Recommender"))  # fmt: skip
    return [(title, [(key, _amount(value)) for key, value in m[part].items()]) for part, title in named if part in m]
