"""The table as CSV, Markdown, LaTeX and JSON: its numbers read back, hostile names are no markup in it."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from handmade import held_out_of, row_of

from foster_cli.evaluate.compare import pairs
from foster_cli.evaluate.formats import md_escape, metrics, ranked_words, tex_escape, title, to_csv, to_md, to_tex
from foster_cli.evaluate.summary import summarise

HOSTILE = [
    "a_b & 50% $x$ #1 {y} ~^\\",
    "=cmd|'x'!A1",
    "<script>*b*</script> [l](u) `c` | d",
    'x",\n"y',
    "\x1b[31mré\u202e",
]


def _found(name: str, cold: bool = True) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = {n: row_of(rng.integers(1, 30, (2, 6))) for n in ("foster", "kcenter", "full", "text_similarity")}
    test = held_out_of(range(6), targets=[0, 0, 1, 0, 1, 2] if cold else [2] * 6, counts=[3, 0, 900])
    out = summarise(rows, test, (10, 20), [0, 1], 200, pairs(("foster", "kcenter")))
    for n in ("foster", "kcenter", "full", "text_similarity"):
        out["rows"][n]["method"] = n if n in ("foster", "kcenter") else None
    for n in ("foster", "kcenter"):
        out["rows"][n] |= {"select_seconds": 1.25, "select_peak_mb": 300.0, "rate": 3e-4, "bytes": 1_234_567}
    return {"data": {"name": name}, "budget": 3, "k": [10, 20], **out}


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
@pytest.mark.parametrize("cold", [True, False])
def test_csv_reads_back(name: str, cold: bool) -> None:
    found = _found(name, cold)
    lines = list(csv.DictReader(io.StringIO(to_csv(found), newline="")))
    assert [line["row"] for line in lines] == list(found["rows"])
    assert len({line["data"] for line in lines}) == 1 and not re.search(r"[\n\x1b\u202e]", lines[0]["data"])
    assert not lines[0]["data"].startswith(("=", "+", "-", "@"))  # no formula in a spreadsheet
    for line in lines:
        row = found["rows"][line["row"]]
        for metric in metrics(found):
            for key, part in ((metric, "mean"), (f"{metric}_low", "low"), (f"{metric}_high", "high")):
                if metric == "cold R@10" and not cold:
                    assert line[key] == "" and row[metric] is None
                else:
                    assert float(line[key]) == row[metric][part]
        assert line["rate"] == str(row.get("rate", "")) and line["bytes"] == str(row.get("bytes", ""))
        assert line["ranked"] == ranked_words(found)


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
def test_markdown(name: str) -> None:
    lines = to_md(_found(name)).splitlines()
    assert not re.search(r"(?<!\\)[<>`*\[\]|]", lines[0]) and not re.search(r"[\x1b\u202e]", lines[0])
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    head, rule, *body = rows[:6]
    assert [x.strip() for x in head[1:]] == [
        "R@10", "N@10", "R@20", "N@20", "cold R@10", "PSP@10", "coverage", "select s", "peak MiB", "train s", "MB",
        "rate",
    ]  # fmt: skip
    assert all(len(row) == len(head) for row in [rule, *body])
    assert [row[0].strip() for row in body] == ["foster", "kcenter", "full", r"text\_similarity"]
    assert re.fullmatch(r" 0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\] ", body[0][1])
    assert re.fullmatch(r" [01]\.\d{4} \[0\.\d{4}, [01]\.\d{4}\] ", body[0][5])
    assert [row[11].strip() for row in body] == ["1.23", "1.23", "-", "-"]
    without = [re.split(r"(?<!\\)\|", line) for line in to_md(_found(name, cold=False)).splitlines()]
    assert [line[6].strip() for line in without if len(line) > 6] == [
        "cold R@10", "---:", *["-"] * 4, "cold R@10", "---:", *["-"] * 3
    ]  # fmt: skip
    assert [row[0].strip() for row in rows[8:]] == [r"foster\-full", r"kcenter\-full", r"foster\-kcenter"]


@pytest.mark.parametrize("name", ["shop", *HOSTILE])
def test_latex(name: str) -> None:
    text = to_tex(_found(name))
    assert not re.search(r"[\x1b\u202e]", text)
    lines = text.splitlines()
    assert lines[0].startswith("% ") and [line[:1] for line in lines].count("%") == 2
    for begin, end in zip(
        [i for i, x in enumerate(lines) if x.startswith(r"\begin{tabular}")],
        [i for i, x in enumerate(lines) if x == r"\end{tabular}"],
        strict=True,
    ):
        columns = re.fullmatch(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), lines[begin])
        assert columns is not None
        body = [x for x in lines[begin + 1 : end] if x != r"\hline"]
        for line in body:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
            assert not re.search(r"(?<!\\)[%$#_]", line)
    assert r"text\_similarity & " in text


@pytest.mark.parametrize("name", HOSTILE)
def test_escapes(name: str) -> None:
    tex = tex_escape(name)
    assert "\n" not in tex and not re.search(r"(?<!\\)[&%$#_]|[\^~<>|](?!\w)", tex.replace("{}", ""))
    assert tex.count("{") == tex.count("}") or "{" in name
    assert not re.search(r"(?<!\\)[`*_\[\]|]|[<>]", md_escape(name))


@pytest.mark.parametrize("cold", [True, False])
def test_the_json_is_json(cold: bool) -> None:
    json.dumps(_found(HOSTILE[0], cold), allow_nan=False)


@pytest.mark.parametrize(
    ("ranking", "words"),
    [
        ({"ranking": {"mask_seen": True, "cases": "all"}}, "(all of each user), full ranking, items already seen left"),
        ({"ranking": {"mask_seen": False, "cases": "last"}}, "(the last of each user), full ranking, seen items"),
        ({"mask_seen": False}, "(all of each user), full ranking, seen items ranked too, seeds 0, 2"),
        ({"mask_seen": True}, "(all of each user), full ranking, items already seen left out, seeds 0, 2"),
        ({"split": "valid"}, "1,234 validation cases (all of each user), full ranking, seen items ranked too"),
    ],
)  # fmt: skip
def test_the_title_names_the_protocol(ranking: dict[str, Any], words: str) -> None:
    """Results from before it was recorded have `mask_seen` alone, or ranked all items."""
    assert words in ranked_words({"cases": 1234, "seeds": [0, 2], **ranking})
    found = {**_found("shop"), **ranking}
    said = title(found)
    assert said == f"shop: budget 3, {ranked_words(found)}"
    assert to_md(found).splitlines()[0] == md_escape(said) and to_tex(found).splitlines()[0] == f"% {said}"
