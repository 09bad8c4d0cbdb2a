"""The documents: every command has a page, every link leads somewhere, every command line in them exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from calling import commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`(foster [a-z][^`\n]*)`")


#: Each command (`distill`, `bench train`) with its options.
COMMANDS = {
    name: {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
    for name, command in commands().items()
}


def _lines(text: str) -> list[str]:
    """The `foster …` command lines of a page, without comments and placeholders' dots."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if re.match(r"(\w+=\S+ )*foster [a-z]", line)]
    return [line.split("  #")[0] for line in lines] + INLINE.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_command_lines_exist(page: Path) -> None:
    for line in _lines(page.read_text(encoding="utf-8")):
        words = [w for w in shlex.split(line.split(" && ")[0].split(" | ")[0]) if "=" not in w.split("--")[0]]
        name = next((n for n in (" ".join(words[1:3]), words[1]) if n in COMMANDS), None)
        if name is None:
            assert words[1].isupper() or words[1].startswith("--") or words[1] == "bench", line  # `foster COMMAND`
            continue
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in COMMANDS[name], f"{line}: {word}"


def test_every_command_has_a_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `foster ([a-z -]+)` \| [^|]* \| \[[^\]]+\]\(([\w-]+\.md)\) \|$", index, re.M))
    assert set(rows) == set(COMMANDS)
    for command, page in rows.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert f"foster {command}" in text, (command, page)
