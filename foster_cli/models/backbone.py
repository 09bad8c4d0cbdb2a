"""The pretrained text encoder from its folder, checked, and a copy of its top layers that runs alone.

In: an `EncoderSource`. Out: the Hugging Face model and its tokenizer; for N, the top N layers, which read the
hidden states below them instead of tokens.
"""

from __future__ import annotations

import copy
import pickle
import re
import struct
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from foster_cli.errors import FosterError
from foster_cli.models.source import EncoderSource

_DECODER = re.compile("CausalLM|LMHeadModel|ForConditionalGeneration|DoubleHeads")


def load_backbone(source: EncoderSource, attention: str | None = None) -> tuple[nn.Module, Any]:
    """The Hugging Face model (fp32, eval mode) and its tokenizer. Raises FosterError if it is no text encoder.

    `attention`: transformers' name for how attention is computed; None: its own choice.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = f"--encoder {source.name}"
    hint = "give the folder or hub id of a text encoder such as sentence-transformers/all-MiniLM-L6-v2"
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        names = [str(a) for a in getattr(config, "architectures", None) or []]
        if (
            getattr(config, "is_encoder_decoder", False)
            or getattr(config, "is_decoder", False)
            or any(_DECODER.search(a) for a in names)
        ):
            raise FosterError(f"{where}: {', '.join(names) or config.model_type} is no encoder", hint)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
        # safetensors where there are any; else transformers reads the .bin with torch's weights-only loader
        model, info = AutoModel.from_pretrained(
            source.folder, local_files_only=True, dtype=torch.float32, output_loading_info=True,
            attn_implementation=attention,
        )  # fmt: skip
        missing = sorted(k for k in info["missing_keys"] if not k.startswith("pooler."))
        if missing:
            raise FosterError(f"{where}: its weights lack {len(missing)} tensors, such as {missing[0]}", hint)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        model.eval()
        probe = torch.tensor([tokenizer("a text")["input_ids"]])
        with torch.no_grad():
            out = model(input_ids=probe, attention_mask=torch.ones_like(probe)).last_hidden_state
        if out.shape[:2] != probe.shape:
            raise FosterError(f"{where}: gives no vector per token", hint)
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        RuntimeError,
        ImportError,
        SafetensorError,
        StrictDataclassError,
        pickle.UnpicklingError,
        struct.error,
    ) as e:
        reason = " ".join(str(e).split())[:160]
        raise FosterError(f"{where}: cannot be loaded as a text encoder ({type(e).__name__}: {reason})", hint) from e
    return model, tokenizer


def load_tokenizer(source: EncoderSource) -> Any:
    """The tokenizer alone, without torch weights. Raises FosterError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise FosterError(
            f"--encoder {source.name}: no tokenizer in {source.folder}", "use --encoder minilm"
        ) from error


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's stack of layers: its longest ModuleList."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not stacks:
        raise FosterError("this encoder shows no list of layers", "use --train-layers none or all")
    return max(stacks, key=len)


class _Passthrough(nn.Module):
    """Stands where the embeddings were: the kept hidden states go straight to the top layers."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Tensor:
        return inputs_embeds


def top_of(model: nn.Module, count: int) -> nn.Module:
    """A copy of `model` that holds its top `count` layers only and reads hidden states as `inputs_embeds`."""
    stack = encoder_layers(model)
    if count > len(stack):
        raise FosterError(
            f"--train-layers {count}: this encoder has {len(stack)} layers", f"use 1 to {len(stack)}, or all"
        )
    kept = list(stack)
    memo: dict[int, Any] = {id(layer): nn.Identity() for layer in kept[: len(kept) - count]}
    if not isinstance(getattr(model, "embeddings", None), nn.Module):
        raise FosterError("this encoder's embeddings are not where they are expected", "use --train-layers none or all")
    memo[id(model.embeddings)] = _Passthrough()
    top = copy.deepcopy(model, memo)
    name = next(n for n, m in model.named_modules() if m is stack)
    copied = top.get_submodule(name)
    assert isinstance(copied, nn.ModuleList)
    del copied[: len(kept) - count]
    return top
