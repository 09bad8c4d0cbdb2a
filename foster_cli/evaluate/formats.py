"""The table of `foster compare` in other programs' forms. In: its JSON. Out: CSV, Markdown or LaTeX, as text.

The dataset's name is text from outside: it is cleaned of control characters and escaped for each form.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from foster_cli.console import clean

_TEX = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{c: "\\" + c for c in "&%$#_{}"},
}  # fmt: skip
COSTS = ("coverage", "select s", "peak MiB", "train s", "rate")
FORMS = ("csv", "md", "tex")


def metrics(found: dict[str, Any]) -> list[str]:
    """R@k and N@k for each k."""
    return [f"{m}@{k}" for k in found["k"] for m in ("R", "N")]


def title(found: dict[str, Any]) -> str:
    """One line on what the numbers are of."""
    cases, seeds = f"{found['cases']:,} test cases", ", ".join(map(str, found["seeds"]))
    return f"{clean(found['data']['name'])}: budget {found['budget']}, {cases}, all items ranked, seeds {seeds}"


def interval(value: dict[str, float], sign: str = "") -> str:
    """`0.1234 [0.1200, 0.1300]`."""
    mean = value["mean"] if "mean" in value else value["diff"]
    return f"{mean:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"


def cost_cells(row: dict[str, Any]) -> list[str]:
    """The cells under COSTS; a dash where a row has no such thing."""
    method = row["method"] is not None
    return [
        f"{row['coverage']:.1%}",
        f"{row['select_seconds']:.1f}" if method else "-",
        f"{row['select_peak_mb']:.0f}" if method else "-",
        f"{row['train_seconds']:.1f}",
        f"{row['rate']:g}" if "rate" in row else "-",
    ]


def table_rows(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per row: name, metrics with 95 % intervals, costs."""
    names = metrics(found)
    return [[n, *[interval(r[m]) for m in names], *cost_cells(r)] for n, r in found["rows"].items()]


def paired_rows(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per pair: its name, the differences with 95 % intervals."""
    names = metrics(found)
    return [[pair, *[interval(v[m], "+") for m in names]] for pair, v in found["paired"].items()]


def to_csv(found: dict[str, Any]) -> str:
    """A line per row, numbers in full; empty where a row has no such thing. The differences stand in the JSON."""
    out = io.StringIO()
    names = metrics(found)
    data = clean(found["data"]["name"])
    if data.startswith(tuple("=+-@＝＋－＠")):  # a spreadsheet would read a formula
        data = "'" + data
    head = ["data", "budget", "row"]
    for m in names:
        head += [m, f"{m}_low", f"{m}_high"]
    keys = ("coverage", "select_seconds", "select_peak_mb", "train_seconds", "rate")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *keys])
    for name, row in found["rows"].items():
        cells = [row[m][part] for m in names for part in ("mean", "low", "high")]
        writer.writerow([data, found["budget"], name, *cells, *[row.get(key, "") for key in keys]])
    return out.getvalue()


def md_escape(text: str) -> str:
    """`text` as Markdown prints it: nothing in it is markup, HTML or the end of a cell."""
    text = re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", clean(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_md(found: dict[str, Any]) -> str:
    """The table and the paired differences in Markdown."""

    def table(head: list[str], rows: list[list[str]]) -> list[str]:
        lines = [["", *head], ["---", *["---:"] * len(head)], *[[md_escape(r[0]), *r[1:]] for r in rows]]
        return ["| " + " | ".join(line) + " |" for line in lines]

    names = metrics(found)
    out = [md_escape(title(found)), "", *table([*names, *COSTS], table_rows(found)), ""]
    out += ["Paired differences, 95 % intervals:", "", *table(names, paired_rows(found))]
    return "\n".join(out) + "\n"


def tex_escape(text: str) -> str:
    """`text` as LaTeX prints it: none of its ten special characters, nor `<`, `>`, `|`, is read as a command."""
    return "".join(_TEX.get(c, c) for c in clean(text))


def to_tex(found: dict[str, Any]) -> str:
    """Two `tabular`s, the table and the paired differences; plain LaTeX, no package needed."""

    def table(head: list[str], rows: list[list[str]]) -> list[str]:
        body = [" & ".join(map(tex_escape, line)) + r" \\" for line in [["", *head], *rows]]
        columns = "l" + "r" * len(head)
        return [rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:], r"\hline",
                r"\end{tabular}"]  # fmt: skip

    names = metrics(found)
    out = [f"% {clean(title(found))}", *table([*names, *COSTS], table_rows(found)), ""]
    out += ["% paired differences", *table(names, paired_rows(found))]
    return "\n".join(out) + "\n"
