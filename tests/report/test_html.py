"""The page as text: its policy fits its script and style, its JSON reads back, hostile names end nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hostile import TITLES
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.bundle import load
from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.report.gather import gather
from foster_cli.report.html import json_block, page


class _Reader(HTMLParser):
    """Collects elements, attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.open: str | None = None
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag if tag in self.raw else None
        if self.open:
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = None

    def handle_data(self, data: str) -> None:
        if self.open:
            self.raw[self.open][-1] += data
        else:
            self.text += data


def _read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def hostile(
    make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, data: Dataset,
    evaluation: dict[str, Any],
) -> _Reader:  # fmt: skip
    """A page where titles, names, paths and reasons are hostile."""
    evil = "</script></style></title><img src=x onerror=alert(1)>"
    named = {"name": evil, "hash": data.hash, "path": [evil], "statistics": {"interactions": 1, "users": 1}}
    encoder = {"name": evil, "revision": evil, "hash": evil, "train_layers": evil}
    path = make_bundle(
        tmp_path_factory.mktemp("h") / "b", hostile=True, data=named, encoder=encoder, machine={evil: evil}
    )
    return _read(page(gather(load(path), evaluation, evil)))


def test_the_policy_is_of_this_script_and_style(hostile: _Reader) -> None:
    metas = [a for tag, a in hostile.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(metas) == 1
    policy = dict(part.strip().split(" ", 1) for part in str(metas[0]["content"]).split(";"))

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert policy == {
        "default-src": "'none'", "script-src": digest(hostile.raw["script"][1]),
        "style-src": digest(hostile.raw["style"][0]), "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    tags = [tag for tag, _ in hostile.elements]
    assert tags.index("meta") < tags.index("style") < tags.index("script")


def test_nothing_hostile_becomes_markup(hostile: _Reader) -> None:
    tags = [tag for tag, _ in hostile.elements]
    assert (tags.count("script"), tags.count("style"), tags.count("title")) == (2, 1, 1)
    assert not {"img", "iframe", "object", "embed", "link", "base", "form"} & set(tags)
    for tag, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#"), tag
    assert hostile.text.count("<img src=x onerror=alert(1)>") > 5  # it is there, as text


def test_the_sequences_read_back(make_bundle: Callable[..., Path], tmp_path: Path, hostile: _Reader) -> None:
    shown = json.loads(hostile.raw["script"][0])
    assert TITLES[3] in shown["titles"] and TITLES[5] in shown["titles"]
    loaded = load(make_bundle(tmp_path / "b", own=True))
    shown = json.loads(_read(page(gather(loaded, None, "gone"))).raw["script"][0])
    read, goals = loaded.probabilities(), loaded.goals()
    assert len(shown["sequences"]) == len(read)
    for m, sides in enumerate(shown["sequences"]):
        for side, truth in zip(sides, (read, goals), strict=True):
            for t, (items, probabilities, _) in enumerate(side):
                for item, probability in zip(items, probabilities, strict=True):
                    index = loaded.item_ids.index(shown["ids"][item])
                    assert shown["titles"][item] == loaded.titles[index]
                    assert probability == pytest.approx(float(truth[m, t, index]), rel=6e-3, abs=1e-12)
    assert sorted(shown["map"]) == list(range(len(loaded.titles)))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(TITLES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(_json)
def test_json_ends_no_element_and_reads_back(value: Any) -> None:
    text = str(json_block(value))
    assert not re.search("[<>&]", text)
    assert json.loads(text) == value


def test_what_is_missing_is_said(make_bundle: Callable[..., Path], coreset: Path, tmp_path: Path) -> None:
    text = _read(page(gather(load(make_bundle(tmp_path / "b", log=False)), None, "the file has gone"))).text
    assert f"foster eval {tmp_path / 'b'}" in text
    assert "The real data is not shown: the file has gone" in " ".join(text.split())
    assert "No outer step was taken" in text
    text = _read(page(gather(load(coreset), None, "x"))).text
    assert "nothing was learned" in text and "2 sequences of the training data, chosen by kcenter" in text


def test_a_part_of_a_large_map_is_named(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    from dataclasses import replace

    report = gather(load(make_bundle(tmp_path / "b")), None, "gone")
    text = _read(page(replace(report, map=replace(report.map, total=123_456)))).text
    assert f"Drawn: {len(report.titles)} of 123,456 items" in text


@pytest.mark.parametrize(
    "wrong", [{"data": []}, {"metrics": 7}, {"distill": None}, {"encoder": "x"}, {"machine": ["a"]}, {"model": "m"}]
)
def test_a_foreign_manifest_is_refused_in_one_line(
    make_bundle: Callable[..., Path], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    loaded = load(make_bundle(tmp_path / "b"))
    loaded.manifest.update(wrong)
    with pytest.raises(FosterError, match=r"bundle\.json holds something else"):
        gather(loaded, None, "gone")
