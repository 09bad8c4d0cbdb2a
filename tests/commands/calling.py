"""What the tests of the commands share that is no fixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Said:
    """How a call ended and what it printed."""

    code: int
    out: str
    err: str


Foster = Callable[..., Said]


def shop(users: int = 30, items: int = 25) -> pd.DataFrame:
    """Every user buys ten items, one a day; titles of two words."""
    rows = [
        (f"u{u:02d}", f"i{(7 * u + 3 * t) % items:02d}", 1_600_000_000 + 86_400 * t + u)
        for u in range(users)
        for t in range(10)
    ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    words = ["red", "blue", "green", "small", "large"]
    table["title"] = [f"{words[int(i[1:]) % 5]} thing {i[1:]}" for i in table["item_id"]]
    return table
