"""A results table in Markdown from the JSON of `foster eval`.

python benches/markdown.py benches/results/movielens-small.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from foster_cli.evaluate.formats import interval, ranked_words
from foster_cli.ranking.metrics import shown

#: Metrics with their intervals; the others are means alone.
MAIN = ("R@10", "N@10")


def cell(entry: dict[str, Any] | None, main: bool) -> str:
    """A metric of a row; a dash if no case has it."""
    if entry is None:
        return "-"
    return interval(entry) if main else f"{entry['mean']:.4f}"


def main() -> None:
    """Print the table of each file that is named."""
    for name in sys.argv[1:]:
        found = json.loads(Path(name).read_text())
        metrics = [*MAIN, *[m for m in shown((10, 20)) if m not in MAIN]]
        print(ranked_words(found), "\n")
        print("| | " + " | ".join(metrics) + " | train s |")
        print("|---" * (len(metrics) + 2) + "|")
        for row, value in found["rows"].items():
            cells = [cell(value[m], m in MAIN) for m in metrics]
            print(f"| {row} | " + " | ".join(cells) + f" | {value['train_seconds']:.0f} |")
        print()
        for pair, value in found["paired"].items():
            print(f"- {pair}: " + ", ".join(f"{m} {interval(value[m], '+')}" for m in MAIN))


if __name__ == "__main__":
    main()
