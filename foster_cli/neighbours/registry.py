"""The models by the names that rows of tables have: each as the function that chooses its settings on validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.neighbours import ease, item_knn, mixed, recent, tfidf
from foster_cli.neighbours.choice import Chosen

#: Takes the data, of which the training split is read, and the validation cases.
Choose = Callable[[Dataset, Cases], Chosen[Any, Any]]

CHOOSE: dict[str, Choose] = {
    "item_knn": item_knn.choose,
    "ease": ease.choose,
    "knn_tfidf": mixed.choose,
    "tfidf": tfidf.choose,
    "recent_popularity": recent.choose,
}
