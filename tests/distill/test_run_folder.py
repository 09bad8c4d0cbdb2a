"""The folder of a run: what is stored in it, what continues it, what is refused."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from killing import Killed
from tiny_problem import D, L, M, N

from foster_cli.checkpoint import Store, from_bytes, to_bytes
from foster_cli.distill.run_folder import (
    Beginning,
    Interrupted,
    RunFolder,
    Start,
    deciding,
    difference,
    interrupted,
    run_folder,
    start_tree,
    stored_start,
)
from foster_cli.errors import FosterError, NotFinite
from foster_cli.session import Session
from foster_cli.settings import SECTIONS, PrepareSettings, Settings
from foster_cli.synthetic.factors import from_tensor
from foster_cli.synthetic.reading import Reading


def test_the_chosen_start_comes_back_in_its_memory_layout(tmp_path: Path) -> None:
    """The layout decides in which order numbers are added."""
    synthetic, error = from_tensor(torch.randn(M, L, D, generator=torch.Generator().manual_seed(0)), 2, 3)
    synthetic.U = torch.nn.Parameter(synthetic.U.detach().T.contiguous().T)
    assert synthetic.U.stride() == (1, M)
    store, V = Store(tmp_path), torch.randn(N, D)
    reading = Reading(True, torch.arange(3), 4)
    store.write({"start": start_tree(Start(synthetic, error, [3, 1], "real 2"), reading, V)})
    found = stored_start(store, V)
    assert found is not None
    start, read = found
    assert (start.error, start.contexts, start.name) == (error, [3, 1], "real 2")
    assert read.own and read.mix == 4 and read.items is not None and torch.equal(read.items, torch.arange(3))
    for (_, a), (_, b) in zip(synthetic.named_parameters(), start.synthetic.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
    with pytest.raises(FosterError, match="other item vectors"):
        stored_start(store, V + 1e-6)
    assert stored_start(Store(tmp_path / "none"), V) is None


SETTINGS = Settings(("a.parquet",), PrepareSettings(text_columns=("a", "b")), seed=3)


def _task(data: str = "d", encoder: str | None = "e") -> Any:
    """A task of which only the hashes of data and encoder are known."""
    source = None if encoder is None else SimpleNamespace(hash=encoder)
    session = Session()
    return SimpleNamespace(data=SimpleNamespace(hash=data), source=source, session=session, device=session.device)


def _fields(settings: Settings = SETTINGS, **task: Any) -> dict[str, Any]:
    return deciding(settings, _task(**task))


def test_a_request_comes_back(tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="no interrupted run"):
        interrupted(tmp_path / "b")
    _stop(tmp_path / "b")
    assert interrupted(tmp_path / "b") == Interrupted(SETTINGS, "cpu", True, "d")


def test_every_setting_decides_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    began = from_bytes(*to_bytes(_fields()))
    assert difference(began, _fields()) is None
    for part in SECTIONS:
        kind = getattr(SETTINGS, part)
        for f in dataclasses.fields(kind):
            if (part, f.name) == ("model", "encoder"):  # known by its hash, wherever it lies
                continue
            changed = replace(SETTINGS, **{part: replace(kind, **{f.name: "another"})})
            said = difference(began, _fields(changed))
            assert said is not None and f.name in said[0] and "another" in said[0], f.name
    for changed in (_fields(data="x"), _fields(encoder=None)):
        said = difference(began, changed)
        assert said is not None and "hash differs" in said[0]
    assert difference(began, _fields(replace(SETTINGS, seed=4))) is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    said = difference(began, _fields())
    assert said is not None and "77" in said[0] and "OMP_NUM_THREADS" in said[1]
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert difference(began, {**_fields(), "threads": began["threads"]}) is not None


def _open(out: Path, resume: bool | None, seed: int = 3) -> AbstractContextManager[RunFolder]:
    return RunFolder.open(out, replace(SETTINGS, seed=seed), _task(), Beginning(resume))


def _stop(out: Path) -> None:
    """A run of `out` that ends in the middle."""
    with pytest.raises(Killed), _open(out, False) as folder:
        folder.distilling().write({"outer": {"step": 1}})
        raise Killed


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "b"
    with pytest.raises(FosterError, match="cannot be read"), _open(out, True):
        pytest.fail("there is none")
    assert not run_folder(out).exists()
    _stop(out)
    with pytest.raises(FosterError, match="--resume") as caught, _open(out, False):
        pytest.fail("one is kept")
    assert str(run_folder(out)) in str(caught.value)
    with pytest.raises(FosterError, match="seed 3, here is 4"), _open(out, True, seed=4):
        pytest.fail("another one")
    with _open(out, True) as folder:
        assert folder.store.read("outer") == {"step": 1}
        with pytest.raises(FosterError, match="another process"), _open(out, True):
            pytest.fail("two at once")
    with _open(out, None) as folder:  # the library: the same run is continued, another one begins anew
        assert folder.store.read("outer") == {"step": 1}
    with _open(out, None, seed=4) as folder:
        assert folder.store.read("outer") is None
        folder.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [NotFinite("x"), FosterError("x")])
def test_what_would_fail_again_is_not_kept(tmp_path: Path, error: FosterError) -> None:
    with pytest.raises(FosterError), _open(tmp_path / "b", False):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    """Killed while the longer run's bundle took the place of the shorter one's."""
    out = tmp_path / "b"
    _stop(out)
    (run_folder(out) / ".b.old-77").mkdir()
    (run_folder(out) / ".b.old-77" / "bundle.json").write_text("{}")
    (run_folder(out) / ".b.half").mkdir()
    with _open(out, True):
        assert (out / "bundle.json").exists()
        assert not list(run_folder(out).glob(".b.*"))
