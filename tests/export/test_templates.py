"""Prompt templates: the shipped ones, a user's own, and everything that is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.errors import FosterError
from foster_cli.export.hard import Example, HardSet
from foster_cli.export.templates import EXAMPLE_NAMES, parse, read_template
from foster_cli.export.text import spoken

NEEDED = ("item", "instruction", "input", "output")
WHOLE = "[item]\n$title\n[instruction]\nx\n[input]\n{}\n[output]\n$target\n"


def hard(titles: list[str]) -> HardSet:
    one = np.zeros(1, np.int64)
    ids = [f"id {k}" for k in range(len(titles))]
    return HardSet(ids, titles, one, one, 1, np.array([[0, 1]]), np.ones((1, 2)), np.array([2]))


def filled(text: str, titles: list[str]) -> dict[str, str]:
    return parse(text, "x", NEEDED).fill(hard(titles), Example(0, 1, [0, 1], 2, 0.5))


def test_every_placeholder() -> None:
    text = (
        "# a comment\n\n[item]\n<$number|$title|${id}>\n\n[instruction]\nA $$5 $length\n\nB\n\n[input]\n$history\n--\n"
    )
    text += "$history_line; $history_ids\n[output]\n$target ($target_id)\n"
    found = filled(text, ["One", "Two", "Three"])
    assert found == {
        "instruction": "A $5 2\n\nB",
        "input": "<1|One|id 0>\n<2|Two|id 1>\n--\nOne, Two; id 0, id 1",
        "output": "Three (id 2)",
    }


def test_titles_are_never_read_as_placeholders() -> None:
    hostile = ["$target", "${history} {0.__class__} %s", "$unknown"]
    found = filled(WHOLE.format("$history"), hostile)
    assert found["input"] == "$target\n${history} {0.__class__} %s"
    assert found["output"] == "$unknown"


def test_an_item_without_a_title_goes_by_its_id() -> None:
    assert filled(WHOLE.format("$history"), ["", " \n", "\x00"])["input"] == "id 0\nid 1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            WHOLE.format("$histroy"),
            r"unknown placeholder \$histroy in \[input\]; did you mean \$history\? Known: \$hist",
        ),
        (WHOLE.format("$zzz"), r"unknown placeholder \$zzz in \[input\]; known: \$history, \$history_line"),
        (WHOLE.format("$title"), r"unknown placeholder \$title in \[input\]"),
        (WHOLE.format("${target.__class__}"), r"a lone \$ in \[input\]; write \$\$"),
        (WHOLE.format("5 $"), r"a lone \$ in \[input\]"),
        (WHOLE.format("x") + "[output]\n", r"line 9: \[output\] for the second time"),
        (WHOLE.format("x") + "[system]\n", r"line 9: unknown section \[system\]; known: \[item\], \[instruction\]"),
        ("hello\n" + WHOLE.format("x"), "line 1: text before the first section"),
        ("[item]\n$title\n[input]\nx\n[output]\ny\n", r"the section \[instruction\] is missing; it needs"),
        ("", r"the section \[item\] is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(FosterError, match=said) as error:
        parse(text, "my.txt", NEEDED)
    assert "\n" not in str(error.value) and str(error.value).startswith("my.txt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (tmp_path / "bytes", "not UTF-8")):
        with pytest.raises(FosterError, match=rf"--template .*{said}.*--template-out"):
            read_template(path, "alpaca", NEEDED[1:])


def test_the_shipped_templates_use_what_they_explain() -> None:
    for name, fields, optional in (
        ("alpaca", ("instruction", "input", "output"), ()),
        ("chat", ("user", "assistant"), ("system",)),
    ):
        prompt = read_template(None, name, fields, optional)
        assert set(prompt.fields) == {*fields, *optional}
        text = (Path(read_template.__code__.co_filename).parent / "templates" / f"{name}.txt").read_text()
        assert all(f"${placeholder}" in text for placeholder in EXAMPLE_NAMES)


@given(st.text(max_size=40))
def test_a_title_in_a_prompt_is_one_line_of_plain_words(title: str) -> None:
    said = spoken(title)
    assert len(said.splitlines()) <= 1 and said == said.strip() and "  " not in said
    assert [c for c in said if c.isalnum()] == [c for c in title if c.isalnum()]


@pytest.mark.parametrize(
    "token", ["<|im_start|>", "<|endoftext|>", "<s>", "</s>", "<start_of_turn>", "<pad>", "[INST]", "[/INST]", "[PAD]"]
)
def test_control_tokens_are_broken_up(token: str) -> None:
    said = spoken(f"a {token}b")
    assert token not in said and said.replace(" ", "") == f"a{token}b"


@pytest.mark.parametrize("title", ["I <3 you", "[REC] 2", "a < b", "Q[1]", "5 > 4"])
def test_other_titles_are_not_touched(title: str) -> None:
    assert spoken(title) == title
