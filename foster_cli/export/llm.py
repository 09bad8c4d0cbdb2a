"""Writes hard sequences for fine-tuning language models: a prompt and its answer per position (JSON lines).

    alpaca        {"instruction": …, "input": …, "output": …}
    chat          {"messages": [{"role": "system" | "user" | "assistant", "content": …}, …]}
    llamafactory  a folder with the alpaca lines and the dataset_info.json that names them

A template (`export.templates`) gives the text of the fields. Titles are put on one line, and text that a model would
read as a control token is broken up (`export.text.spoken`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from foster_cli.export.templates import read_template
from foster_cli.export.text import json_line

if TYPE_CHECKING:
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink

ALPACA = ("instruction", "input", "output")
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}


def write_alpaca(job: Job, file: Sink) -> None:
    """Write a line per example."""
    prompt = read_template(job.template, "alpaca", ALPACA)
    for example in job.hard.examples():
        fields = prompt.fill(job.hard, example)
        file.write(json_line({name: fields[name] for name in ALPACA}))


def write_chat(job: Job, file: Sink) -> None:
    """Write a conversation per example."""
    prompt = read_template(job.template, "chat", ("user", "assistant"), ("system",))
    for example in job.hard.examples():
        fields = prompt.fill(job.hard, example)
        roles = [role for role in ("system", "user", "assistant") if role in fields]
        file.write(json_line({"messages": [{"role": role, "content": fields[role]} for role in roles]}))


def write_llamafactory(job: Job, folder: Path) -> None:
    """Write NAME.jsonl and dataset_info.json. The dataset has the name of the folder."""
    with (folder / f"{job.name}.jsonl").open("wb") as file:
        write_alpaca(job, file)
    info = {job.name: {"file_name": f"{job.name}.jsonl", "formatting": "alpaca", "columns": COLUMNS}}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
