"""What the commands share: lists that are typed, names of folders, which bundle is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from calling import Foster, one_line

from foster_cli.commands.shared import absolute, names, newest_bundle, next_run, numbers, rates, safe_name
from foster_cli.errors import FosterError


def test_lists_of_numbers() -> None:
    assert numbers("--k", "10, 20,10,5") == (10, 20, 5)  # each once, in the order that was typed
    for value in ("10²", "²", "٣", "0", "", "1.5", "10,", "10;20", "-1"):
        with pytest.raises(FosterError, match=r"--k .*: not a list of numbers; use for example --k 10,20"):
            numbers("--k", value)


def test_lists_of_rates() -> None:
    assert rates("--rates", "3e-4, 1e-3,0.0003") == (3e-4, 1e-3)
    for value in ("0", "-1", "nan", "inf", "fast", "1e-3,", ""):
        with pytest.raises(FosterError, match=r"--rates .*: not a list of positive numbers; use for example"):
            rates("--rates", value)


def test_lists_of_names() -> None:
    assert names("--rows", "b, a", ("a", "b", "c")) == ("b", "a")
    with pytest.raises(FosterError, match="--rows d: unknown; use one of a, b"):
        names("--rows", "a,d", ("a", "b"))
    with pytest.raises(FosterError, match="--rows: a is given twice; name each once"):
        names("--rows", "a,b,a", ("a", "b"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("games", "games"), ("My shop (2023)", "My-shop-2023"), ("../../etc", "etc"), ("漢字", "data"), ("", "data")],
)
def test_a_name_fit_for_a_path(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_the_next_free_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with next_run("a shop", "td3", 20) as first:
        assert first == Path("runs/a-shop-td3-b20-1")
        with next_run("a shop", "td3", 20) as second:  # of another process, at the same time
            assert second == Path("runs/a-shop-td3-b20-2")
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "runs" / "a-shop-td3-b20-1").mkdir(parents=True)
    (tmp_path / "runs" / "a-shop-td3-b20-2.run").mkdir()  # of an interrupted run
    with next_run("a shop", "td3", 20) as third:
        assert third == Path("runs/a-shop-td3-b20-3")
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_newest_bundle(tmp_path: Path) -> None:
    with pytest.raises(FosterError, match=r"no bundle in .*; make one with `foster distill DATA`"):
        newest_bundle(tmp_path / "runs")
    for age, name in enumerate(("c", "a", "b")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        file = tmp_path / "runs" / name / "bundle.json"
        file.write_text("{}")
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "d.run").mkdir()
    (tmp_path / "runs" / "d.run" / "run-00000001.json").write_text("{}")
    assert newest_bundle(tmp_path / "runs") == tmp_path / "runs" / "c"


def test_paths_are_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.csv").symlink_to(tmp_path / "shop.csv")
    (tmp_path / "shop.csv").write_text("")
    found = absolute([Path("shop.csv"), Path("link.csv"), Path("none.csv")])
    assert found == (str(tmp_path / "shop.csv"), str(tmp_path / "shop.csv"), str(tmp_path / "none.csv"))


def test_an_out_that_is_a_file_is_said_before_the_data_are_read(foster: Foster) -> None:
    Path("file").write_text("x")
    for command in (("compare",), ("ablate",), ("sweep", "--over", "tau=1,2"), ("tune",)):
        one_line(foster(*command, "none.csv", "--out", "file"), "--out file: is a file", "name of a folder")
