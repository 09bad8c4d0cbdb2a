"""The ranking of configurations as a table, as sentences and as CSV. In: its JSON. Names are untrusted text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from foster_cli.console import clean
from foster_cli.evaluate.formats import csv_text, interval, ranked_words
from foster_cli.evaluate.rank.figures import METRICS
from foster_cli.files import writing

HEADS = ("", "rank", *METRICS, "best", "train s")
FULL_HEADS = ("full rank", "full R@10", "full s")
#: The share of the resamples that the named candidates for the best place hold together.
SURE = 0.95


def title(found: dict[str, Any]) -> str:
    """A line that says what was ranked, by which models."""
    words = ranked_words(found)
    if found["cases"] < found["all_cases"]:
        words = words.replace(" ", f" (a sample of {found['all_cases']:,}) ", 1)
    return f"{clean(found['data']['name'])}: trained on {found['budget']} sequences ({found['method']}); {words}"


def heads(found: dict[str, Any]) -> tuple[str, ...]:
    """The heads of the columns."""
    return HEADS if found["full"] is None else (*HEADS, *FULL_HEADS)


def cells(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per configuration, best first."""
    out = []
    for name, row in found["rows"].items():
        line = [name, str(row["rank"]), *[interval(row[m]) for m in METRICS], f"{row['best']:.0%}"]
        line.append(f"{row['train_seconds']:.1f}")
        if found["full"] is not None:
            full = row["full"]
            line += [str(full["rank"]), interval(full["R@10"]), f"{full['train_seconds']:.0f}"]
        out.append(line)
    return out


def candidates(found: dict[str, Any]) -> list[str]:
    """The fewest configurations that hold `SURE` of the resamples, the likeliest first."""
    names, total = [], 0.0
    for name, row in sorted(found["rows"].items(), key=lambda item: -item[1]["best"]):
        names.append(name)
        total += row["best"]
        if total >= SURE - 1e-9:
            break
    return names


def sentences(found: dict[str, Any]) -> list[str]:
    """What the table says: the candidates for the best place and, with all the data, how far both rankings agree."""
    rows, close = found["rows"], candidates(found)
    first = next(iter(rows))
    out = [f"first: {clean(first)}, the best in {rows[first]['best']:.0%} of {found['bootstrap_draws']:,} resamples"]
    if len(close) > 1:
        out.append(f"the best of all is one of these in {SURE:.0%} of them: {'; '.join(map(clean, close))}")
    return out if found["full"] is None else [*out, *_compared(found, first)]


def _compared(found: dict[str, Any], first: str) -> list[str]:
    """How the ranking on all the data compares; `first`: the first configuration on the set."""
    full, out = found["full"], []
    tau, loss, seconds, best = full["tau"], full["loss"], full["seconds"], full["best"]
    if tau is None:
        out.append("no tau: in one of the two rankings all configurations are equal")
    else:
        shown = f"{tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]"
        out.append(f"Kendall's tau with the ranking on all the data: {shown}")
    lost = f"{loss['diff']:+.4f} [{loss['low']:+.4f}, {loss['high']:+.4f}]"
    above = " too" if best == first else f", and R@10 is higher by {lost} than with {clean(first)}"
    out.append(f"on all the data {clean(best)} is the best{above}")
    spent = f"{seconds['set']:.0f} s on the set, {seconds['full']:.0f} s on all the data"
    made = f"making the set took {found['make_seconds']:.0f} s"
    times = "" if seconds["ratio"] is None else f" ({seconds['ratio']:.1f} times as much)"
    return [*out, f"trainings: {spent}{times}; {made}"]


def to_csv(found: dict[str, Any]) -> str:
    """A line per configuration, best first: numbers in full precision; the settings as JSON."""
    metrics = [f"{m}{part}" for m in METRICS for part in ("", "_low", "_high")]
    parts = [*metrics, "train_seconds"]
    full = found["full"] is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["data", "budget", "ranked", "name", "rank", "best", *parts,
                     *[f"full_{key}" for key in ("rank", *parts) if full], "settings"])  # fmt: skip
    shared = [csv_text(found["data"]["name"]), found["budget"], ranked_words(found)]
    for name, row in found["rows"].items():
        beside = [row["full"]["rank"], *_numbers(row["full"])] if full else []
        settings = json.dumps(row["settings"], ensure_ascii=False)
        writer.writerow([*shared, csv_text(name), row["rank"], row["best"], *_numbers(row), *beside, settings])
    return out.getvalue()


def _numbers(row: dict[str, Any]) -> list[float]:
    return [*[row[m][part] for m in METRICS for part in ("mean", "low", "high")], row["train_seconds"]]


def write(found: dict[str, Any], text: str, out: Path) -> None:
    """Write rank.json (`text`) and rank.csv to `out`, each atomically."""
    for ending, content in {"json": text, "csv": to_csv(found)}.items():
        with writing(out / f"rank.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
