"""The table of `foster compare` and `foster ablate` as text in CSV, Markdown or LaTeX. In: its JSON.

The dataset's name is untrusted text: it is cleaned of control characters and escaped for each format.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foster_cli.console import clean
from foster_cli.evaluate.economics import ratio
from foster_cli.files import writing
from foster_cli.ranking.metrics import shown

_TEX = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{c: "\\" + c for c in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column besides the metrics: its head, the key of its value in a row, and the format of that value."""

    head: str
    key: str
    form: Callable[[Any], str] = str

    def cell(self, row: dict[str, Any]) -> str:
        """The formatted value of `row`; a dash if it is missing."""
        value = row.get(self.key)
        return "-" if value is None else self.form(value)


_COVERAGE = Column("coverage", "coverage", "{:.1%}".format)
_SECONDS, _PEAK = ("select_seconds", "{:.1f}".format), Column("peak MiB", "select_peak_mb", "{:.0f}".format)
_TRAIN, _RATE = Column("train s", "train_seconds", "{:.1f}".format), Column("rate", "rate", "{:g}".format)
#: The columns of `foster compare`, and of `foster ablate`.
COSTS = (
    _COVERAGE,
    Column("select s", *_SECONDS),
    _PEAK,
    _TRAIN,
    Column("MB", "bytes", lambda size: f"{size / 1e6:.2f}"),
    _RATE,
)
ABLATION = (
    Column("valid R@10", "valid", "{:.4f}".format),
    _COVERAGE,
    Column("kept step", "best_step"),
    Column("step s", "seconds_per_outer_step", "{:.2f}".format),
    Column("distil s", *_SECONDS),
    _PEAK,
    _TRAIN,
    _RATE,
)
#: The columns that describe the rows of an ablation, in the words of Table 3 and Figure 3.
AXES = (
    Column("logic", "logic"), Column("items", "items"), Column("layers", "layers"), Column("L_DH", "dh"),
    Column("reset", "reset"),
)  # fmt: skip
Columns = Sequence[Column]
#: The names of the splits in text.
SPLIT_WORDS = {"test": "test", "valid": "validation"}


def metrics(found: dict[str, Any]) -> list[str]:
    """The metrics that the table shows."""
    return shown(found["k"])


def ranked_words(found: dict[str, Any]) -> str:
    """A phrase: which cases were ranked, among which items, by models of which seeds.

    Results from before the protocol was recorded say only `mask_seen`.
    """
    split, seeds = SPLIT_WORDS[found.get("split", "test")], ", ".join(map(str, found["seeds"]))
    ranking = {"cases": "all", "mask_seen": found.get("mask_seen"), **found.get("ranking", {})}
    return f"{found['cases']:,} {split} cases {protocol_words(ranking)}, seeds {seeds}"


def protocol_words(ranking: dict[str, Any]) -> str:
    """`(the last of each user), full ranking, items already seen left out`, from a settled `RankingConfig`'s values."""
    which = "all" if ranking["cases"] == "all" else f"the {ranking['cases']}"
    among = "items already seen left out" if ranking["mask_seen"] else "seen items ranked too"
    return f"({which} of each user), full ranking, {among}"


def title(found: dict[str, Any]) -> str:
    """A line that says which dataset, budget and cases the numbers are of."""
    return f"{clean(found['data']['name'])}: budget {found['budget']}, {ranked_words(found)}"


def interval(value: dict[str, float] | None, sign: str = "") -> str:
    """`0.1234 [0.1200, 0.1300]`; a dash for a metric without a case."""
    if value is None:
        return "-"
    mean = value["mean"] if "mean" in value else value["diff"]
    return f"{mean:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"


def shares(rows: dict[str, Any], names: Sequence[str]) -> dict[str, float | None]:
    """The metrics `names` of the row `synthetic` as parts of those of `full`; None where these are 0 or unknown. Empty
    without the two rows."""
    if not {"synthetic", "full"} <= rows.keys():
        return {}
    found: dict[str, float | None] = {}
    for name in names:
        own, full = (rows[row].get(name) for row in ("synthetic", "full"))
        found[name] = None if own is None or full is None else ratio(own["mean"], full["mean"])
    return found


def shares_words(found: dict[str, float | None]) -> str:
    """`shares` in words, with a dash where there is none."""
    return "synthetic / full: " + ", ".join(f"{m} {'-' if v is None else f'{v:.3f}'}" for m, v in found.items())


def nothing_learned(rows: dict[str, Any], names: Sequence[str]) -> str | None:
    """A line that says in which of the metrics R@k and N@k all the data give nothing, or what an untrained model gives,
    so that a ratio to them says nothing; None if there are none."""
    parts, names = [], [m for m in names if m.startswith(("R@", "N@"))]
    means = {name: {m: (row.get(m) or {}).get("mean") for m in names} for name, row in rows.items()}
    full, untrained = means.get("full", {}), means.get("untrained", {})
    if zero := [m for m in names if full.get(m) == 0]:
        parts.append(f"full finds nothing ({', '.join(zero)} is 0)")
    if same := [m for m in names if full.get(m) and full[m] == untrained.get(m)]:
        parts.append(f"full is equal to untrained in {', '.join(same)}")
    return "; ".join(parts) + ": a ratio to full says nothing there" if parts else None


def table_rows(found: dict[str, Any], columns: Columns = COSTS) -> list[list[str]]:
    """A list of cells per row: name, metrics with 95 % intervals, `columns`."""
    names = metrics(found)
    return [[n, *[interval(r[m]) for m in names], *[c.cell(r) for c in columns]] for n, r in found["rows"].items()]


def legend_rows(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per row of an ablation: its name, AXES, what differs from the default."""
    return [[n, *[c.cell(r) for c in AXES], r["text"]] for n, r in found["rows"].items() if "text" in r]


def paired_rows(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per pair: its name, the differences with 95 % intervals."""
    names = metrics(found)
    return [[pair, *[interval(v[m], "+") for m in names]] for pair, v in found["paired"].items()]


def csv_text(text: str) -> str:
    """`text` as a cell that no spreadsheet reads as a formula."""
    text = clean(text)
    return "'" + text if text.startswith(tuple("=+-@＝＋－＠")) else text


def to_csv(found: dict[str, Any], columns: Columns = COSTS) -> str:
    """A line per row, numbers in full precision; a missing value is empty. `ranked` is the same in all: the cases and
    the protocol. Paired differences are only in the JSON."""
    out = io.StringIO()
    names = metrics(found)
    data = csv_text(found["data"]["name"])
    head, ranking = ["data", "budget", "ranked", "row"], ranked_words(found)
    for m in names:
        head += [m, f"{m}_low", f"{m}_high"]
    keys = [c.key for c in columns]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *keys])
    for name, row in found["rows"].items():
        cells = [(row[m] or {}).get(part) for m in names for part in ("mean", "low", "high")]
        writer.writerow([data, found["budget"], ranking, name, *cells, *[row.get(key, "") for key in keys]])
    return out.getvalue()


def md_escape(text: str) -> str:
    """`text` escaped for Markdown, so that nothing in it is markup, HTML or the end of a cell."""
    text = re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", clean(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_md(found: dict[str, Any], columns: Columns = COSTS) -> str:
    """The table, the description of its rows, and the paired differences in Markdown."""

    def table(head: list[str], rows: list[list[str]]) -> list[str]:
        lines = [["", *head], ["---", *["---:"] * len(head)], *[[md_escape(r[0]), *r[1:]] for r in rows]]
        return ["| " + " | ".join(line) + " |" for line in lines]

    names = metrics(found)
    heads = [c.head for c in columns]
    out = [md_escape(title(found)), "", *table([*names, *heads], table_rows(found, columns)), ""]
    if legend := legend_rows(found):
        out += [
            "Rows:",
            "",
            *table([*[c.head for c in AXES], "what"], [[r[0], *map(md_escape, r[1:])] for r in legend]),
        ]
        out += [""]
    if said := nothing_learned(found["rows"], names):
        out += [md_escape(said), ""]
    out += ["Paired differences, 95 % intervals:", "", *table(names, paired_rows(found))]
    return "\n".join(out) + "\n"


def tex_escape(text: str) -> str:
    """`text` escaped for LaTeX, so that its ten special characters and `<`, `>`, `|` are printed literally."""
    return "".join(_TEX.get(c, c) for c in clean(text))


def to_tex(found: dict[str, Any], columns: Columns = COSTS) -> str:
    """`tabular`s of the table, the description of its rows, the paired differences; plain LaTeX, no package needed."""

    def table(head: list[str], rows: list[list[str]]) -> list[str]:
        body = [" & ".join(map(tex_escape, line)) + r" \\" for line in [["", *head], *rows]]
        columns = "l" + "r" * len(head)
        return [rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:], r"\hline",
                r"\end{tabular}"]  # fmt: skip

    names = metrics(found)
    heads = [c.head for c in columns]
    out = [f"% {clean(title(found))}", *table([*names, *heads], table_rows(found, columns)), ""]
    if legend := legend_rows(found):
        out += ["% rows", *table([*[c.head for c in AXES], "what"], legend), ""]
    out += ["% paired differences", *table(names, paired_rows(found))]
    return "\n".join(out) + "\n"


def write_table(found: dict[str, Any], text: str, out: Path, stem: str, columns: Columns = COSTS) -> None:
    """Write <stem>.json (`text`), .csv, .md and .tex to `out`, each atomically."""
    texts = {"json": text, "csv": to_csv(found, columns), "md": to_md(found, columns), "tex": to_tex(found, columns)}
    for ending, content in texts.items():
        with writing(out / f"{stem}.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
