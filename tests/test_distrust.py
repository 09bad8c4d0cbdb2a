"""A stranger's bundle: whatever its bytes are, it loads or is refused with a FosterError, within bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles import sign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strangers import IDS, coreset, refused, whole

from foster_cli.bundle import FILES, SUMS, load, read_state
from foster_cli.errors import FosterError
from foster_cli.files import sha256_file
from foster_cli.settings import DistillConfig, Settings
from foster_cli.verify import verify


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("whole")
    return [whole(folder / "set"), coreset(folder / "coreset"), whole(folder / "codes", 8)]


MUTATIONS = st.tuples(
    st.integers(0, 2), st.integers(0, 9), st.booleans(),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from(["flip", "cut", "grow", "repeat", "empty"]),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(mutation=MUTATIONS)
def test_changed_bytes_never_end_in_another_error(
    originals: list[Path], tmp_path_factory: pytest.TempPathFactory, mutation: Any
) -> None:
    which, number, signed, changes, kind = mutation
    folder = tmp_path_factory.mktemp("fuzz") / "b"
    shutil.copytree(originals[which], folder)
    names = sorted(p.name for p in folder.iterdir())
    file = folder / names[number % len(names)]
    content = bytearray(file.read_bytes())
    for at, value in changes:
        where = at % max(1, len(content))
        if kind == "flip" and content:
            # half of them in the first bytes, where headers are
            content[where % 200 if value % 2 and len(content) > 200 else where] = value
        elif kind == "cut":
            del content[where:]
        elif kind == "grow":
            content[where:where] = bytes([value]) * (value + 1)
        elif kind == "repeat":
            content += content[where : where + 64]
        else:
            content.clear()
    file.write_bytes(content)
    if signed and file.name != SUMS:
        sign(folder)
    for read in (load, read_state):
        try:
            found = read(folder)
            if read is load:
                assert torch.isfinite(found.V).all() and len(found.item_ids) == len(found.V) == len(found.titles)
                assert 0 <= found.learning_rate < 1e300
        except FosterError:
            pass
    verify(folder)
    shutil.rmtree(folder.parent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("format", "student", "distill", "data", "model", "train", "encoder", "metrics", "machine", "item_factor")


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(KEYS), inner=st.sampled_from(["", "lr", "mix", "path", "prepare", "name"]), value=JSON)
def test_another_manifest_never_ends_in_another_error(
    originals: list[Path], tmp_path_factory: pytest.TempPathFactory, key: str, inner: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "b"
    shutil.copytree(originals[0], folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest[key] = value if not inner else {**(manifest.get(key) or {}), inner: value} if key != "format" else value
    (folder / "bundle.json").write_text(json.dumps(manifest))
    sign(folder)
    with contextlib.suppress(FosterError):
        assert isinstance(load(folder).learning_rate, float)
    verify(folder)
    shutil.rmtree(folder.parent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return whole(tmp_path / "b")


TEXTS: dict[str, bytes] = {
    "deep": b'{"a":' * 500 + b"1" + b"}" * 500, "deeper": b"[" * 200_000,
    "NaN": b'{"format": 2, "student": {"lr": NaN}}',
    "huge number": b'{"format": 2, "student": {"lr": 1e999}}', "digits": b'{"format": ' + b"9" * 9000 + b"}",
    "not UTF-8": b'{"format": 2, "x": "\xff\xfe"}', "surrogate": b'{"format": 2, "x": "\\ud800"}', "list": b"[2]",
    "nothing": b"", "no rate": b'{"format": 2}', "rate": b'{"format": 2, "student": {"lr": "1"}}',
    "true": b'{"format": true, "student": {"lr": 1}}',
    "layers": b'{"format": 2, "student": {"lr": 1}, "model": {"layers": "2"}}',
    "name": b'{"format": 2, "student": {"lr": 1}, "data": {"name": 3}}',
    "mix": b'{"format": 2, "student": {"lr": 1}, "distill": {"mix": [1]}}',
    "revision": b'{"format": 2, "student": {"lr": 1}, "encoder": {"revision": null}}',
    "path": b'{"format": 2, "student": {"lr": 1}, "data": {"path": "/etc/passwd"}}',
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_manifests(folder: Path, name: str) -> None:
    (folder / "bundle.json").write_bytes(TEXTS[name])
    sign(folder)
    refused(folder)


def test_a_manifest_of_gigabytes(folder: Path) -> None:
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room here
    with (folder / SUMS).open("a") as file:
        file.truncate(0)
    _sums_of_a_hole(folder)
    refused(folder, "larger than")


def _sums_of_a_hole(folder: Path) -> None:
    lines = [f"{'0' * 64}  bundle.json"] + [f"{sha256_file(folder / n)}  {n}" for n in FILES if n != "bundle.json"]
    (folder / SUMS).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "line",
    ["../../etc/passwd", "/etc/passwd", "sub/bundle.json", "bundle.json", "", "a\x00b", "synthetic.jsonl"],
)
def test_names_in_the_sums(folder: Path, line: str) -> None:
    with (folder / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  {line}\n")
    refused(folder, "no bundle has")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 100_000, b"", b"0" * 64 + b" bundle.json\n"])
def test_sums(folder: Path, content: bytes) -> None:
    (folder / SUMS).write_bytes(content)
    refused(folder)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_links_and_other_things_are_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    moved = tmp_path / "elsewhere"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)  # reading one would wait for ever
    refused(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder)


@pytest.mark.parametrize("steps", ["many", [6], None, {}, -1])
def test_a_number_of_steps_that_foster_does_not_write(folder: Path, steps: Any) -> None:
    """`recipe` reads it, which all that trains on a set asks."""
    manifest = json.loads((folder / "bundle.json").read_text())
    sections = Settings(distill=DistillConfig(mix=False)).sections()
    whole = {**manifest, **sections, "data": {**manifest["data"], "prepare": {}}, "metrics": {"student_steps": 6}}
    (folder / "bundle.json").write_text(json.dumps(whole))
    sign(folder)
    assert load(folder).recipe.steps == 6  # the rest is fine
    (folder / "bundle.json").write_text(json.dumps({**whole, "metrics": {"student_steps": steps}}))
    sign(folder)
    with pytest.raises(FosterError):
        load(folder).recipe  # noqa: B018


def test_a_manifest_without_metrics(folder: Path) -> None:
    """No later step ends in another error than foster's own."""
    manifest = json.loads((folder / "bundle.json").read_text())
    sections = Settings().sections()
    whole = {**manifest, **sections, "data": {**manifest["data"], "prepare": {}}}
    (folder / "bundle.json").write_text(json.dumps(whole))
    sign(folder)
    with contextlib.suppress(FosterError):
        assert load(folder).recipe.steps == Settings().student.steps


def test_a_state_is_read_only_when_it_is_asked_for(folder: Path) -> None:
    assert read_state(folder)["outer"]["step"] == 3
    (folder / "state.json").write_text("[" * 100_000)
    assert load(folder).item_ids == IDS  # what nothing reads breaks nothing
    with pytest.raises(FosterError, match="differs"):
        read_state(folder)
    sign(folder)
    with pytest.raises(FosterError, match=r"state\.json"):
        read_state(folder)
    (folder / "state.json").unlink()
    (folder / "state.safetensors").unlink()
    sign(folder)
    with pytest.raises(FosterError, match="--keep-state"):
        read_state(folder)
