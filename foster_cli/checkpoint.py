"""A long run's state on disk: trees of tensors and plain values, each whole or not there, whatever ends the process.

In: a name and a tree (dicts, lists, tuples, numbers, strings, None, tensors, numpy arrays). Out: the same tree, bit for
bit. Each name has two files, of which the second is written last:

    <name>-<count>.safetensors   the tensors (none: no file)
    <name>-<count>.json          everything else, the sha256 of the tensors' file and of itself

They are written beside, flushed to the disk and renamed; those of the count before are removed only after that. Nothing
is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
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
from foster_cli.runtime import disk_error, save_tensors, sha256_json, sync_folder

#: Raised whenever an older foster's states cannot be read any more.
FORMAT = 1
#: Most of a run's time that writing states may take.
SHARE = 0.02


class Resumable(Protocol):
    """What can be kept and put back: `load_state_dict(state_dict())` changes nothing that follows."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was called."""
        ...


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """`tree` as a JSON-able value and its tensors by path (copies on the CPU)."""
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
    """The tree that `pack` took apart. Raises KeyError, TypeError or ValueError for what it did not write."""
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
    """The two files of a tree: JSON, and safetensors where it has tensors."""
    value, tensors = pack(tree)
    binary = save(tensors) if tensors else None
    body = {"format": FORMAT, "tree": value, "tensors": None if binary is None else hashlib.sha256(binary).hexdigest()}
    text = json.dumps({"sha256": sha256_json(body), **body}, ensure_ascii=False, allow_nan=False)
    return text.encode(), binary


def from_bytes(text: bytes, binary: bytes | None) -> Any:
    """The tree of two files. Raises ValueError where one is not as it was written."""
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
    """Trees by name in `folder`, which is made with the first one.

    `share`: the part of the time since the last writing that the next one may take (see `due`).
    """

    def __init__(self, folder: Path, share: float = SHARE) -> None:
        self.folder, self.share = folder, share
        self.cost, self.opened = 0.0, time.perf_counter()
        self.last, self.earlier = self.opened, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it was opened, and before that in earlier processes, up to what they last wrote."""
        return self.earlier + time.perf_counter() - self.opened

    def spent(self, seconds: float) -> None:
        """Count what was read in the place of being worked out: `seconds` that it took elsewhere."""
        self.earlier += seconds

    def due(self) -> bool:
        """Whether enough time has passed that writing costs no more than `share` of it, by what it took last."""
        return time.perf_counter() - self.last >= self.cost / self.share

    def write(self, trees: Mapping[str, Any]) -> None:
        """Keep each tree under its name, in order. Raises FosterError where the disk takes no more; what was kept
        under these names before is then still there."""
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

    def _counts(self, name: str) -> list[int]:
        """The counts under which something of `name` lies here, whole or not."""
        form = re.compile(re.escape(name) + r"-(\d{8})\.(?:json|safetensors)")
        found = [form.fullmatch(p.name) for p in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted({int(match[1]) for match in found if match})

    def read(self, name: str) -> Any:
        """What was kept last under `name` and is whole; None where there is nothing."""
        for count in reversed(self._counts(name)):
            stem = self.folder / f"{name}-{count:08d}"
            with contextlib.suppress(ValueError, FileNotFoundError):
                tensors = stem.with_suffix(".safetensors")
                binary = tensors.read_bytes() if tensors.exists() else None
                found = from_bytes(stem.with_suffix(".json").read_bytes(), binary)
                self.earlier = max(self.earlier, found["elapsed"])
                return found["tree"]
        return None

    def clear(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """`content` under `path`, on the disk, or what was there before."""
    tmp = path.with_name(f".{path.name}.part")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        if x.numel():
            digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checked(tensors: dict[str, Tensor], path: Path) -> None:
    """`runtime.save_tensors` with a sha256 of names, shapes and values in the file's metadata."""
    save_tensors(tensors, path, {"sha256": _tensors_sha256(tensors)})


def load_checked(path: Path) -> dict[str, Tensor]:
    """The tensors of `save_checked`, or of a file without a sum (an older foster's). Raises ValueError where one was
    changed, SafetensorError where it is no such file."""
    with safe_open(path, "pt") as file:
        stated = (file.metadata() or {}).get("sha256")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if stated is not None and stated != _tensors_sha256(tensors):
        raise ValueError(f"{path}: its sha256 differs")
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put an optimizer where `state_dict` found it, its moments in the memory layout that the first step gives them:
    a fused step reads a parameter and its moments as flat memory, side by side."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, x in moments.items():
            if isinstance(x, Tensor) and x.shape == parameter.shape and x.dim():
                moments[name] = torch.zeros_like(parameter, dtype=x.dtype).copy_(x)


def numpy_state(rng: np.random.Generator) -> dict[str, Any]:
    """Where a numpy generator is."""
    return dict(rng.bit_generator.state)


def set_numpy(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Put a numpy generator where `numpy_state` found it. FosterError for another kind of generator."""
    if state["bit_generator"] != rng.bit_generator.state["bit_generator"]:
        raise FosterError(f"a state of {state['bit_generator']}, not of this numpy's generator", "begin anew")
    rng.bit_generator.state = state
