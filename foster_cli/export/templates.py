"""Prompt templates: a text file with sections defines the fields of a training example.

A line `[name]` begins a section. The lines after it are the section's text, without blank lines at either end.
Placeholders are `$name` or `${name}` from a fixed set (`string.Template`). No template is run as code, and nothing in
a title is taken for a placeholder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from foster_cli.console import clean
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.export.hard import Example, HardSet
from foster_cli.export.text import spoken

SHIPPED = Path(__file__).parent / "templates"
EXAMPLE_NAMES = ("history", "history_line", "history_ids", "length", "target", "target_id")
ITEM_NAMES = ("number", "title", "id")
_SECTION = re.compile(r"\[([A-Za-z_]+)\]\s*")


@dataclass(frozen=True)
class Prompt:
    """A parsed template. `fields`: section name to template; `item`: the template of one item of the history."""

    fields: dict[str, Template]
    item: Template

    def fill(self, hard: HardSet, example: Example) -> dict[str, str]:
        """Fill the fields for one example. An item without a title is shown by its id."""
        history, goal = example.history, example.target
        titles, ids = [_title(hard, i) for i in history], [spoken(hard.item_ids[i]) for i in history]
        lines = [
            self.item.substitute(number=str(k + 1), title=title, id=item)
            for k, (title, item) in enumerate(zip(titles, ids, strict=True))
        ]
        values = {
            "history": "\n".join(lines),
            "history_line": ", ".join(titles),
            "history_ids": ", ".join(ids),
            "length": str(len(history)),
            "target": _title(hard, goal),
            "target_id": spoken(hard.item_ids[goal]),
        }
        return {name: template.substitute(values) for name, template in self.fields.items()}


def _title(hard: HardSet, item: int) -> str:
    return spoken(hard.titles[item]) or spoken(hard.item_ids[item])


def read_template(path: Path | None, shipped: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> Prompt:
    """Read the template in `path`, or the one shipped as `shipped`, with the `needed` and any `optional` sections.

    Raises FosterError for a file that cannot be read, and for sections or placeholders that are missing or unknown.
    """
    path = path if path is not None else SHIPPED / f"{shipped}.txt"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8 text"
        hint = f"`foster export --format {shipped} --template-out FILE` writes one to edit"
        raise FosterError(f"--template {path}: {reason}", hint) from error
    return parse(text, str(path), ("item", *needed), optional)


def parse(text: str, where: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> Prompt:
    """Parse `text` as a Prompt. `where` names it in errors. Raises FosterError like `read_template`."""
    known = (*needed, *optional)
    sections: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        found = _SECTION.fullmatch(line)
        if found:
            name = found.group(1)
            if name not in known:
                raise FosterError(f"{where}, line {number}: unknown section [{name}]", f"known: {_brackets(known)}")
            if name in sections:
                raise FosterError(f"{where}, line {number}: [{name}] for the second time", "keep one of them")
            lines = sections[name] = []
        elif lines is not None:
            lines.append(line)
        elif line.strip() and not line.startswith("#"):
            raise FosterError(f"{where}, line {number}: text before the first section", "begin comments with #")
    missing = [name for name in needed if name not in sections]
    if missing:
        raise FosterError(f"{where}: the section [{missing[0]}] is missing", f"it needs {_brackets(needed)}")
    made = {name: _template("\n".join(body).strip("\n"), name, where) for name, body in sections.items()}
    return Prompt({name: template for name, template in made.items() if name != "item"}, made["item"])


def _brackets(names: tuple[str, ...]) -> str:
    return ", ".join(f"[{name}]" for name in names)


def _template(text: str, section: str, where: str) -> Template:
    """`text` as a template. Raises FosterError for a placeholder that is not known in `section`."""
    names = ITEM_NAMES if section == "item" else EXAMPLE_NAMES
    listed = ", ".join(f"${name}" for name in names)
    for found in Template.pattern.finditer(text):
        if found.group("invalid") is not None:
            raise FosterError(f"{where}: a lone $ in [{section}]", f"write $$ for a dollar sign; known: {listed}")
        name = found.group("named") or found.group("braced")
        if name is not None and name not in names:
            near = did_you_mean(name, names)
            meant = f"did you mean ${near}? Known: " if near else "known: "
            raise FosterError(f"{where}: unknown placeholder ${clean(name)} in [{section}]", meant + listed)
    return Template(text)
