"""Files for tuning language models: hard sequences in, a prompt and its answer for every position out (JSON lines).

    alpaca        {"instruction": …, "input": …, "output": …}
    chat          {"messages": [{"role": "system" | "user" | "assistant", "content": …}, …]}
    llamafactory  a folder with the alpaca lines and the dataset_info.json that names them

What the fields say is in a template (`export.templates`). Titles are put on one line; what a model would read as a
control token is broken up (`export.text.spoken`).
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
    """Write NAME.jsonl and dataset_info.json; the dataset goes by the folder's name."""
    with (folder / f"{job.name}.jsonl").open("wb") as file:
        write_alpaca(job, file)
    info = {job.name: {"file_name": f"{job.name}.jsonl", "formatting": "alpaca", "columns": COLUMNS}}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
