"""The artifact: what is written comes back, whatever was changed on the way is refused, nothing half is left."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from bundles import items, sign
from safetensors.torch import load_file, save_file

import foster_cli
from foster_cli import bundle
from foster_cli.bundle import FILES, SUMS, Contents, load, save
from foster_cli.errors import FosterError
from foster_cli.files import sha256_file
from foster_cli.settings import DistillConfig, ModelConfig, Settings, StudentConfig
from foster_cli.synthetic.quantise import restored, stored

M, L, D, N = 3, 4, 5, 11
STUDENT = StudentConfig(lr=3e-4, steps=9, items_per_step=4)
MANIFEST: dict[str, Any] = {
    **Settings(student=STUDENT, distill=DistillConfig(mix=False)).sections(), "method": "foster", "seed": 5,
    "data": {"name": "Zoë's shop", "path": [], "prepare": {}}, "metrics": {"student_steps": 6},
}  # fmt: skip
TITLES = ["plain", "", 'comma, and "quote', "naïve 漢字 🙂", "line\nbreak", *[f"t{i}" for i in range(6)]]
IDS = ["1", "01", "1.0", "NA", "None", *[f"i{i}" for i in range(6)]]


def _parts() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    factors = {k: torch.randn(*s, generator=rng) for k, s in (("U", (M, 2)), ("T", (L, 3)), ("G", (2, 3, D)))}
    return factors, torch.randn(N, D, generator=rng)


def _write(path: Path, **changes: Any) -> Path:
    factors, V = _parts()
    given = {"manifest": MANIFEST, "V": V, "titles": TITLES, "log": [{"step": 1.0, "q": 0.5}], "reads": None}
    given |= {"stored": None, **changes}
    checks = [{"step": 0.0, "R@10": 0.1}]
    named = items(IDS, given["titles"])
    contents = Contents(given["manifest"], given["V"], named, given["log"], checks, given["stored"])
    save(path, contents, factors, given["reads"])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return _write(tmp_path / "run")


def test_what_is_saved_comes_back(folder: Path) -> None:
    factors, V = _parts()
    found = load(folder)
    assert found.manifest == {"format": 4, **MANIFEST} and found.path == folder
    assert all(torch.equal(found.factors[k], v) for k, v in factors.items()) and torch.equal(found.V, V)
    assert found.item_ids == IDS and found.titles == TITLES
    assert found.learning_rate == 3e-4
    Q = np.einsum("ma,tb,abd->mtd", *(factors[k].double().numpy() for k in "UTG"))
    np.testing.assert_allclose(found.Q.numpy(), Q, rtol=1e-5, atol=1e-6)
    assert pd.read_csv(folder / "log.csv").to_dict("records") == [{"step": 1.0, "q": 0.5}]
    assert pd.read_csv(folder / "checks.csv").to_dict("records") == [{"step": 0.0, "R@10": 0.1}]
    assert {p.name for p in folder.iterdir()} == {*FILES, SUMS}
    assert torch.equal(foster_cli.load(str(folder)).V, V)  # the documented way in


def test_sums_are_those_of_sha256sum(folder: Path) -> None:
    lines = (folder / SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == list(FILES)
    assert all(line.split("  ")[0] == sha256_file(folder / line.split("  ")[1]) for line in lines)


def test_two_saves_are_byte_for_byte_the_same(tmp_path: Path) -> None:
    a, b = _write(tmp_path / "a"), _write(tmp_path / "b")
    assert (a / SUMS).read_bytes() == (b / SUMS).read_bytes()


def test_a_set_without_outer_steps_is_saved(tmp_path: Path) -> None:
    assert load(_write(tmp_path / "x", log=[])).item_ids == IDS


def test_probabilities_are_the_softmax(folder: Path) -> None:
    found = load(folder)
    Q, V = found.Q.double().numpy(), found.V.double().numpy()
    items = [7, 0, 3]
    for chosen, given in ((list(range(N)), None), (items, torch.tensor(items))):
        P = found.probabilities(items=given).numpy()
        for m in range(M):
            for t in range(L):
                e = [math.exp(Q[m, t] @ V[i]) for i in chosen]
                np.testing.assert_allclose(P[m, t], np.array(e) / sum(e), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.probabilities(slice(1, 2)), found.probabilities()[1:2])


def test_batches_are_distributions_with_the_target_one_step_ahead(folder: Path) -> None:
    found = load(folder)
    batches = list(found.batches(30, seed=3, items_per_step=4))
    assert len(batches) == 30
    for batch in batches:
        assert batch.items.shape == (4,) and len(batch.items.unique()) == 4
        assert batch.inputs.shape == batch.targets.shape == (M, L - 1, 4)
        torch.testing.assert_close(batch.inputs.sum(-1), torch.ones(M, L - 1))
        torch.testing.assert_close(batch.targets.sum(-1), torch.ones(M, L - 1))
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        torch.testing.assert_close(batch.targets, found.probabilities(items=batch.items)[:, 1:])
    assert {int(i) for b in batches for i in b.items} == set(range(N))


def test_batches_repeat_with_their_seed(folder: Path) -> None:
    found = load(folder)

    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed + 77)
        return [b.items.tolist() for b in found.batches(5, seed=seed, items_per_step=4)]

    assert drawn(0) == drawn(0) != drawn(1)
    for size in (N, N + 1):
        assert [b.items.tolist() for b in found.batches(2, items_per_step=size)] == [list(range(N))] * 2


def test_without_numbers_there_are_as_many_batches_and_items_as_the_recipe_says(tmp_path: Path) -> None:
    """The steps that validation chose when the set was made; of an earlier set, the most that it tried."""
    found = load(_write(tmp_path / "set"))
    assert found.recipe == replace(STUDENT, steps=6) and found.made.student == STUDENT
    assert [len(b.items) for b in found.batches()] == [4] * 6
    assert [len(b.items) for b in found.batches(items_per_step=5)] == [5] * 6
    assert [len(b.items) for b in found.batches(2)] == [4] * 2
    same = found.batches(6, seed=0, items_per_step=4)
    for one, other in zip(found.batches(), same, strict=True):
        assert torch.equal(one.items, other.items) and torch.equal(one.targets, other.targets)
    student = {**MANIFEST["student"], "items_per_step": None}
    before = load(_write(tmp_path / "before", manifest={**MANIFEST, "student": student, "metrics": {}}))
    assert before.recipe == before.made.student == replace(STUDENT, items_per_step=None)
    assert [b.items.tolist() for b in before.batches()] == [list(range(N))] * 9


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_is_seen(folder: Path, name: str, place: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(FosterError, match=f"{name} was changed"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["gone", "link", "folder", "longer", "empty"])
def test_a_file_that_is_not_itself_is_refused(folder: Path, tmp_path: Path, name: str, how: str) -> None:
    data = (folder / name).read_bytes()
    if how in ("longer", "empty"):
        (folder / name).write_bytes(data + b"\n" if how == "longer" else b"")
    else:
        (folder / name).unlink()
    if how == "link":
        (tmp_path / "elsewhere").write_bytes(data)  # the very same bytes
        (folder / name).symlink_to(tmp_path / "elsewhere")
    if how == "folder":
        (folder / name).mkdir()
    with pytest.raises(FosterError, match=name):
        load(folder)


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\xff\xfe\x00"])
def test_sums_must_be_there_and_whole(folder: Path, content: bytes | None) -> None:
    (folder / SUMS).unlink()
    if content is not None:
        (folder / SUMS).write_bytes(content)
    with pytest.raises(FosterError):
        load(folder)


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FosterError, match="no bundle"):
        load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FosterError, match="no bundle"):
        load(tmp_path / "file")


@pytest.mark.parametrize("number", [0, 1, 3, 5, "2", "4", None])
def test_another_format_is_refused(folder: Path, number: Any) -> None:
    manifest = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    (folder / FILES[0]).write_text(json.dumps({**manifest, "format": number}))
    sign(folder)
    with pytest.raises(FosterError, match=r"format.*distill again" if number == 1 else r"format.*upgrade"):
        load(folder)


def _tensors(folder: Path, name: str, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / name)
    tensors.update({k: v for k, v in changes.items() if v is not None})
    save_file({k: v for k, v in tensors.items() if changes.get(k, v) is not None}, folder / name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (FILES[1], {"U": torch.zeros(M, 3)}), (FILES[1], {"T": torch.zeros(L, 2)}), (FILES[1], {"U": torch.zeros(M)}),
        (FILES[1], {"G": torch.zeros(2, 3)}), (FILES[1], {"G": torch.zeros(2, 3, D + 1)}), (FILES[1], {"T": None}),
        (FILES[2], {"V": torch.zeros(N, D + 1)}), (FILES[2], {"V": torch.zeros(N + 1, D)}),
        (FILES[2], {"V": torch.zeros(N)}), (FILES[2], {"V": None, "W": torch.zeros(N, D)}),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(folder: Path, name: str, changes: dict[str, Any]) -> None:
    _tensors(folder, name, **changes)
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content"), [(FILES[0], b"{"), (FILES[1], b"junk"), (FILES[2], b""), (FILES[3], b"junk")]
)
def test_what_cannot_be_read_is_said(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    sign(folder)
    with pytest.raises(FosterError, match="cannot be read"):
        load(folder)


def test_a_manifest_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / FILES[0]).write_text("[]")
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


def test_items_without_ids_are_refused(folder: Path) -> None:
    pd.DataFrame({"title": TITLES}).to_parquet(folder / FILES[3], index=False)
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


@pytest.mark.parametrize("fault", ["tensors", "parquet", "csv", "text", "rename"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target, name = {
        "tensors": (bundle, "save_tensors"), "parquet": (pd.DataFrame, "to_parquet"), "csv": (pd.DataFrame, "to_csv"),
        "text": (Path, "write_text"), "rename": (Path, "rename"),
    }[fault]  # fmt: skip
    monkeypatch.setattr(target, name, full)
    with pytest.raises(FosterError, match="disk is full"):
        _write(tmp_path / "deep" / "run")
    assert list((tmp_path / "deep").iterdir()) == []


def test_safetensors_own_word_for_a_full_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FosterError, match="disk is full"):
        _write(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / SUMS).read_bytes()
    with pytest.raises(ValueError):
        _write(folder, manifest={"value": math.nan})  # JSON knows no NaN
    assert (folder / SUMS).read_bytes() == before
    assert load(folder).item_ids == IDS
    assert [p.name for p in folder.parent.iterdir()] == ["run"]


def test_a_save_replaces_the_old_bundle(folder: Path) -> None:
    (folder / "stray").write_text("x")
    _write(folder, titles=["new"] * N)
    assert load(folder).titles == ["new"] * N
    assert {p.name for p in folder.iterdir()} == {*FILES, SUMS}


READS = torch.tensor([1, 4, 9])


def _write_own(path: Path, mix: bool = True) -> Path:
    return _write(path, reads=READS, manifest={**MANIFEST, "distill": {"mix": mix}})


def test_own_goals_are_read_over_their_items_and_predicted_over_all(tmp_path: Path) -> None:
    found = load(_write_own(tmp_path / "own"))
    factors, V = _parts()
    Q = torch.einsum("ma,tb,abd->mtd", factors["U"], factors["T"], factors["G"]).numpy()
    P, G = found.probabilities().numpy(), found.goals().numpy()
    assert found.own_goals and P.shape == G.shape == (M, L // 2, N)
    for m in range(M):
        for t in range(L // 2):
            read = np.exp(V[READS].numpy() @ Q[m, t])
            np.testing.assert_allclose(P[m, t, READS.numpy()], read / read.sum(), rtol=1e-4)
            goal = np.exp(V.numpy() @ Q[m, L // 2 + t])
            np.testing.assert_allclose(G[m, t], goal / goal.sum(), rtol=1e-4)
    assert (np.delete(P, READS.numpy(), axis=2) == 0).all()
    some = torch.tensor([9, 0])
    assert torch.equal(found.probabilities(slice(1, 2), some), found.probabilities()[1:2, :, some])
    np.testing.assert_allclose(found.goals(slice(1, 2), some).sum(-1), 1.0, rtol=1e-6)


def test_batches_of_a_mixed_set_lie_between_two_users(tmp_path: Path) -> None:
    found = load(_write_own(tmp_path / "own"))
    P, V = found.probabilities(), found.V
    for batch in found.batches(3, seed=1, items_per_step=5):
        assert torch.equal(batch.read_items, READS)
        assert batch.inputs.shape == (2 * M, L // 2, 3) and batch.targets.shape == (2 * M, L // 2, 5)
        for b in range(2 * M):
            # the weights of the mixture, by least squares from what is read
            A = P[:, :, READS].reshape(M, -1).T.double()
            w = torch.linalg.lstsq(A, batch.inputs[b].reshape(-1, 1).double()).solution[:, 0]
            torch.testing.assert_close(w.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-4)
            goal = torch.einsum("m,mtd->td", w.float(), found.Q[:, L // 2 :])
            expected = torch.softmax(goal @ V[batch.items].T, -1)
            torch.testing.assert_close(batch.targets[b], expected, rtol=1e-3, atol=1e-4)


def test_batches_of_an_unmixed_set_with_own_goals_are_the_set(tmp_path: Path) -> None:
    found = load(_write_own(tmp_path / "own", mix=False))
    (batch,) = found.batches(1, items_per_step=N)
    assert torch.equal(batch.inputs, found.probabilities()[..., READS])
    torch.testing.assert_close(batch.targets, found.goals())


@pytest.mark.parametrize(
    "reads",
    [torch.tensor([], dtype=torch.int64), torch.tensor([N]), torch.tensor([-1]), torch.ones(2), torch.tensor([[1]])],
)
def test_items_that_cannot_be_read_are_refused(tmp_path: Path, reads: torch.Tensor) -> None:
    folder = _write_own(tmp_path / "own")
    _tensors(folder, FILES[1], reads=reads)
    sign(folder)
    with pytest.raises(FosterError, match=r"do not fit|none that foster writes"):
        load(folder)


def _numbers(folder: Path, name: str) -> dict[str, Any]:
    """The arrays of a safetensors file, as numpy reads them."""
    return dict(safetensors.numpy.load_file(folder / name))


@pytest.mark.parametrize("bits", [8, 16])
def test_few_bits_come_back_as_what_they_stand_for(tmp_path: Path, bits: int) -> None:
    """low + codes * step and halved numbers, written out with numpy; the factors then have 16 bits too."""
    factors, V = _parts()
    tensors = stored(V, bits)
    folder = _write(tmp_path / "set", V=restored(tensors), stored=tensors, reads=READS)
    found, kept, made = load(folder), _numbers(folder, FILES[2]), _numbers(folder, FILES[1])
    if bits == 8:
        assert {name: x.dtype for name, x in kept.items()} == {
            "codes": np.uint8, "low": np.float32, "step": np.float32
        }  # fmt: skip
        expected = kept["low"] + kept["codes"].astype(np.float32) * kept["step"]
        assert (np.abs(expected - V.numpy()) <= np.ptp(V.numpy(), axis=0) / 255 / 2 * 1.001).all()
    else:
        assert set(kept) == {"V"} and kept["V"].dtype == np.float16
        expected = V.numpy().astype(np.float16).astype(np.float32)
    assert found.V.dtype == torch.float32 and np.array_equal(found.V.numpy(), expected)
    assert not torch.equal(found.V, V)
    assert {name: x.dtype for name, x in made.items()} == {**dict.fromkeys("UTG", np.float16), "reads": np.int64}
    for name, x in factors.items():
        assert found.factors[name].dtype == torch.float32 and torch.equal(found.factors[name], x.half().float())
        assert np.array_equal(made[name], x.numpy().astype(np.float16))
    assert found.reading.items is not None and torch.equal(found.reading.items, READS)
    Q = np.einsum("ma,tb,abd->mtd", *(made[name].astype(np.float64) for name in "UTG"))
    read = np.exp(expected[READS].astype(np.float64) @ Q[0, 0])
    np.testing.assert_allclose(found.probabilities()[0, 0, READS].numpy(), read / read.sum(), rtol=1e-4)


def test_32_bits_of_the_factor_leave_the_factors_their_own(tmp_path: Path) -> None:
    """As with `--exact`, or where no rounding loses little enough."""
    factors, V = _parts()
    found = load(_write(tmp_path / "set", V=V, stored=stored(V, 32)))
    assert torch.equal(found.V, V) and all(torch.equal(found.factors[name], x) for name, x in factors.items())
    assert _numbers(tmp_path / "set", FILES[1])["G"].dtype == _numbers(tmp_path / "set", FILES[2])["V"].dtype == "f4"


def test_a_bundle_of_format_2_is_still_read(tmp_path: Path) -> None:
    """Its numbers have 32 bits, its table another codec, and its manifest lacks what came later."""
    manifest: dict[str, Any] = json.loads(json.dumps({**MANIFEST, "format": 2, "metrics": {"best_step": 3}}))
    del manifest["student"]["item_start"], manifest["train"]["recency"]
    del manifest["distill"]["exact"], manifest["distill"]["keep_state"]
    folder = _write(tmp_path / "set", manifest=manifest)
    pd.DataFrame({"item_id": IDS, "title": TITLES}).to_parquet(folder / FILES[3], index=False)
    sign(folder)
    factors, V = _parts()
    found = load(folder)
    assert found.manifest == manifest and found.item_ids == IDS and found.titles == TITLES
    assert torch.equal(found.V, V) and all(torch.equal(found.factors[name], x) for name, x in factors.items())
    assert found.recipe == replace(STUDENT, item_start="text") and found.made.train.recency is None
    assert len(list(found.batches())) == STUDENT.steps


@pytest.mark.parametrize("lacks", [("vector_dropout", "bias", "lexical"), (), ("backbone", "items", "pooling", "lora")])
def test_an_old_manifest_means_the_recommender_of_its_time(lacks: tuple[str, ...]) -> None:
    """SASRec on texts alone, without a bias, lexical vectors or dropped vectors; what a manifest says, holds."""
    told: dict[str, Any] = {
        "items": "both",
        "backbone": "gru4rec",
        "width": 24,
        "vector_dropout": 0.5,
        "bias": True,
        "lexical": 9,
    }
    sections = Settings(model=ModelConfig(**told)).sections()
    for name in lacks:
        del sections["model"][name]
    found = Settings.of_manifest({**sections, "data": {"path": [], "prepare": {}}, "seed": 0, "method": "foster"}).model
    earlier = {"items": "text", "backbone": "sasrec", "vector_dropout": 0.0, "bias": False, "lexical": 0}
    assert found == ModelConfig(**{**told, **{k: v for k, v in earlier.items() if k in lacks}})
