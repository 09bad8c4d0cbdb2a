"""What `foster preprocess` costs as the table grows, and beside it RecBole and plain pandas on the same table.

    OMP_NUM_THREADS=1 python benches/preprocess.py --recbole /tmp/rb/bin/python --out benches/results/preprocess.json

Each size is a shop of about that many interactions (`foster sample --rows`, seed 0), with a user per 50 and an item per
200 of them (`--per-user`, `--per-item`), as parquet and as CSV. With 200 interactions per item nearly all have five, so
that the 5-core is the whole table; with `--per-item 10` it takes several rounds. Every program runs in a process of its
own. In a row: `seconds` by the wall clock from its start to its end, `processor_s`, `peak_mb` (the process's ru_maxrss,
MiB), and what was kept. `import_s` is the part of `seconds` that a script takes to import its libraries. With
`--repeats`, the fastest run counts for time, and the largest for memory.

- foster: `foster preprocess TABLE --out X.parquet --k-core 5`, with more options in `--args="--memory 4GB"`.
- pandas: the whole table is read, sorted by time, its repeated (user, item) pairs dropped, cut to the 5-core, split at
  the 0.8 and 0.9 quantiles of time, and written as parquet.
- recbole: loads users, items and times from its own format, an atomic .inter file (made beforehand, not counted), drops
  repeated pairs, keeps users and items with 5 or more interactions, and splits 8:1:1 by time (`eval_args` TO). No
  texts, and nothing is written. Without `--recbole` it is left out.

`over_foster` is the ratio of a row's seconds to foster's for the same size and format; for RecBole, foster's for CSV.
foster is measured at all `--sizes`, the others only at those that are also in `--beside`.

RecBole 1.2.1 needs an environment of its own, which can borrow the large packages of foster's:

    python -m venv /tmp/rb
    echo "$PWD"/.venv/lib/python3.11/site-packages > /tmp/rb/lib/python3.11/site-packages/foster.pth
    /tmp/rb/bin/pip install --no-deps recbole==1.2.1 colorlog==4.7.2 colorama==0.4.4 texttable tabulate thop

Names that NumPy 2 has no longer are given back to it before RecBole is imported.

The file is written after every row, and rows in it that were measured on the same machine with the same options are not
measured again. A program that fails, for want of memory for example, is a row with its exit code, and is tried again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Nothing large is imported here: RecBole's interpreter runs this file as well.

SIZES, BESIDE = (1_000_000, 10_000_000), (1_000_000, 10_000_000)
FORMATS = ("parquet", "csv")
CORE = 5
COLUMNS = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
#: Names that RecBole 1.2.1 uses and NumPy 2 has no longer.
OLD_NAMES = {"float_": "float64", "complex_": "complex128", "object_": "object_", "str_": "str_", "unicode_": "str_"}
#: Runs a command and prints what it used. A small process of its own, since a new process counts the memory of the one
#: that started it in its ru_maxrss.
LAUNCHER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
said = child.stdout.read().decode()
_, status, used = os.wait4(child.pid, 0)
print(json.dumps({"exit": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - began,
    "processor_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024, "said": said}))
"""


def shape(size: int, per_user: int, per_item: int) -> tuple[int, int]:
    """Users and items of a shop of `size` interactions: as many items as `foster sample` asks for, or more."""
    return size // per_user, max(size // per_item, 8 * per_user)


def with_pandas(table: Path, out: Path) -> dict[str, Any]:
    """Read `table`, prepare it and write it to `out`."""
    began = time.perf_counter()
    import pandas as pd

    imported = time.perf_counter() - began
    rows = pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)
    rows = rows.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "item_id"])
    while True:
        sizes = [rows.groupby(column, sort=False)[column].transform("size") for column in ("user_id", "item_id")]
        keep = (sizes[0] >= CORE) & (sizes[1] >= CORE)
        if keep.all():
            break
        rows = rows[keep]
    at = rows["timestamp"].quantile([0.8, 0.9]).to_numpy()
    rows["split"] = (rows["timestamp"] >= at[0]).astype("int8") + (rows["timestamp"] >= at[1]).astype("int8")
    rows.to_parquet(out, index=False)
    return {
        "import_s": imported,
        "interactions": len(rows),
        "users": rows["user_id"].nunique(),
        "items": rows["item_id"].nunique(),
    }


def with_recbole(folder: Path, name: str) -> dict[str, Any]:
    """Load `folder`/name/name.inter, filter and split it."""
    began = time.perf_counter()
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    for old, new in OLD_NAMES.items():
        if not hasattr(np, old):
            setattr(np, old, getattr(np, new))
    from recbole.config import Config
    from recbole.data import create_dataset

    imported = time.perf_counter() - began
    with contextlib.redirect_stdout(sys.stderr):
        config = Config(
            model="BPR",
            dataset=name,
            config_dict={
                "data_path": str(folder),
                "use_gpu": False,
                "load_col": {"inter": list(COLUMNS)},
                "rm_dup_inter": "first",
                "user_inter_num_interval": f"[{CORE},inf)",
                "item_inter_num_interval": f"[{CORE},inf)",
                "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none", "mode": "full"},
            },
        )
        data = create_dataset(config)
        # the numbers count an id of padding
        kept = {"interactions": data.inter_num, "users": data.user_num - 1, "items": data.item_num - 1}
        parts = data.build()
    return {"import_s": imported, **kept, "parts": [part.inter_num for part in parts]}


def make_atomic(table: Path, out: Path) -> dict[str, Any]:
    """Write the parquet file `table` as RecBole's .inter file `out`."""
    from pyarrow import csv, parquet

    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        file.write(("\t".join(COLUMNS.values()) + "\n").encode())
        for batch in parquet.ParquetFile(table).iter_batches(columns=list(COLUMNS)):
            csv.write_csv(batch, file, options)
    return {}


def measured(command: list[str], repeats: int = 1) -> dict[str, Any]:
    """What `repeats` runs of `command` used, and the JSON object that is the last line of its output."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *command], check=True, stdout=subprocess.PIPE, text=True
        )
        runs.append({**json.loads(done.stdout), "load": os.getloadavg()[0]})
        if runs[-1]["exit"]:
            break
    failed = [run for run in runs if run["exit"]]
    fastest = {**(failed or sorted(runs, key=lambda run: run["seconds"]))[0]}
    fastest["peak_mb"] = max(run["peak_mb"] for run in runs)
    lines = fastest.pop("said").splitlines()
    said = json.loads(lines[-1]) if lines and not fastest["exit"] else {}
    names = ("import_s", "interactions", "users", "items", "parts")
    return {**fastest, **{name: said[name] for name in names if name in said}}


def make_table(asked: dict[str, Any], path: Path) -> Path:
    """The shop of a row in the file `path`, unless it is there."""
    if not path.exists():
        size = asked["asked"]
        users, items = shape(size, asked["per_user"], asked["per_item"])
        numbers = ["--rows", str(size), "--users", str(users), "--items", str(items)]
        command = [sys.executable, "-m", "foster_cli", "sample", *numbers, "--out", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def one(asked: dict[str, Any], folder: Path, recbole: str | None) -> dict[str, Any]:
    """The row of one program, format and size."""
    size, program, ending = asked["asked"], asked["program"], asked["format"]
    script = str(Path(__file__).resolve())
    out, name = folder / "prepared.parquet", f"shop-{size}-{asked['per_user']}-{asked['per_item']}"
    if program == "recbole":
        assert recbole is not None
        atomic = folder / name / f"{name}.inter"
        if not atomic.exists():
            table = make_table(asked, folder / f"{name}.parquet")
            measured([sys.executable, script, "--child", "atomic", str(table), str(atomic)])
        found = measured([recbole, script, "--child", "recbole", str(folder), name], asked["repeats"])
    else:
        table = make_table(asked, folder / f"{name}.{ending}")
        if program == "pandas":
            command = [sys.executable, script, "--child", "pandas", str(table), str(out)]
        else:
            own = ["preprocess", str(table), "--out", str(out), "--k-core", str(CORE), "--force", "--json"]
            command = [sys.executable, "-m", "foster_cli", *own, *asked["args"].split()]
        found = measured(command, asked["repeats"])
        if out.exists():
            found["out_mb"] = out.stat().st_size / 2**20
            out.unlink()
    return {**asked, **found}


def wanted(a: argparse.Namespace) -> list[dict[str, Any]]:
    """What identifies each row, in the order of measuring."""
    rows = []
    for size in a.sizes:
        kinds = [("foster", ending) for ending in FORMATS]
        if size in a.beside:
            kinds += [("pandas", ending) for ending in FORMATS]
            kinds += [("recbole", "inter")] * (a.recbole is not None)
        for program, ending in kinds:
            own = a.args if program == "foster" else ""
            table = {"asked": size, "per_user": a.per_user, "per_item": a.per_item, "format": ending}
            rows.append({**table, "program": program, "args": own, "repeats": a.repeats})
    return rows


def with_ratios(rows: list[dict[str, Any]], args: str) -> list[dict[str, Any]]:
    """`rows` with the ratio of each to foster's with `args`, if that is there."""

    def table(row: dict[str, Any]) -> tuple[Any, ...]:
        ending = "csv" if row["format"] == "inter" else row["format"]
        return row["asked"], row["per_user"], row["per_item"], ending

    own = {
        table(row): row["seconds"]
        for row in rows
        if row["program"] == "foster" and row["args"] == args and not row["exit"]
    }
    done = []
    for row in rows:
        plain = {name: value for name, value in row.items() if name != "over_foster"}
        if row["program"] != "foster" and not row["exit"] and table(row) in own:
            plain["over_foster"] = row["seconds"] / own[table(row)]
        done.append(plain)
    return done


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """By size and shape, and foster first."""
    return row["asked"], row["per_user"], row["per_item"], row["program"], row["format"], row["args"]


def kept(out: Path | None) -> list[dict[str, Any]]:
    """The rows of `out` that were measured on this machine and did not fail."""
    from foster_cli.runtime import machine

    if out is None or not out.exists():
        return []
    found = json.loads(out.read_text())
    same = found["machine"] == json.loads(json.dumps(machine()))
    return [row for row in found["rows"] if same and not row["exit"]]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| interactions | users | items | table | program | s | of it imports, s | processor, s | peak, MiB "
        "| by foster's time | kept |",
        "|---:" * 3 + "|---" * 2 + "|---:" * 6 + "|",
    ]
    for r in rows:
        program = " ".join([r["program"], r["args"]]).rstrip()
        users, items = shape(r["asked"], r["per_user"], r["per_item"])
        start = f"| {r['asked']:,} | {users:,} | {items:,} | {r['format']} | {program} | "
        if r["exit"]:
            lines.append(f"{start}failed: {r['exit']} | | | {r['peak_mb']:,.0f} | | |")
            continue
        imports = f"{r['import_s']:.1f}" if "import_s" in r else ""
        ratio = f"{r['over_foster']:.2f}" if "over_foster" in r else ""
        lines.append(
            f"{start}{r['seconds']:.1f} | {imports} | {r['processor_s']:.1f} | {r['peak_mb']:,.0f} | {ratio} | "
            f"{r['interactions']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every row in turn, write the JSON after each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="about so many interactions")
    parser.add_argument("--beside", type=int, nargs="*", default=BESIDE, help="sizes for pandas and RecBole")
    parser.add_argument("--per-user", type=int, default=50, help="interactions per user")
    parser.add_argument("--per-item", type=int, default=200, help="interactions per item, at most")
    parser.add_argument("--recbole", help="the interpreter of an environment with RecBole")
    parser.add_argument("--args", default="", help='more options of foster preprocess, such as --args="--memory 4GB"')
    parser.add_argument("--repeats", type=int, default=1, help="runs of every program")
    parser.add_argument("--data", type=Path, help="folder in which tables are kept; by default a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        kind, first, second = a.child
        if kind == "recbole":
            found = with_recbole(Path(first), second)
        else:
            found = (with_pandas if kind == "pandas" else make_atomic)(Path(first), Path(second))
        print(json.dumps(found))
        return
    from record import record

    rows = kept(a.out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (a.data or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for asked in wanted(a):
            if any(asked.items() <= row.items() for row in rows):
                continue
            rows.append(one(asked, folder, a.recbole))
            rows = sorted(with_ratios(rows, a.args), key=order)
            with contextlib.redirect_stdout(io.StringIO()):
                record(rows, a.out)
            print(markdown([row for row in rows if asked.items() <= row.items()]).splitlines()[-1], file=sys.stderr)
    print(markdown(rows))


if __name__ == "__main__":
    main()
