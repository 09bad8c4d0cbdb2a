"""The data that a bundle or an interrupted run was made from, read again, perhaps from another place or prepared.

In: paths, the preparation and the hash that were recorded. Out: a `Dataset` with that hash, or a FosterError.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foster_cli.data.prepare import load_dataset
from foster_cli.data.readers.source import plain_path
from foster_cli.data.schema import Dataset
from foster_cli.data.store import is_prepared
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings


def read_again(paths: Sequence[Path], prepare: PrepareSettings) -> Dataset:
    """The dataset in `paths`. The recorded options `prepare` are for raw tables: a prepared file is read as it is."""
    if len(paths) == 1 and is_prepared(paths[0]):
        return load_dataset(paths)
    return load_dataset(paths, prepare)


def same_data(
    paths: Sequence[Path], prepare: PrepareSettings, recorded: str, what: str, missing: str, other: str
) -> Dataset:  # fmt: skip
    """The dataset in `paths`, if its hash is the `recorded` one.

    `what`: the sentence that says what was made of it, such as `the run began with`; `missing`, `other`: the hints for
    a path that is gone, and for other data.
    """
    gone = [path for path in paths if plain_path(path) and not path.exists()]
    if gone:
        raise FosterError(f"{gone[0]}: no such file ({what} it)", missing)
    found = read_again(paths, prepare)
    if found.hash != recorded:
        raise FosterError(f"{what} other data than {', '.join(map(str, paths))} (the hashes differ)", other)
    return found
