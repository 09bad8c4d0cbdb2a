"""Cells become plain text: without markup, literals and what nobody sees; templates only name columns."""

from __future__ import annotations

import html
import json
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
from faults import said
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.texts import clean_text, column_texts, fields_of, is_per_row, template

_MARKUP = ["<", ">", "&", "amp;", "lt;", "&lt;", "&#60;", "<b>", "</b>", "br />", "<br", "script>", "<!--", "-->"]
_OTHER = ["[", "]", "'", '"', "{", "}", ",", ":", "|", "None", "nan", r"\N", "\\", "a", " ", "\n", "\u202e", "e\u0301"]
_PARTS = st.sampled_from([*_MARKUP, *_OTHER, "\x00", "🙂"])
_SCRAPS = st.text(max_size=30) | st.lists(_PARTS, max_size=30).map("".join)


@given(_SCRAPS, st.booleans(), st.booleans())
def test_cleaning_twice_changes_nothing_and_leaves_one_visible_line(text: str, labels: bool, title: bool) -> None:
    cleaned = clean_text(text, labels, title)
    assert clean_text(cleaned, labels, title) == cleaned
    assert cleaned == " ".join(cleaned.split()) == unicodedata.normalize("NFC", cleaned)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) == "RLO" for c in cleaned)
    assert html.unescape(cleaned) == cleaned
    assert "<br>" not in cleaned and "<b>" not in cleaned


def _per_row(column: pd.Series, item: np.ndarray, when: np.ndarray) -> bool:
    """`is_per_row` of rows, which are joined by item and text."""
    found: dict[tuple[int, str | None], list[int]] = {}
    for owner, text, moment in zip(item.tolist(), column.tolist(), when.tolist(), strict=True):
        found.setdefault((owner, None if pd.isna(text) else text), []).append(moment)
    texts = pd.Series([text for _, text in found], name=column.name, dtype="string[pyarrow]")
    numbers = [[owner, min(m), max(m), len(m)] for (owner, _), m in found.items()]
    return is_per_row(texts, *np.array(numbers, dtype=np.int64).T)


@given(st.text(st.characters(whitelist_categories=("Lu", "Ll", "Nd", "Zs")), max_size=30))
def test_plain_text_is_normalised_only(text: str) -> None:
    expected = " ".join(unicodedata.normalize("NFC", text).split())
    if expected.lower() not in ("nan", "null", "none", "nat"):
        assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I liked it.<br /><BR>Would <b class='x'>buy</b>", "I liked it. Would buy"),
        ("H<sub>2</sub>O</p><p>next", "H2O next"),
        ("&lt;b&gt;bold&lt;/b&gt; &amp;amp;lt;i&amp;amp;gt;", "bold"),
        ("<script>alert('x')</script>a<style>b{}</style><!-- <b>c -->d", "a d"),
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 you", "I <3 you"),
        ("<Untitled>", "<Untitled>"),
        ("<a cappella> songs", "<a cappella> songs"),
        ("<input disabled>x<td nowrap>y", "x y"),
        ("AT&T &copy; caf&eacute;", "AT&T © café"),
        ("a\u202eb\u200e\x00\x1bc\u200bd\ufeff", "abcd"),
        ("👩\u200d💻 \u0645\u06cc\u200c\u062e", "👩\u200d💻 \u0645\u06cc\u200c\u062e"),
        ("a\u2028b\x85c\td", "a b c d"),
    ],
)
def test_markup_and_what_nobody_sees(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "text", [r"\N", "NULL", " null ", "None", "nan", "NaN", "N/A", "[]", "['']", '[""]', "{}", "-"]
)
def test_missing_values_are_empty(text: str) -> None:
    assert clean_text(text) == clean_text(text, labels=True) == ""
    stays = text in ("None", "N/A", "-")
    assert clean_text(text, title=True) == (text if stays else "")
    assert clean_text(f"{text} x", title=True) != ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['A', 'B']", "A, B"),
        ('["A","B"]', "A, B"),
        ("[['Sports', 'Outdoors'], ['Sports', 'X']]", "Sports, Outdoors, X"),
        ("['A' 'B'\n 'C' ... 'D']", "A, B, C, D"),
        ("[['A' 'B']\n ['C']]", "A, B, C"),
        ("{'Brand': 'X', 'Size': None, 'Colours': ['red', 'blue']}", "Brand: X, Colours: red, blue"),
        ("{'a': {'b': 'c'}, 'd': 'e'}", "a: b: c, d: e"),
        ("[{'name': 'to-read', 'count': 3}]", "name: to-read, count: 3"),
        ("[u'A', ('B', 'C'), None, nan, '', 'None']", "A, B, C"),
        (r"['it\'s', \"q\", 'tab\there', '\u00e9']".replace('\\"', '"'), "it's, q, tab here, é"),
        ('["\\ud83d\\ude00", "a\\/b"]', "😀, a/b"),
        ("['AT&amp;T', '<b>x</b>', 'a|b']", "AT&T, x, a|b"),
        ("[1, 2.5]", "1, 2.5"),
        ("[1 2]", "1, 2"),
    ],
)
def test_literals(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("[REC]", "['Tis the Season]", "[1984-2000]", "{a}", "[a, b]", "['a' or 'b']", "[__import__('os')]"),
        *("['a'] ['b']", "['a', 'b'", "[,]", "{'a': 'b': 'c'}", "[('a']", "['a'+'b']", "[1, 2)]", "{:}", "['a'x]"),
    ],
)
def test_what_is_no_literal_stays(text: str) -> None:
    assert clean_text(text) == text


def test_a_title_of_numbers_in_brackets_stays() -> None:
    assert clean_text("[1984]", title=True) == "[1984]"
    assert clean_text("['1984']", title=True) == "1984"


_WORDS = st.text("abcé \"'\\,:/", min_size=1, max_size=6).map(lambda w: f"q{w}".strip())
_NESTED = st.recursive(_WORDS, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=8)


def _flat(value: object) -> list[str]:
    return [" ".join(str(value).split())] if not isinstance(value, list) else [leaf for v in value for leaf in _flat(v)]


@given(st.lists(_NESTED, min_size=1, max_size=4))
def test_lists_as_python_and_json_write_them(values: list[object]) -> None:
    expected = ", ".join(dict.fromkeys(_flat(values)))
    assert clean_text(repr(values)) == expected
    assert clean_text(json.dumps(values)) == expected
    flat = _flat(values)
    assert clean_text(str(np.array(flat, dtype=object))) == ", ".join(dict.fromkeys(flat))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000 + "]" * 300_000,
        "{'a':" * 100_000 + "1" + "}" * 100_000,
        "[" + "-" * 500_000 + "1]",
        "[" + "'a'," * 200_000 + "]",
        "['" + "\\'" * 500_000 + "]",
        "a" + "\u0301\u0327" * 400_000,
        "&" + "amp;" * 200_000,
        "<script>" * 100_000,
        "<!--" * 200_000,
        '<b "' * 200_000,
        "<" * 200_000 + "b>" * 200_000,
        "x" * 1_000_000,
    ],
    ids=lambda text: text[:8],
)
def test_large_and_deep_cells_take_little_time(text: str) -> None:
    start = time.process_time()
    cleaned = clean_text(text, labels=True)
    assert time.process_time() - start < 20
    assert clean_text(cleaned, labels=True) == cleaned


def _column(name: str, values: list[str | None]) -> list[str]:
    rows = np.arange(len(values))
    return column_texts(pd.Series(values, name=name, dtype="string[pyarrow]"), rows, rows, len(values))


def test_none_is_a_title_of_one_item_only() -> None:
    assert _column("title", ["None", "A", "NULL", "nan", None]) == ["None", "A", "", "", ""]
    assert _column("title", ["None", "A", "None"]) == ["", "A", ""]
    assert _column("genres", ["None", "A|B", "['C', 'D']"]) == ["", "A, B", "C, D"]
    assert _column("title", ["A|B", "-", "N/A"]) == ["A|B", "-", "N/A"]


def test_texts_of_rows_and_texts_of_items() -> None:
    item = np.repeat(np.arange(20), 5)
    reviews = pd.Series([f"I like it {i % 97}" for i in range(100)], name="text")
    titles = pd.Series([f"Title {i}" for i in item], name="title")
    some = titles.where((np.arange(100) % 5 > 0) | (item % 3 > 0), titles + " (new)")  # of a third of the items
    when = np.arange(100)
    assert _per_row(reviews, item, when)
    assert not _per_row(titles, item, when) and not _per_row(some, item, when)
    assert not _per_row(reviews, np.arange(100), when) and not _per_row(reviews, np.full(100, -1), when)
    assert _per_row(reviews, np.repeat(np.arange(50), 2), when)
    assert not _per_row(pd.Series([None, ""] * 50, name="text", dtype="string[pyarrow]"), item, when)


@pytest.mark.parametrize(
    ("form", "a", "b", "c", "expected"),
    [
        ("{a}. {b}", "A", "B", "C", "A. B"),
        ("{a}. {b}", "A", "", "", "A"),
        ("{a}. {b}", "", "B", "", "B"),
        ("{a}. {b}", "", "", "", ""),
        ("{a}. {b}.", "A", "", "", "A."),
        ("{a}. {b}. {c}", "A", "", "C", "A. C"),
        ("{a}, {b}, {c}", "A", "", "", "A"),
        ("{a} ({b}). {c}", "A", "", "C", "A. C"),
        ("{a} ({b}, {c})", "A", "", "C", "A (C)"),
        ("{a} ({b}, {c})", "A", "B", "", "A (B)"),
        ('{a} "{b}" {c}', "A", "", "C", "A C"),
        ("{a} - {b} | {c}", "A", "", "C", "A | C"),
        ("{a}. Genres: {b}. By {c}", "A", "", "C", "A. By C"),
        ("{a}. Genres: {b}. By {c}", "A", "B", "", "A. Genres: B"),
        ("Title: {a}. Genres: {b}", "", "B", "", "Genres: B"),
        ("{a} by {b}", "A", "", "", "A"),
        ("{{{a}}} {{x}}", "A", "", "", "{A} {x}"),
        ("{a}{a}", "A", "", "", "AA"),
        ("{ a }: {b}", "{b}", "B", "", "{b}: B"),
    ],
)
def test_templates(form: str, a: str, b: str, c: str, expected: str) -> None:
    assert template(form, {"a": [a, "x"], "b": [b, "y"], "c": [c, "z"]})[0] == expected


class _Stripped(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return self[key.strip()]


@given(st.text("{}ab.[!: x_", max_size=20))
def test_a_template_names_columns_or_is_refused(form: str) -> None:
    columns = {"a": ["1"], "b": ["2"]}
    try:
        texts = template(form, columns)
    except Exception:  # noqa: BLE001 - `said` asserts that it is a FosterError
        said(template, form, columns)
    else:
        assert texts == [" ".join(form.format_map(_Stripped(a="1", b="2")).split())]
        assert set(fields_of(form, list(columns))) <= {"a", "b"}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("{tilte}", ["no column tilte", "did you mean {title}"]),
        ("{qqq}", ["no column qqq", "the columns are title, a"]),
        ("{title.upper}", ["more than the name of a column", "write {title}"]),
        ("{title[0]}", ["{title[0]} is more than"]),
        ("{title!r}", ["{title!r} is more than"]),
        ("{title:10}", ["{title:10} is more than"]),
        ("{title:9999999999}", ["is more than"]),
        ("{title.__class__.__init__.__globals__}", ["is more than"]),
        ("{}", ["no column {}"]),
        ("{0}", ["no column 0"]),
        ("{title", ["a single {"]),
        ("title}", ["a single }"]),
        ("{a{title}}", ["a single {"]),
        ("title", ["names no column"]),
        ("", ["names no column"]),
        ("{\x1b[31m}", ["no column"]),
    ],
)
def test_hostile_and_wrong_templates(form: str, words: list[str]) -> None:
    for call in (lambda: template(form, {"title": ["x"], "a": ["y"]}), lambda: fields_of(form, ["title", "a"])):
        wrong = said(call)
        assert all(word in wrong for word in words) and "\x1b" not in wrong


def test_names_with_dots_blanks_and_colons() -> None:
    columns = {"item.title": ["A"], "year made": ["B"], "genres:token_seq": ["C"]}
    form = "{item.title} {year made} {genres:token_seq}"
    assert template(form, columns) == ["A B C"] and fields_of(form, list(columns)) == tuple(columns)


def test_a_new_name_for_every_item_is_no_review() -> None:
    item, when = np.tile(np.arange(5), 20), np.arange(100)
    renamed = pd.Series([f"Old {i}" if t < 60 else f"New {i}" for i, t in zip(item, when, strict=True)], name="title")
    assert not _per_row(renamed, item, when)
    assert _per_row(renamed, item, np.random.default_rng(0).permutation(100))
    headlines = pd.Series(["Great!" if t * t % 3 else "Meh" for t in when], name="title")
    assert _per_row(headlines, item, when)
