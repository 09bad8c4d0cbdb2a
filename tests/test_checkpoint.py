"""States on disk: every value comes back as it was, and of two states one is always whole."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import Killed, killed_at

from foster_cli import checkpoint
from foster_cli.checkpoint import Store, from_bytes, load_checked, numpy_state, save_checked, set_numpy, to_bytes
from foster_cli.errors import FosterError
from foster_cli.files import save_tensors

PLAIN = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


def _same(a: Any, b: Any) -> bool:
    """Equal in value, type and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return bool(a == b)


@given(TREES)
def test_plain_values_come_back(tree: Any) -> None:
    assert _same(from_bytes(*to_bytes(tree)), tree)


def test_tensors_and_arrays_come_back_bit_for_bit() -> None:
    tree = {
        "x": torch.tensor([math.nan, -0.0, math.inf, 1e-45]), "$": torch.arange(6).reshape(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16), "none": torch.empty(0), "one": torch.tensor(3),
        "bytes": torch.Generator().get_state(), "arrays": [np.arange(3), np.zeros((0, 2), np.int32)],
    }  # fmt: skip
    found = from_bytes(*to_bytes(tree))
    for key, value in tree.items():
        if key == "half":
            assert found[key].dtype == torch.bfloat16 and torch.equal(found[key], value)
        else:
            assert _same(found[key], value.contiguous() if isinstance(value, torch.Tensor) else value), key


def test_what_cannot_be_kept_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError):
        to_bytes({"x": object()})


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = torch.Generator().manual_seed(3), np.random.default_rng(4)
    torch.randn(5, generator=a), b.integers(0, 9, 7, dtype=np.int32)  # half a word is left over in numpy's
    store.write({"x": {"torch": a.get_state(), "numpy": numpy_state(b)}})
    expected = torch.randn(5, generator=a), b.integers(0, 9, 7, dtype=np.int32), b.random(3)
    found = store.read("x")
    a2, b2 = torch.Generator(), np.random.default_rng(0)
    a2.set_state(found["torch"]), set_numpy(b2, found["numpy"])
    assert torch.equal(torch.randn(5, generator=a2), expected[0])
    assert (b2.integers(0, 9, 7, dtype=np.int32) == expected[1]).all() and (b2.random(3) == expected[2]).all()
    with pytest.raises(FosterError):
        set_numpy(np.random.Generator(np.random.MT19937(0)), found["numpy"])


@pytest.mark.parametrize("kind", ["adamw", "fused", "adam"])
def test_an_optimizer_goes_on_where_it_was(kind: str) -> None:
    def make() -> tuple[torch.Tensor, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        x = torch.linspace(-1, 1, 37).requires_grad_()
        optimizer = {
            "adamw": lambda: torch.optim.AdamW([x], lr=0.1, fused=False),
            "fused": lambda: torch.optim.AdamW([x], lr=0.1, fused=True), "adam": lambda: torch.optim.Adam([x], lr=0.1),
        }[kind]()  # fmt: skip
        return x, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)

    def steps(x: torch.Tensor, optimizer: Any, schedule: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (x.sin() * x).sum().backward()
            optimizer.step()
            schedule.step()

    x, optimizer, schedule = make()
    steps(x, optimizer, schedule, 4)
    kept = from_bytes(*to_bytes([x.detach(), optimizer.state_dict(), schedule.state_dict()]))
    steps(x, optimizer, schedule, 4)
    x2, optimizer2, schedule2 = make()
    with torch.no_grad():
        x2.copy_(kept[0])
    optimizer2.load_state_dict(kept[1]), schedule2.load_state_dict(kept[2])
    steps(x2, optimizer2, schedule2, 4)
    assert torch.equal(x, x2)


def test_of_two_states_one_is_always_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at every single operation of the second writing."""
    ends, number = set(), 0
    while True:
        store = Store(tmp_path / str(number))
        store.write({"s": {"is": 1, "x": torch.ones(3)}})
        try:
            with killed_at(monkeypatch, number) as done:
                store.write({"s": {"is": 2, "x": torch.zeros(3)}})
        except Killed:
            pass
        found = Store(store.folder).read("s")
        assert found is not None and found["x"].sum() == (3 if found["is"] == 1 else 0)
        ends.add(found["is"])
        Store(store.folder).write({"s": {"is": 3}})  # and it can be written again
        assert Store(store.folder).read("s") == {"is": 3}
        if "killed" not in done:
            break
        number += 1
    assert ends == {1, 2} and number >= 6
    assert sorted(p.name for p in store.folder.iterdir()) == ["s-00000003.json"]


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_damaged_state_is_not_taken_for_one(tmp_path: Path, ending: str) -> None:
    store = Store(tmp_path)
    store.write({"s": {"x": torch.arange(50)}})
    (file,) = tmp_path.glob(f"s-*.{ending}")
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 4
        file.write_bytes(changed)
        assert store.read("s") is None, at
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert store.read("s") is None
    file.unlink()
    assert store.read("s") is None
    file.write_bytes(whole)
    assert torch.equal(store.read("s")["x"], torch.arange(50))


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"sha256": 1}', b"[" * 100_000, b"\xff", b"null"])
def test_junk_is_no_state(text: bytes) -> None:
    with pytest.raises(ValueError):
        from_bytes(text, None)


def test_names_do_not_mix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write({"start": 1, "start-1": 2, "start-10": 3})
    store.write({"start": 4})
    assert [store.read(n) for n in ("start", "start-1", "start-10", "sta")] == [4, 2, 3, None]


def test_a_full_disk_is_said_and_the_state_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "run")
    store.write({"s": 1})
    for number in range(3):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with pytest.raises(FosterError, match="disk is full"), killed_at(monkeypatch, number, full):
            store.write({"s": {"x": torch.ones(9)}})
        assert Store(store.folder).read("s") == 1
        assert not list(store.folder.glob(".*"))


def test_writing_is_due_when_it_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    store = Store(tmp_path, share=0.1)
    assert store.due()
    monkeypatch.setattr(store, "_write", lambda *a: now.__setitem__(0, now[0] + 2.0))  # takes 2 seconds
    store.write({"s": 1})
    for later, due in ((2.0, False), (21.9, False), (22.0, True)):
        now[0] = later
        assert store.due() is due


def test_time_goes_on_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    store = Store(tmp_path)
    now[0] = 107.0
    store.write({"s": 1})
    again = Store(tmp_path)
    now[0] = 110.0
    again.read("s")  # which alone counts nothing
    assert again.elapsed == pytest.approx(3.0)
    again.continue_clock()
    assert again.elapsed == pytest.approx(10.0)


def test_tensors_with_a_sum(tmp_path: Path) -> None:
    x = {"x": torch.arange(20.0).reshape(4, 5), "y": torch.empty(0), "h": torch.ones(3, dtype=torch.float16)}
    save_checked(x, tmp_path / "a")
    assert all(torch.equal(load_checked(tmp_path / "a")[k], v) for k, v in x.items())
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="sha256"):
        load_checked(tmp_path / "a")
    (tmp_path / "a").write_bytes(whole.replace(b"[4,5]", b"[5,4]"))  # the values alone would not tell
    with pytest.raises(ValueError, match="sha256"):
        load_checked(tmp_path / "a")
    save_tensors(x, tmp_path / "old")  # as an older foster wrote it
    assert torch.equal(load_checked(tmp_path / "old")["x"], x["x"])


def test_a_state_is_json_and_safetensors_alone(tmp_path: Path) -> None:
    Store(tmp_path).write({"s": {"x": torch.ones(2), "y": 1.5}})
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["tree"]["tree"]["y"] == 1.5
