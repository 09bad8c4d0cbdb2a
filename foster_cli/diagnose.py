"""The checks behind `foster doctor`: what this machine and installation can do.

Out: a list of `Finding`. A `broken` one means that a default run would fail.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from foster_cli.cache import cache_dir
from foster_cli.errors import FosterError
from foster_cli.models.lora import require_peft
from foster_cli.models.source import TINYBERT_HUB, find_encoder
from foster_cli.ops import CHOICES, native, reference

#: Least free bytes for a run: texts, teachers and a bundle of a dataset like Amazon Games need about as much.
LEAST_FREE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state`: ok, note (works, with a limitation) or broken."""

    name: str
    state: str
    text: str


def python() -> Finding:
    """The interpreter."""
    state = "ok" if sys.version_info >= (3, 10) else "broken"
    return Finding("python", state, f"{platform.python_version()} ({sys.executable})")


def machine() -> list[Finding]:
    """torch, and the devices it sees."""
    threads = torch.get_num_threads()
    found = [Finding("torch", "ok", f"{torch.__version__}, {threads} threads on {os.cpu_count()} CPUs")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            text = f"{p.name}, {p.total_memory >> 30} GiB, sm_{p.major}{p.minor}, CUDA {torch.version.cuda}"
            found.append(Finding(f"cuda:{i}", "ok", text))
    else:
        built = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is a CPU build"
        found.append(Finding("cuda", "note", f"no device ({built}); runs use the CPU"))
    return found


def _apart(found: Tensor, true: Tensor) -> float:
    return float((found - true).abs().max() / true.abs().max().clamp_min(1.0))


def op_errors(device: torch.device) -> dict[str, float]:
    """Each op's largest error against its plain definition in float64, on one fp32 example. NaN: the counts differ."""
    rng = torch.Generator().manual_seed(0)
    Q, V, H, E = ((torch.randn(n, 48, generator=rng) / 3).to(device) for n in (33, 1500, 33, 1500))
    q, v, h, e = (x.double() for x in (Q, V, H, E))
    target = torch.arange(33, device=device)
    ranks = torch.ops.foster.rank_counts(h, e, target)
    same = all(torch.equal(a, b) for a, b in zip(ranks, reference.rank_counts(h, e, target), strict=True))
    return {
        "soft_embed": _apart(torch.ops.foster.soft_embed(Q, V, E)[0].double(), reference.soft_embed(q, v, e)),
        "soft_kl": _apart(torch.ops.foster.soft_kl(Q, V, H, E)[0].double(), reference.soft_kl(q, v, h, e)),
        "rank_counts": 0.0 if same else float("nan"),
    }


def extension() -> list[Finding]:
    """The C++ ops: whether they are installed, and whether each one agrees with its definition."""
    choice = os.environ.get("FOSTER_OPS", "auto")
    if choice not in CHOICES:
        return [Finding("extension", "broken", f"FOSTER_OPS={choice}: use one of {', '.join(CHOICES)}")]
    reason = native.load()
    if reason is not None:
        state = "note" if native.built_against() is None and choice != "native" else "broken"
        return [Finding("extension", state, f"plain PyTorch does its work: {reason}")]
    record = native.built_against() or {}
    library = sys.modules["foster_cli._C"].__file__
    text = f"{library}, built against torch {record.get('torch')}"
    unused = "; not used, FOSTER_OPS=reference" if choice == "reference" else ""
    found = [Finding("extension", "ok", text + unused), *_op_findings(torch.device("cpu"))]
    if torch.cuda.is_available():
        reason = native.without_cuda()
        found += [Finding("cuda ops", "note", reason)] if reason else _op_findings(torch.device("cuda"))
    return found


def _op_findings(device: torch.device) -> list[Finding]:
    found = []
    for name, error in op_errors(device).items():
        good = error < 1e-4  # False for NaN
        text = f"error {error:.1e} against its definition, on {device}"
        found.append(Finding(f"{device} {name}", "ok" if good else "broken", text))
    return found


def encoders() -> list[Finding]:
    """The default text encoder is required; the paper's is optional."""
    found = []
    try:
        source = find_encoder("minilm")
        found.append(Finding("encoder minilm", "ok", f"{source.folder} ({source.hash[:12]}…)"))
    except FosterError as error:
        found.append(Finding("encoder minilm", "broken", f"{error.message}: {error.hint}"))
    from huggingface_hub import try_to_load_from_cache

    there = isinstance(try_to_load_from_cache(TINYBERT_HUB, "config.json"), str)
    text = "in the local hub cache" if there else "not in the local hub cache; --encoder tinybert fetches it once"
    found.append(Finding("encoder tinybert", "ok" if there else "note", text))
    try:
        require_peft()
        found.append(Finding("peft", "ok", f"{version('peft')}, for --lora"))
    except FosterError as error:
        found.append(Finding("peft", "note", f"{error.message}: {error.hint}"))
    return found


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def folders() -> list[Finding]:
    """The folders that runs write to, the cache and the current one: whether they are writable, and the free space."""
    found = []
    for name, path in (("cache", cache_dir()), ("here", Path.cwd())):
        base = _existing(path)
        try:
            with tempfile.TemporaryFile(dir=base):
                pass
        except OSError as error:
            hint = "set FOSTER_CACHE to another folder" if name == "cache" else "go to another folder, or give --out"
            found.append(Finding(name, "broken", f"{path}: cannot write ({error.strerror}); {hint}"))
            continue
        free = shutil.disk_usage(base).free
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if name == "cache" else 0
        holds = f", holds {size / 2**20:,.0f} MiB" if name == "cache" else ""
        found.append(
            Finding(name, "ok" if free >= LEAST_FREE else "broken", f"{path}{holds}; {free / 2**30:,.1f} GiB free")
        )
    return found


def diagnose() -> list[Finding]:
    """All checks, in the order they are shown."""
    return [python(), *machine(), *extension(), *encoders(), *folders()]
