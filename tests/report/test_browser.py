"""The page in a real browser: nothing is loaded, nothing runs that is not its own, it reads well, it can be used.

Needs Debian's chromium and chromium-driver. Where they are missing the tests are skipped, except in CI.
To run it alone: `pytest tests/report/test_browser.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from hostile import TITLES

from foster_cli.bundle import load
from foster_cli.data.schema import Dataset
from foster_cli.report.gather import gather
from foster_cli.report.html import page


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    reason = chromium.missing()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium.Browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path], coreset: Path, data: Dataset,
    evaluation: dict[str, Any],
) -> dict[str, Path]:  # fmt: skip
    """Reports of a bundle with hostile titles and names, of one in the paper's form, and of a coreset."""
    folder = tmp_path_factory.mktemp("pages")
    name = {"name": '</title><script>window.pwned=8</script>"', "hash": data.hash, "path": ["<b>\u202ex"]}
    hostile = make_bundle(folder / "hostile", hostile=True, data=name)
    paper = make_bundle(folder / "paper", own=False, log=False)
    found = {
        "hostile": gather(load(hostile), evaluation, "<i>gone</i>\u2067"),
        "paper": gather(load(paper), None, data),
        "coreset": gather(load(coreset), None, data),
    }
    written = {}
    for kind, report in found.items():
        written[kind] = folder / f"{kind}.html"
        written[kind].write_text(page(report), encoding="utf-8", newline="\n")
    return written


@pytest.mark.parametrize(
    ("kind", "width", "dark"),
    [("hostile", 1280, True), ("hostile", 390, False), ("paper", 1280, False), ("coreset", 390, True)],
)
def test_it_loads_nothing_complains_of_nothing_and_is_accessible(
    browser: chromium.Browser, pages: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    browser.complaints()
    browser.open(pages[kind], width, dark=dark)
    browser.js("document.querySelector('details').open = true")
    assert browser.js("return document.documentElement.scrollWidth") == width
    background = browser.js("return getComputedStyle(document.body).backgroundColor")
    level = sum(int(part) for part in background.strip("rgb()").split(",")) / 3
    assert level < 60 if dark else level > 220
    assert browser.complaints() == []
    assert browser.requests() == {pages[kind].resolve().as_uri(): None}
    assert browser.violations() == []


def test_hostile_titles_are_text(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    seen: set[str] = set()
    for number in range(4):
        browser.js("const s = document.getElementById('sequence'); s.value = arguments[0];"
                   "s.dispatchEvent(new Event('change'))", str(number))  # fmt: skip
        seen |= set(browser.js("return [...document.querySelectorAll('.title')].map((e) => e.textContent)"))
        count = browser.js(
            "const n = {}; document.querySelectorAll('*').forEach((e) => n[e.localName] = (n[e.localName] ?? 0) + 1);"
            "return n"
        )
        assert count["script"] == 2 and count["style"] == 1 and count["title"] == 1
        assert not {"img", "iframe", "rect", "object", "embed", "base", "form"} & count.keys()
        assert browser.js("return document.querySelectorAll('[onerror],[onload],[onmouseover]').length") == 0
        assert browser.js("return document.querySelectorAll('a:not(.skip):not(nav a)').length") == 0
    assert browser.js("return window.pwned ?? null") is None
    assert browser.js("return getComputedStyle(document.body).display") == "block"
    assert TITLES[0] in seen and TITLES[3] in seen and TITLES[4] in seen  # they are there, as text
    assert "⟨U+202E⟩live⟨U+202C⟩" in seen and "(no title)" in seen
    assert "␀␛[31mred␡⟨U+0085⟩" in seen and "one␊two␉three␍" in seen
    assert browser.js("return [...document.querySelectorAll('.title')].every((e) => e.querySelector('bdi,.empty'))")
    cards = "[...document.querySelectorAll('#positions .card')]"
    assert browser.js(f"return {cards}.every((e) => e.scrollWidth <= e.clientWidth)")


def test_the_policy_forbids_what_a_hole_would_need(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    """Even markup that came through would not run: it is put in by hand here."""
    browser.open(pages["paper"])
    browser.js(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\" "
        "onerror=\"window.pwned=1\"><p id=p style=\"color:rgb(1,2,3)\">x</p>');"
        "const s = document.createElement('script'); s.textContent = 'window.pwned=2'; document.body.append(s)"
    )  # fmt: skip
    assert browser.js("return window.pwned ?? null") is None
    assert browser.js("return getComputedStyle(document.getElementById('p')).color") != "rgb(1, 2, 3)"
    assert len(browser.complaints()) >= 3  # each of them refused
    assert browser.requests()["https://example.org/x.png"] == "csp"


def _search(browser: chromium.Browser, words: str) -> tuple[str, list[str], list[str]]:
    """What the page says it found, the titles that it lists, the positions it lists."""
    browser.js("const s = document.getElementById('search'); s.value = arguments[0];"
               "s.dispatchEvent(new Event('input'))", words)  # fmt: skip
    said = browser.driver.execute_async_script(  # type: ignore[no-untyped-call]
        "const done = arguments[arguments.length - 1];"
        "setTimeout(() => done(document.getElementById('found').textContent), 200)"
    )
    titles = browser.js("return [...document.querySelectorAll('.title')].map((e) => e.textContent)")
    heads = browser.js("return [...document.querySelectorAll('#positions h3')].map((e) => e.textContent)")
    return said, titles, heads


def test_search_finds_every_position_of_an_item(
    browser: chromium.Browser, pages: dict[str, Path], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = load(make_bundle(tmp_path / "b", own=False))
    P = loaded.probabilities()
    top = P.argsort(dim=-1, descending=True)[..., :10]
    browser.open(pages["paper"])
    for words in ("THING 25", "i07", "3  thing", "thing"):
        texts = [f"{title} {item}".lower() for title, item in zip(loaded.titles, loaded.item_ids, strict=True)]
        wanted = {i for i in top.unique().tolist() if all(word in texts[i] for word in words.lower().split())}
        here = [[[int(i) for i in position if int(i) in wanted] for position in sequence] for sequence in top]
        places = [(m, t, items) for m, sequence in enumerate(here) for t, items in enumerate(sequence) if items]
        likeliest = [float(f"{max(float(P[m, t, i]) for i in items):.3g}") for m, t, items in places]
        places = [places[k] for k in sorted(range(len(places)), key=lambda k: -likeliest[k])]
        said, titles, heads = _search(browser, words)
        assert wanted and said == f"{len(wanted)} items found, at {len(places)} positions."
        assert titles == [loaded.titles[i] for _, _, items in places for i in items]
        assert heads == [f"Sequence {m + 1}, position {t + 1}" for m, t, _ in places]
    assert _search(browser, "no such thing")[0] == "0 items found, at 0 positions."
    assert _search(browser, "")[0] == "Sequence 1 of 4: 6 positions."
    browser.open(pages["hostile"])
    _, titles, _ = _search(browser, "</script><script>")
    assert set(titles) == {TITLES[3]}


def test_bars_map_and_values_show_what_the_bundle_holds(
    browser: chromium.Browser, pages: dict[str, Path], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = load(make_bundle(tmp_path / "b", own=False))
    p = loaded.probabilities()[1, 0].sort(descending=True).values[:10].tolist()
    browser.open(pages["paper"])
    browser.js("const s = document.getElementById('map-sequence'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    assert browser.js("return document.getElementById('sequence').value") == "1"
    first = "#positions .card:first-child"
    widths = browser.js(f"return [...document.querySelectorAll('{first} .bar i')].map((e) => e.style.width)")
    assert [float(w.rstrip("%")) for w in widths] == pytest.approx([100 * x / p[0] for x in p], rel=0.01)
    assert len(browser.js("return [...document.querySelectorAll('#trails circle')].map((e) => e.tagName)")) == 6
    assert browser.js("return document.querySelectorAll('#trails path').length") == 4
    browser.open(pages["hostile"])
    browser.driver.execute_async_script(  # type: ignore[no-untyped-call]
        "const done = arguments[0], b = document.querySelector('[data-chart=validation]'); b.focus();"
        "const press = () => b.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));"
        "setTimeout(() => { press(); press(); done(); }, 300);"  # the page has scrolled there by then
    )
    tip = browser.js("const t = document.getElementById('tip'); return t.hidden ? null : t.innerText")
    assert "outer step 2" in tip and "0.22" in tip  # the second validation, from checks.csv


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_drawn(browser: chromium.Browser, pages: dict[str, Path], dark: bool, tmp_path: Path) -> None:
    """A picture of its top holds the colours of the intervals: it was drawn, and is no blank sheet."""
    from matplotlib.image import imread

    browser.open(pages["hostile"], dark=dark)
    browser.screenshot(tmp_path / "page.png", 0, 900)
    pixels = imread(tmp_path / "page.png")[..., :3] * 255
    for colour in ((240, 160, 75), (86, 180, 233)) if dark else ((213, 94, 0), (0, 114, 178)):
        assert (abs(pixels - colour).max(-1) < 3).sum() > 100
