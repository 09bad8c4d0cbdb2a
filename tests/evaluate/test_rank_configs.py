"""Files of configurations: what they say, and that everything else is one line with a hint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foster_cli.bundle import Bundle
from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.evaluate.rank.configs import IDLE, READ, Config, described, read_configs
from foster_cli.settings import SECTIONS, RankingConfig, Settings, StudentConfig
from foster_cli.synthetic.reading import Reading

Read = Callable[..., tuple[Config, ...]]


DEFAULTS = Settings()


def bundle_of(made: Settings = DEFAULTS, windows: Windows | None = None) -> Bundle:
    """A bundle of `made`, whose validation chose 120 steps. What it holds beside plays no part."""
    data = {"path": [], "prepare": dataclasses.asdict(made.prepare)}
    manifest = {"data": data, **made.sections(), "seed": made.seed, "method": made.method}
    manifest["metrics"] = {"student_steps": 120}
    return Bundle(Path("bundle"), manifest, {}, torch.zeros(3, 4), ["a"] * 3, ["a"] * 3, Reading(), windows)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text, or a value as JSON, as a file of configurations of a bundle."""

    def call(content: Any, full: bool = False, bundle: Bundle | None = None) -> tuple[Config, ...]:
        path = tmp_path / "configs.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return read_configs(path, bundle or bundle_of(), full)

    return call


ENTRIES = [
    {"name": "wide", "model": {"backbone": "gru4rec", "width": 128}, "student": {"lr": 1}},
    {"model": {"layers": 3, "width": None}, "student": {"dropout": False}, "train": {"lr": 0.01}},
    {},
]


def test_settings_are_laid_over_the_bundles(read: Read) -> None:
    """The student of the bundle is its recipe: the steps that validation chose."""
    made = Settings(student=StudentConfig(lr=0.5), ranking=RankingConfig(True), seed=7)
    made = replace(made, model=replace(made.model, width=32, dropout=0.4))
    wide, deep, same = read(ENTRIES, bundle=bundle_of(made))
    recipe = replace(made.student, steps=120)
    assert same.settings == replace(made, student=recipe) and same.name == "as the bundle"
    assert wide.name == "wide" and wide.own == {key: ENTRIES[0][key] for key in ("model", "student")}
    assert wide.settings.model == replace(made.model, backbone="gru4rec", width=128)
    assert wide.settings.student == replace(recipe, lr=1.0) and type(wide.settings.student.lr) is float
    assert deep.name == "layers 3, width null, student.dropout false, train.lr 0.01"
    assert deep.settings.train == replace(made.train, lr=0.01) and deep.settings.model.width is None
    assert deep.settings.ranking == made.ranking and deep.settings.seed == 7


def test_lines_are_read_as_a_list_is(read: Read) -> None:
    lines = "\n\n".join(json.dumps(entry) for entry in ENTRIES) + "\r\n"
    assert read(lines) == read(ENTRIES) == read("\n  " + json.dumps(ENTRIES, indent=2))


#: What is wrong with a file, and what is said.
TWO: list[Any] = [{}, {"model": {"width": 8}}]
BROKEN: list[tuple[Any, tuple[str, ...]]] = [
    ("", ("holds 0 configurations", "at least 2")),
    ("[]", ("holds 0 configurations",)),
    (TWO[:1], ("holds 1 configurations",)),
    ("{}\n{", ("is not JSON (line 2", "one on each line")),
    ("[{}, {}", ("is not JSON",)),
    ("[{}, NaN]", ("is not JSON (NaN",)),
    ("[" * 100_000, ("is not JSON (nested too deep",)),
    ([*TWO, 3], ("number 3 is 3",)),
    ([*TWO, {"modle": {}}], ("number 3: unknown section 'modle'", "did you mean 'model'?")),
    ([*TWO, {"x": {}}], ("unknown section 'x'", "known: name, model, student, train")),
    ([*TWO, {"distill": {"budget": 5}}], ("distill is not read", "one set", "model, student, train")),
    ([*TWO, {"ranking": {"cases": "last"}}], ("ranking is not read",)),
    ([*TWO, {"model": []}], ("number 3: holds no sections",)),
    ([*TWO, {"model": {"widht": 8}}], ("unknown setting 'widht'", "did you mean 'width'?")),
    ([*TWO, {"model": {"width": "8"}}], ('model.width is "8"', "a whole number or null")),
    ([*TWO, {"student": {"lr": 10**400}}], ("student.lr is 1000", "smaller")),
    ([*TWO, {"student": {"lr": -1}}], ("configuration 'student.lr -1.0': --student-lr -1.0: out of range",)),
    ([*TWO, {"name": "r", "model": {"backbone": "lstm"}}], ("configuration 'r': --backbone lstm", "sasrec")),
    ([*TWO, {"name": "odd", "model": {"width": 9}}], ("configuration 'odd': width 9 is not divisible by 2 heads",)),
    ([*TWO, {"model": {"heads": 3}}], ("width 64 is not divisible by 3 heads",)),
    ([*TWO, {"student": {"patience": 9}}], ("student.patience is for trainings with validation", "student.steps")),
    ([*TWO, {"name": ""}], ('the name is ""', "1 to 80 characters")),
    ([*TWO, {"name": "a\nb"}], ("the name is", "one line")),
    ([*TWO, {"name": "x" * 81}], ("the name is",)),
    ([*TWO, {"name": 5}], ("the name is 5",)),
    ([*TWO, {"name": "same", "model": {"width": 8.0}}], ("model.width is 8.0",)),
    ([*TWO, {"name": "same", "model": {"width": 8, "layers": 2}}], ("'width 8' and 'same' have the same settings",)),
    ([*TWO, {"name": "width 8", "model": {"width": 16}}], ("two configurations are called 'width 8'",)),
    ([*TWO, {"train": {"lr": 1e-9}}], ("'as the bundle' and 'train.lr 1e-09' differ only in", "--full")),
    ([*TWO, {"model": {"vector_dropout": 0.5}}], ("differ only in", "--full")),
]


@pytest.mark.parametrize(("content", "words"), BROKEN, ids=[str(content)[-40:] for content, _ in BROKEN])
def test_a_wrong_file_is_one_line(read: Read, content: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(FosterError) as caught:
        read(content)
    assert caught.value.hint and all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(FosterError, match=r"--configs .*name a file of configurations"):
            read_configs(path, bundle_of(), False)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(FosterError, match="is not JSON"):
        read_configs(tmp_path / "bytes", bundle_of(), False)


def test_with_all_the_data_their_training_tells_two_apart(read: Read) -> None:
    entries = [{}, {"train": {"lr": 1e-9}}, {"model": {"vector_dropout": 0.5}}]
    found = read(entries, full=True)
    assert len({config.settings.train.lr for config in found}) == 2
    assert found[0].on_set(False) == found[1].on_set(False) == found[2].on_set(False)


@pytest.mark.parametrize("dropped", [True, False])
def test_dropout_tells_two_apart_where_students_have_it(read: Read, dropped: bool) -> None:
    entries = [{"student": {"dropout": dropped}, "model": {"dropout": share}} for share in (0.1, 0.9)]
    if dropped:
        assert len(read(entries)) == 2
    else:
        with pytest.raises(FosterError, match="differ only in what trainings on all the data read"):
            read(entries)


def test_real_sequences_are_trained_on_as_the_data_are(read: Read) -> None:
    """Their training reads `train`, and has no student."""
    coreset = bundle_of(windows=Windows(np.array([[0, 1, 2]]), np.array([3])))
    found = read([{}, {"train": {"lr": 1e-9}}], bundle=coreset)
    assert found[0].on_set(True) != found[1].on_set(True)
    with pytest.raises(FosterError, match="student is not read, because the bundle holds real sequences; use model"):
        read([{}, {"student": {"lr": 0.1}}], bundle=coreset)


#: Values that differ from the defaults, where twice the default is none.
OTHER = {
    "encoder": "tinybert", "train_layers": "1", "precision": "bf16", "backbone": "gru4rec", "items": "id",
    "pooling": "cls", "loss": "bce", "item_start": "text", "dropout": 0.5, "vector_dropout": 0.5,
    "cache_precision": "bf16", "lora": 4, "lora_alpha": 3.0,
}  # fmt: skip
#: Settings of encoder layers that learn.
LAYERS = ("cache_precision", "lora", "lora_alpha")


@pytest.mark.parametrize("section", READ)
def test_every_setting_makes_another_configuration(read: Read, section: str) -> None:
    """Or is refused: none is taken and does nothing. Heads and layers stand for whatever a backbone makes of them."""
    kind, made = SECTIONS[section], bundle_of().made
    for field in dataclasses.fields(kind):
        default = getattr(replace(made, student=bundle_of().recipe), section)
        value = getattr(default, field.name)
        named = OTHER.get(field.name, (value or 3) * 2 if not isinstance(value, str) else "")
        own: dict[str, Any] = {field.name: not value if isinstance(value, bool) else named}
        if field.name in LAYERS:
            own = {"train_layers": "1", "lora": 2, **own}
        if field.name in IDLE and section == "student":
            with pytest.raises(FosterError, match="is for trainings with validation"):
                read([{}, {section: own}])
            continue
        same, changed = read([{}, {section: own}], full=True)
        assert getattr(changed.settings, section) == replace(default, **own) != getattr(same.settings, section)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
FIELDS = sorted({f.name for section in READ for f in dataclasses.fields(SECTIONS[section])})
SECTION = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), SCALARS, max_size=3)
ENTRY = st.dictionaries(
    st.sampled_from([*SECTIONS, "name", "prepare"]) | st.text(max_size=5), SECTION | SCALARS, max_size=3
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8
)
FILES = (
    st.text(alphabet=st.characters())
    | st.lists(ENTRY | VALUES, max_size=4).map(json.dumps)
    | st.lists(ENTRY, max_size=4).map(lambda entries: "\n".join(map(json.dumps, entries)))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES, st.booleans())
def test_any_file_is_configurations_or_a_line(read: Read, text: str, full: bool) -> None:
    try:
        found = read(text, full)
    except FosterError as error:
        assert error.message.startswith(("--configs", "configuration ")) and error.hint
        return
    assert len(found) >= 2
    assert len({config.name for config in found}) == len(found)
    for i, config in enumerate(found):
        assert config.settings not in [other.settings for other in found[:i]]
        assert "\n" not in config.name and config.name.encode()


def test_a_name_of_nothing_and_of_much() -> None:
    assert described({}) == described({"model": {}}) == "as the bundle"
    assert described({"model": {"encoder": "\x1b[31m" + "x" * 900}}).isprintable()
