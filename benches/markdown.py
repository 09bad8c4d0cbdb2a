"""A results table in Markdown from the JSON of `foster eval`.

python benches/markdown.py benches/results/movielens-small-b20.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Print the table of each file that is named."""
    for name in sys.argv[1:]:
        found = json.loads(Path(name).read_text())
        metrics = [m for m in next(iter(found["rows"].values())) if "@" in m]
        print("| | " + " | ".join(metrics) + " | coverage | train s |")
        print("|---" * (len(metrics) + 3) + "|")
        for row, value in found["rows"].items():
            cells = [f"{value[m]['mean']:.4f} [{value[m]['low']:.4f}, {value[m]['high']:.4f}]" for m in metrics]
            print(f"| {row} | " + " | ".join(cells) + f" | {value['coverage']:.0%} | {value['train_seconds']:.0f} |")
        for pair, value in found["paired"].items():
            print(
                f"\n{pair}: "
                + ", ".join(f"{m} {v['diff']:+.4f} [{v['low']:+.4f}, {v['high']:+.4f}]" for m, v in value.items())
            )


if __name__ == "__main__":
    main()
