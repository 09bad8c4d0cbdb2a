"""The state of a long run on disk: trees of tensors and plain values, each complete or absent even after a crash.

In: a name and a tree (dicts, lists, tuples, numbers, strings, None, tensors, numpy arrays). Out: the same tree, bit for
bit. Each name has two files, of which the second is written last:

    <name>-<count>.safetensors   the tensors (no file if there are none)
    <name>-<count>.json          everything else, with the sha256 of the tensors' file and of itself

Each is written under a temporary name, flushed and renamed; the previous count is removed only then. No pickle is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from foster_cli.errors import FosterError
from foster_cli.files import disk_error, save_tensors, sha256_json, sync_folder, write_whole

#: Increased whenever the states of an older foster can no longer be read.
FORMAT = 1
#: The largest share of a run's time that writing states may take.
SHARE = 0.02
_FILE = re.compile(r"(.+)-(\d{8})\.(?:json|safetensors)")


class Resumable(Protocol):
    """An object whose state can be stored and restored: `load_state_dict(state_dict())` changes no later result."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state: all that later results depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        ...


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """`tree` as a JSON-able value, and its tensors by path (copies on the CPU). TypeError for any other type."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {"$": "tensor", "of": path}
        if isinstance(value, np.ndarray):
            tensors[path] = torch.from_numpy(np.ascontiguousarray(value)).clone()
            return {"$": "array", "of": path}
        if isinstance(value, Mapping):
            if all(isinstance(k, str) for k in value) and "$" not in value:
                return {k: walk(v, f"{path}/{k}") for k, v in value.items()}
            pairs = [[walk(k, f"{path}/{i}k"), walk(v, f"{path}/{i}")] for i, (k, v) in enumerate(value.items())]
            return {"$": "map", "of": pairs}
        if isinstance(value, (list, tuple)):
            items = [walk(v, f"{path}/{i}") for i, v in enumerate(value)]
            return {"$": "tuple", "of": items} if isinstance(value, tuple) else items
        if isinstance(value, float) and not math.isfinite(value):
            return {"$": "float", "of": repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{path}: a {type(value).__name__} cannot be kept")

    return walk(tree, ""), tensors


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `pack` took apart. Raises KeyError, TypeError or ValueError for input that `pack` did not write."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {k: unpack(v, tensors) for k, v in value.items()}
    kind, of = value["$"], value["of"]
    if kind in ("tensor", "array"):
        return tensors[of].clone() if kind == "tensor" else tensors[of].clone().numpy()
    if kind == "map":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in of}
    if kind == "tuple":
        return tuple(unpack(v, tensors) for v in of)
    if kind == "float":
        return float(of)
    raise ValueError(f"an unknown mark {kind!r}")


def to_bytes(tree: Any) -> tuple[bytes, bytes | None]:
    """The contents of a tree's two files: JSON, and safetensors (None without tensors)."""
    value, tensors = pack(tree)
    binary = save(tensors) if tensors else None
    body = {"format": FORMAT, "tree": value, "tensors": None if binary is None else hashlib.sha256(binary).hexdigest()}
    text = json.dumps({"sha256": sha256_json(body), **body}, ensure_ascii=False, allow_nan=False)
    return text.encode(), binary


def from_bytes(text: bytes, binary: bytes | None) -> Any:
    """The tree in two files' contents. Raises ValueError if one of them has changed."""
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or body.pop("sha256", None) != sha256_json(body) or body["format"] != FORMAT:
            raise ValueError("the JSON is not as it was written")
        if body["tensors"] is None:
            return unpack(body["tree"], {})
        if binary is None or hashlib.sha256(binary).hexdigest() != body["tensors"]:
            raise ValueError("the tensors are not as they were written")
        return unpack(body["tree"], load(binary))
    except (KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"not a state ({type(error).__name__}: {error})") from error


class Store:
    """Trees by name in `folder`, which the first write creates.

    `share`: the largest part of the time since the last write that the next one may take (see `due`).
    """

    def __init__(self, folder: Path, share: float = SHARE) -> None:
        self.folder, self.share = folder, share
        self.cost, self.opened = 0.0, time.perf_counter()
        self.last, self.earlier = self.opened, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the store was opened, plus those of earlier processes (see `continue_clock`)."""
        return self.earlier + time.perf_counter() - self.opened

    def continue_clock(self) -> None:
        """Add the seconds of earlier processes to `elapsed`, up to their last write here."""
        names = {match[1] for p in self._files() if (match := _FILE.fullmatch(p.name))}
        self.earlier += max((found["elapsed"] for name in names if (found := self._last(name))), default=0.0)

    def spent(self, seconds: float) -> None:
        """Add to `elapsed` the `seconds` that another process took for a result which was only read here."""
        self.earlier += seconds

    def due(self) -> bool:
        """Whether a write as slow as the last one would take at most `share` of the time since then."""
        return time.perf_counter() - self.last >= self.cost / self.share

    def write(self, trees: Mapping[str, Any]) -> None:
        """Store each tree under its name, in order. Raises FosterError if the disk fails; the trees that were stored
        under these names before then remain."""
        began = time.perf_counter()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, tree in trees.items():
                self._write(name, *to_bytes({"elapsed": self.elapsed, "tree": tree}))
        except OSError as error:
            raise disk_error(error, self.folder, "free some space and go on; what was kept before is whole") from error
        self.last = time.perf_counter()
        self.cost = self.last - began

    def _write(self, name: str, text: bytes, binary: bytes | None) -> None:
        before = self._counts(name)
        stem = f"{name}-{max(before, default=0) + 1:08d}"
        if binary is not None:
            write_whole(self.folder / f"{stem}.safetensors", binary)
        write_whole(self.folder / f"{stem}.json", text)
        sync_folder(self.folder)
        for count in before:
            for ending in ("json", "safetensors"):
                (self.folder / f"{name}-{count:08d}.{ending}").unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _counts(self, name: str) -> list[int]:
        """The counts of the files of `name`, complete or not."""
        found = [_FILE.fullmatch(p.name) for p in self._files()]
        return sorted({int(match[2]) for match in found if match and match[1] == name})

    def _last(self, name: str) -> dict[str, Any] | None:
        """The newest complete record of `name`: its tree, and `elapsed` when it was written."""
        for count in reversed(self._counts(name)):
            stem = self.folder / f"{name}-{count:08d}"
            with contextlib.suppress(ValueError, FileNotFoundError):
                tensors = stem.with_suffix(".safetensors")
                binary = tensors.read_bytes() if tensors.exists() else None
                found: dict[str, Any] = from_bytes(stem.with_suffix(".json").read_bytes(), binary)
                return found
        return None

    def read(self, name: str) -> Any:
        """The newest complete tree under `name`; None if there is none."""
        found = self._last(name)
        return None if found is None else found["tree"]

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        if x.numel():
            digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checked(tensors: dict[str, Tensor], path: Path) -> None:
    """`files.save_tensors` with a sha256 of names, types, shapes and values in the file's metadata."""
    save_tensors(tensors, path, {"sha256": _tensors_sha256(tensors)})


def load_checked(path: Path) -> dict[str, Tensor]:
    """The tensors that `save_checked` wrote, or those of a file without a sum (an older foster's). Raises ValueError if
    the sum differs, SafetensorError if it is no such file."""
    with safe_open(path, "pt") as file:
        stated = (file.metadata() or {}).get("sha256")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if stated is not None and stated != _tensors_sha256(tensors):
        raise ValueError(f"{path}: its sha256 differs")
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer from its `state_dict`. Its moments get the memory layout that the first step gives them,
    because a fused step reads a parameter and its moments as flat memory, in parallel."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, x in moments.items():
            if isinstance(x, Tensor) and x.shape == parameter.shape and x.dim():
                moments[name] = torch.zeros_like(parameter, dtype=x.dtype).copy_(x)


def numpy_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a numpy generator."""
    return dict(rng.bit_generator.state)


def set_numpy(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Restore a numpy generator from `numpy_state`. Raises FosterError for another kind of generator."""
    if state["bit_generator"] != rng.bit_generator.state["bit_generator"]:
        raise FosterError(f"a state of {state['bit_generator']}, not of this numpy's generator", "begin anew")
    rng.bit_generator.state = state
