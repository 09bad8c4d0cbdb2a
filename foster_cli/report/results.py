"""Makes the JSON of `foster eval` into a table, after checking that it belongs to this bundle.

In: a file, or the bundle's own eval.json. Out: `Results`. Numbers are checked before anything is drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foster_cli.bundle import Bundle
from foster_cli.errors import FosterError
from foster_cli.evaluate.economics import line
from foster_cli.evaluate.formats import nothing_learned, ranked_words, shares
from foster_cli.report.choices import cold_words
from foster_cli.report.content import Results

#: The file in a bundle in which `foster eval` stores its evaluation.
EVALUATION = "eval.json"
#: Every metric, time and memory is below it.
LARGEST = 1e15
NAMES = {
    "synthetic": "synthetic", "synthetic_text": "synthetic, texts only", "without_factor": "synthetic, without V",
    "full": "full data",
    "text": "full data, texts only", "id": "full data, ids only",
    "teacher": "teacher", "equal_compute": "full data, equal compute", "random": "random real",
    "untrained": "untrained", "item_factor": "item factor alone", "item_knn": "item kNN",
    "knn_tfidf": "item kNN and titles", "tfidf": "words in common", "ease": "EASE",
    "recent_popularity": "recent popularity", "popularity": "popularity", "text_similarity": "text similarity",
}  # fmt: skip


def read_evaluation(bundle: Bundle, path: Path | None) -> dict[str, Any] | None:
    """The evaluation in `path`, or in the bundle; None if there is none. Raises FosterError for another bundle's."""
    source = path if path is not None else bundle.path / EVALUATION
    if path is None and not source.is_file():
        return None
    again = f"make it with `foster eval {bundle.path} --out {source}`"
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FosterError(f"{source}: {error.strerror or error}", again) from error
    except ValueError as error:
        raise FosterError(f"{source}: no JSON ({error})", again) from error
    try:
        _check(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FosterError(f"{source}: not what foster eval writes ({type(error).__name__}: {error})", again) from error
    made, sections = bundle.manifest, bundle.made.sections()
    same = found["data"]["hash"] == made["data"]["hash"] and found["method"] == made["method"]
    parts = ("train", "distill", "student")
    if not same or any(found["settings"][part] not in (made[part], sections[part]) for part in parts):
        raise FosterError(f"{source}: the evaluation of another bundle than {bundle.path}", again)
    return dict(found)


def _check(found: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError if a value to show is missing or is not a finite number."""
    for row in found["rows"].values():
        values = [row[m][k] for m in metrics(found) for k in ("mean", "low", "high")]
        values += [row["coverage"], row["train_seconds"], row["peak_mb"]]
        _numbers(values)
    for pair in found["paired"].values():
        _numbers([pair[m][k] for m in metrics(found) for k in ("diff", "low", "high")])
    _numbers([found["cases"]])
    _numbers([size for row in found["rows"].values() if (size := row.get("bytes")) is not None])
    if "cold" in found:
        _numbers([found["cold"]["cases"], found["cold"]["share"]])
    costs = found.get("economics")
    if costs is not None:
        _numbers([costs[name] for name in ("full", "own", "make", "bytes")])
        _numbers([costs[name] for name in ("pays_after", "data_bytes") if costs[name] is not None])
    there = (found["data"]["hash"], found["method"], found["backbone"]["evaluated"], ranked_words(found))
    if not found["rows"] or not list(found["seeds"]) or not found["settings"].keys() or not all(map(bool, there[:2])):
        raise ValueError("rows, seeds, settings or names are empty")


def _numbers(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
            raise ValueError(f"{value!r} is no number that a table holds")


def metrics(found: dict[str, Any]) -> list[str]:
    """The metrics of the first row, in its order: R@k, N@k, …, MRR, and of cold R@k and PSP@k the first."""
    first: dict[str, Any] = next(iter(found["rows"].values()), {})
    names = [name for name, value in first.items() if isinstance(value, dict) and "mean" in value]
    more = [name for kind in ("cold R@", "PSP@") for name in [n for n in names if n.startswith(kind)][1:]]
    return [name for name in names if name not in more]


def results(found: dict[str, Any], real: bool, budget: int) -> Results:
    """The table of an evaluation. `real`: the bundle is a coreset."""
    names = metrics(found)
    label = {**NAMES, "random": f"{budget} random real", "synthetic": f"{budget} {'chosen' if real else 'synthetic'}"}
    rows = []
    for name, row in found["rows"].items():
        cells = {
            "coverage": f"{row['coverage']:.1%}",
            "train s": f"{row['train_seconds']:,.0f}",
            "MB": "-" if row.get("bytes") is None else f"{row['bytes'] / 1e6:,.2f}",
            "peak MiB": f"{row['peak_mb']:,.0f}",
        }
        rows.append((label.get(name, name), {m: row[m] for m in names}, cells))
    paired = []
    for name, pair in found["paired"].items():
        a, _, b = name.partition("-")
        paired.append((f"{label.get(a, a)} − {label.get(b, b)}", {m: pair[m] for m in names}))
    notes = []
    made, used = found["backbone"].get("distilled"), found["backbone"]["evaluated"]
    if made != used:
        notes.append(f"Distilled with {made}, evaluated with {used}.")
    if "cold" in found:
        notes.append(f"Of the cases, {cold_words(found['cold']['cases'], found['cold']['share'])}.")
    if found.get("economics") is not None:
        said = line(found["economics"])
        notes.append(f"{said[0].upper()}{said[1:]}.")
    if useless := nothing_learned(found["rows"], names):
        notes.append(f"{useless[0].upper()}{useless[1:]}.")
    share = shares(found["rows"], names[:1])
    return Results(names, rows, paired, ranked_words(found), notes, share.get(names[0]), bool(share))
