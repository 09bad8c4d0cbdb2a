"""Makes the next element of an iterator in a thread while the present one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def ahead(source: Iterator[T]) -> Iterator[T]:
    """The elements of `source`, one of which is made ahead. What making one raises is raised where it would be used."""
    with ThreadPoolExecutor(1, thread_name_prefix="foster-ahead") as pool:
        coming = pool.submit(next, source, _END)
        while (found := coming.result()) is not _END:
            coming = pool.submit(next, source, _END)
            yield found  # type: ignore[misc]
