"""The commands on a device, each small, several at once: what of foster fails there, all of it in one go.

    python benches/gpu/smoke.py --device cuda --encoder FOLDER --data shop.parquet [--jobs 8] [--limit 90]

One line per command; of one that fails, the end of what it wrote. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

TINY = "--epochs 1 --budget 4 --length 6"
STEPS = "--student-steps 20 --steps 2 --draws 1 --check-every 2 --check-seeds 1"
#: What is given to `foster distill` beside TINY. The first row's bundle is what the commands after it read.
DISTILL = [
    STEPS,
    *(f"{STEPS} --backbone {name}" for name in ("sasrec", "bert4rec", "gru4rec", "narm", "hstu", "ligr")),
    *(f"--method {name}" for name in ("random", "kcenter", "herding", "dealrec", "nacs", "rollout")),
    "--method td3 --student-steps 20 --steps 2 --check-every 2 --check-seeds 1",
    f"{STEPS} --items text --lexical 0",
    f"{STEPS} --items id",
    f"{STEPS} --train-layers all",
    f"{STEPS} --train-layers 1 --precision bf16",
    f"{STEPS} --train-layers 1 --lora 2",
    f"{STEPS} --teacher text,item_knn,ease",
    f"{STEPS} --outer bome",
    f"{STEPS} --loss bce --outer bome --outer-loss softmax --barrier loss",
    f"{STEPS} --init guided,real,random,rollout",
    f"{STEPS} --init rollout --targets next --no-mix",
    f"{STEPS} --subset kmeans --items-per-step 40 --outer bome --dh-form mean --reset random",
]
AFTER = [
    "eval {bundle} --data {data} --rows all --seeds 1 --k 10",
    "eval {bundle} --data {data} --rows synthetic,untrained --seeds 1 --k 10 --backbone gru4rec --out {tmp}/gru.json",
    "compare {data} --methods foster,random --seeds 1 --rates 1e-3 --encoder {encoder} --out {tmp}/compare --steps 2 "
    f"--draws 1 --student-steps 20 {TINY}",
    "bench distill {data} --encoder {encoder} --rows foster-few-last --steps 1 --out {tmp}/bench",
    "export {bundle} --data {data} --format recbole --out {tmp}/recbole --measure",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for one command")
    given = parser.parse_args()
    threads = {"OMP_NUM_THREADS": "1", "FOSTER_OPS": os.environ.get("FOSTER_OPS", "reference")}
    with tempfile.TemporaryDirectory() as folder:
        fill = {"data": given.data, "encoder": given.encoder, "tmp": folder, "bundle": f"{folder}/0"}

        def run(command: str) -> tuple[str, int, float, str]:
            began = time.perf_counter()
            words = [sys.executable, "-m", "foster_cli", *command.format(**fill).split(), "--device", given.device]
            try:
                done = subprocess.run(
                    words,
                    env={**os.environ, **threads},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=given.limit,
                )
                code, said = done.returncode, done.stdout
            except subprocess.TimeoutExpired as late:
                code, said = 124, (late.stdout or b"").decode(errors="replace")
            return command, code, time.perf_counter() - began, said

        made = [f"distill {{data}} --out {{tmp}}/{i} --encoder {{encoder}} {TINY} {o}" for i, o in enumerate(DISTILL)]
        failed = 0
        with ThreadPoolExecutor(given.jobs) as pool:
            first = run("--debug " + made[0])
            others = pool.map(run, ["--debug " + command for command in [*made[1:], *AFTER]])
            for command, code, seconds, said in itertools.chain([first], others):
                short = command.replace("--debug ", "").replace(TINY, "").replace("--encoder {encoder} ", "")
                print(f"rc {code:3} {seconds:5.0f} s  {short}", flush=True)
                if code:
                    failed += 1
                    print("\n".join("    " + line for line in said.splitlines()[-25:]), flush=True)
        print(f"smoke: {len(made) + len(AFTER)} commands, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
