"""A stranger's bundle: whatever its bytes are, it loads or is refused with a FosterError, within bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bundles import items, sign, write_coreset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from foster_cli import bundle
from foster_cli.bundle import FILES, SUMS, Contents, load, read_state
from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.files import sha256_file
from foster_cli.settings import DistillConfig, Settings
from foster_cli.synthetic.quantise import restored, stored
from foster_cli.verify import verify

N, D = 9, 4
IDS = [f"i{k}" for k in range(N)]
MANIFEST = {"method": "foster", "student": {"lr": 1e-3}, "data": {"name": "x", "path": ["a"], "hash": "h"}, "seed": 0}


def _whole(folder: Path, bits: int = 32) -> Path:
    """A bundle whose item factor has `bits` bits per number."""
    rng = torch.Generator().manual_seed(0)
    factors = {k: torch.randn(*s, generator=rng) for k, s in (("U", (3, 2)), ("T", (4, 2)), ("G", (2, 2, D)))}
    V = torch.randn(N, D, generator=rng)
    reads, state = torch.tensor([1, 4]), {"outer": {"step": 3, "x": torch.ones(3)}}
    rows = [{"step": 0.0, "R@10": 0.1}]
    tensors = stored(V, bits)
    contents = Contents(
        MANIFEST, restored(tensors), items(IDS, [f"title {k}" for k in range(N)]), rows, rows, tensors
    )  # fmt: skip
    bundle.save(folder, contents, factors, reads, state)
    return folder


def _coreset(folder: Path) -> Path:
    windows = Windows(np.array([[1, 2, 3], [4, 5, -1]]), np.array([3, 2]))
    return write_coreset(folder, MANIFEST, windows, N)


def _refused(folder: Path, word: str = "") -> None:
    """It is refused in a FosterError, `foster verify` says the same without raising, and memory stays small."""
    tracemalloc.start()
    with pytest.raises(FosterError, match=word or None) as caught:
        load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert str(folder) in str(caught.value)
    assert any(f.ok is False for f in verify(folder))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("whole")
    return [_whole(folder / "set"), _coreset(folder / "coreset"), _whole(folder / "codes", 8)]


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
    return _whole(tmp_path / "b")


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
    _refused(folder)


def test_a_manifest_of_gigabytes(folder: Path) -> None:
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room here
    with (folder / SUMS).open("a") as file:
        file.truncate(0)
    _sums_of_a_hole(folder)
    _refused(folder, "larger than")


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
    _refused(folder, "no bundle has")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 100_000, b"", b"0" * 64 + b" bundle.json\n"])
def test_sums(folder: Path, content: bytes) -> None:
    (folder / SUMS).write_bytes(content)
    _refused(folder)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_links_and_other_things_are_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    moved = tmp_path / "elsewhere"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    _refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)  # reading one would wait for ever
    _refused(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    _refused(folder)


def _header(folder: Path, name: str, header: bytes, size: int | None = None, data: bytes = b"") -> None:
    (folder / name).write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)
    sign(folder)


@pytest.mark.parametrize(
    ("header", "size", "data"),
    [
        (b"{}", 2**63, b""), (b"{}", 1 << 40, b""), (b" " * 100_000, None, b""), (b"[" * 60_000, None, b""),
        (b"[]", None, b""), (b"\xff" * 8, None, b""),
        (b'{"V":{"dtype":"F32","shape":[1099511627776,4],"data_offsets":[0,16]}}', None, b"\0" * 16),
        (b'{"V":{"dtype":"F32","shape":[-1,4],"data_offsets":[0,16]}}', None, b"\0" * 16),
        (b'{"V":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}', None, b""),
        (b'{"V":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', None, b""),
        (b'{"../V":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', None, b"\0" * 4),
        (b'{"V":{"dtype":"BOOL","shape":[9,4],"data_offsets":[0,36]}}', None, b"\1" * 36),
        (b'{"V":3}', None, b""), (b'{"V":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', None, b"\0" * 4),
    ],
    ids=range(14),
)  # fmt: skip
def test_tensors(folder: Path, header: bytes, size: int | None, data: bytes) -> None:
    _header(folder, "item_factor.safetensors", header, size, data)
    _refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"V": torch.full((N, D), float("nan"))}, {"V": torch.full((N, D), float("inf"))},
        {"V": torch.zeros(N, D).bfloat16()}, {"V": torch.zeros(N, D, dtype=torch.int64)}, {"V": torch.zeros(N - 1, D)},
        {"V": torch.zeros(N, D), "W": torch.zeros(1)}, {"V": torch.zeros(N, D).double()},
        {"V": torch.full((N, D), 65504.0).half() * 2}, {"V": torch.zeros(N, D).half()[:-1]}, {},
    ],
    ids=range(10),
)  # fmt: skip
def test_item_factors(folder: Path, change: dict[str, torch.Tensor]) -> None:
    save_file(change, folder / "item_factor.safetensors")
    sign(folder)
    _refused(folder)


CODES = torch.zeros(N, D, dtype=torch.uint8)
CODED = {"codes": CODES, "low": torch.zeros(D), "step": torch.ones(D)}


@pytest.mark.parametrize(
    "change",
    [
        {"low": None}, {"step": None}, {"low": None, "step": None}, {"codes": None}, {"V": torch.zeros(N, D)},
        {"V": torch.zeros(N, D), "codes": None}, {"V": torch.zeros(N, D), "codes": None, "step": None},
        {"low": torch.zeros(D + 1)}, {"low": torch.zeros(1)}, {"step": torch.ones(D - 1)}, {"step": torch.ones(N)},
        {"low": torch.zeros(D + 1), "step": torch.ones(D + 1)}, {"low": torch.zeros(1, D)}, {"step": torch.ones(D, 1)},
        {"low": torch.zeros(0), "step": torch.zeros(0), "codes": CODES[:, :0]}, {"low": torch.zeros(D).double()},
        {"codes": CODES.to(torch.int8)}, {"codes": CODES.to(torch.int64)}, {"codes": CODES.float()},
        {"codes": CODES.half()}, {"codes": CODES.bool()}, {"codes": CODES[0]}, {"codes": CODES[None]},
        {"codes": CODES[:-1]}, {"codes": CODES.repeat(2, 1)}, {"low": CODES[0]}, {"step": CODES[0]},
        {"low": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, {"step": torch.full((D,), float("nan"))},
        {"low": torch.full((D,), float("-inf"))}, {"step": torch.full((D,), float("inf"))}, {"W": torch.zeros(D)},
    ],
    ids=range(32),
)  # fmt: skip
def test_codes_of_an_item_factor(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Whatever is no V, or codes with a lowest value and a step for each column, is refused."""
    folder = _whole(tmp_path / "b", 8)
    changed = {name: x.clone() for name, x in {**CODED, **change}.items() if x is not None}
    save_file(changed, folder / "item_factor.safetensors")
    sign(folder)
    _refused(folder)


def test_codes_that_stand_for_infinite_numbers(tmp_path: Path) -> None:
    """Each of the stored numbers is finite."""
    folder = _whole(tmp_path / "b", 8)
    most = torch.finfo(torch.float32).max
    changed = {"codes": CODES + 255, "low": torch.full((D,), most), "step": torch.full((D,), most)}
    save_file(changed, folder / "item_factor.safetensors")
    sign(folder)
    _refused(folder)


def test_codes_belong_to_the_item_factor_alone(folder: Path) -> None:
    tensors = load_file(folder / "factors.safetensors")
    for more in (CODED, {"V": torch.zeros(N, D)}, {"U": CODES[:3, :2].contiguous()}):
        save_file({**tensors, **more}, folder / "factors.safetensors")
        sign(folder)
        _refused(folder)


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


def test_factors_of_a_few_megabytes_that_make_terabytes(folder: Path) -> None:
    tensors = load_file(folder / "factors.safetensors")
    tensors |= {"U": torch.ones(200_000, 2), "T": torch.ones(200_000, 2)}
    save_file(tensors, folder / "factors.safetensors")
    sign(folder)
    _refused(folder, "more than foster makes")


Table = Callable[[Path], None]


def _write(**options: Any) -> Callable[[dict[str, Any]], Table]:
    return lambda columns: lambda path: pq.write_table(pa.table(columns), path, **options)


_TEXT = {"item_id": IDS, "title": IDS}
TABLES: dict[str, Table] = {
    "a row too many": _write()({"item_id": [*IDS, "x"], "title": [*IDS, "x"]}),
    "a million rows": _write()({"item_id": ["x"] * 10**6, "title": ["x"] * 10**6}),
    "zstd": _write(compression="zstd")(_TEXT),
    "prefixes": _write(use_dictionary=False, column_encoding={"item_id": "DELTA_BYTE_ARRAY"})(_TEXT),
    "a title of megabytes": _write()({"item_id": IDS, "title": ["x" * (2 << 20)] * N}),
    "numbers": _write()({"item_id": list(range(N)), "title": IDS}),
    "no title": _write()({"item_id": IDS}), "nulls": _write()({"item_id": IDS, "title": [None] * N}),
    "lists": _write()({"item_id": IDS, "title": [["x"]] * N}),
    "many columns": _write()({**_TEXT, **{f"c{i}": IDS for i in range(500)}}),
    "no table": lambda path: path.write_bytes(b"PAR1" * 100) and None,
    "nothing": lambda path: path.write_bytes(b"") and None,
    "csv": lambda path: path.write_text("item_id,title\n") and None,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_items(folder: Path, name: str) -> None:
    TABLES[name](folder / "items.parquet")
    sign(folder)
    before = pa.total_allocated_bytes()
    _refused(folder, "items.parquet")
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_titles_that_are_no_utf8(folder: Path) -> None:
    column = pa.array([b"\xff\xfe"] * N, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"item_id": pa.array(IDS), "title": column}), folder / "items.parquet")
    sign(folder)
    _refused(folder, "items.parquet")


def test_the_same_tables_are_read_as_pandas_reads_them(folder: Path) -> None:
    titles = ["", "a, \"b\"", "naïve 漢字 🙂", "line\nbreak", "x" * 60_000, *["same"] * (N - 5)]  # fmt: skip
    pd.DataFrame({"item_id": IDS, "title": titles}).to_parquet(folder / "items.parquet", index=False)
    sign(folder)
    found = load(folder)
    assert found.titles == titles and found.item_ids == IDS


@pytest.mark.parametrize(
    "change",
    [
        {"items": torch.zeros(2, 3)}, {"items": torch.full((2, 3), N)}, {"lengths": torch.tensor([3, 9])},
        {"lengths": torch.tensor([3, 1])}, {"lengths": torch.tensor([3])}, {"lengths": torch.tensor([-(2**62), 2**62])},
    ],
    ids=range(6),
)  # fmt: skip
def test_coresets(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    folder = _coreset(tmp_path / "b")
    tensors = {**load_file(folder / "windows.safetensors"), **change}
    save_file(tensors, folder / "windows.safetensors")
    sign(folder)
    _refused(folder)


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
