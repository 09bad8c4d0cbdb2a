"""Loads and checks a pretrained text encoder, and copies its top layers into a model that runs alone.

In: an `EncoderSource` of an encoder or a causal LM. Out: the Hugging Face model and its tokenizer; for a number N, the
top N layers, which read the hidden states below them instead of tokens.
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

_DECODER = re.compile("CausalLM|LMHeadModel|DoubleHeads")
_CONDITIONAL = re.compile("ForConditionalGeneration")


def load_backbone(source: EncoderSource, attention: str | None = None) -> tuple[nn.Module, Any]:
    """Load the Hugging Face model (eval mode) and its tokenizer. Raises FosterError if it is no text encoder.

    An encoder is loaded in fp32. A causal LM is loaded in bf16 if its weights have 16 bits, else in fp32. Code in the
    folder is never run.
    `attention`: transformers' name of the attention implementation; None: its default.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = f"--encoder {source.name}"
    hint = "give the folder or hub id of a text encoder such as sentence-transformers/all-MiniLM-L6-v2, or a causal LM"
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source.folder, **local)
        names = [str(a) for a in getattr(config, "architectures", None) or []]
        named = ", ".join(names) or config.model_type
        if getattr(config, "is_encoder_decoder", False) or any(_CONDITIONAL.search(a) for a in names):
            raise FosterError(f"{where}: {named} has a decoder that reads an encoder's output", hint)
        if getattr(config, "is_decoder", False) or (not source.causal and any(_DECODER.search(a) for a in names)):
            raise FosterError(f"{where}: {named} is neither an encoder nor a causal LM", hint)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, **local)
        # from safetensors if there are any; else transformers reads the .bin with torch's weights-only loader
        model, info = AutoModel.from_pretrained(
            source.folder, **local, dtype=_load_dtype(config, source.causal), output_loading_info=True,
            attn_implementation=attention, use_safetensors=True if source.causal else None,
        )  # fmt: skip
        missing = sorted(k for k in info["missing_keys"] if not k.startswith("pooler."))
        if missing:
            raise FosterError(f"{where}: its weights lack {len(missing)} tensors, such as {missing[0]}", hint)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        model.config.use_cache = False  # nothing is generated
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


def _load_dtype(config: Any, causal: bool) -> torch.dtype:
    """fp32 for an encoder. For a causal LM, bf16 if its weights have a 16-bit type, else fp32."""
    stated = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    half = str(stated).removeprefix("torch.") in ("bfloat16", "float16")
    return torch.bfloat16 if causal and half else torch.float32


def load_tokenizer(source: EncoderSource) -> Any:
    """Load only the tokenizer, without torch weights. Raises FosterError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise FosterError(
            f"--encoder {source.name}: no tokenizer in {source.folder}", "use --encoder minilm"
        ) from error


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's stack of layers: the ModuleList of the length in the config, else the longest."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not stacks:
        raise FosterError("this encoder shows no list of layers", "use --train-layers none or all")
    stated = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    return max([s for s in stacks if len(s) == stated] or stacks, key=len)


class _Passthrough(nn.Module):
    """Replaces the embeddings and passes the cached hidden states straight to the top layers."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Tensor:
        return inputs_embeds


def _input_embeddings(model: Any) -> nn.Module:
    try:
        found: nn.Module = model.get_input_embeddings()
    except (NotImplementedError, AttributeError) as error:
        raise FosterError(
            "this encoder's embeddings are not where they are expected", "use --train-layers none or all"
        ) from error
    return found


def top_of(model: nn.Module, count: int) -> nn.Module:
    """A copy of `model` that has only its top `count` layers and reads hidden states as `inputs_embeds`.

    The copy has the model's mask, positions (rotary ones too) and norm after the last layer. The caller must check that
    it gives what the whole model gives, because a model may add positions to its `inputs_embeds`.
    """
    stack = encoder_layers(model)
    if count > len(stack):
        raise FosterError(
            f"--train-layers {count}: this encoder has {len(stack)} layers", f"use 1 to {len(stack)}, or all"
        )
    below = len(stack) - count
    memo: dict[int, Any] = {id(layer): nn.Identity() for layer in list(stack)[:below]}
    if isinstance(getattr(model, "embeddings", None), nn.Module):
        memo[id(model.embeddings)] = _Passthrough()
    else:  # a decoder embeds its tokens only if it gets no `inputs_embeds`
        memo[id(_input_embeddings(model))] = nn.Identity()
    top = copy.deepcopy(model, memo)
    name = next(n for n, m in model.named_modules() if m is stack)
    copied = top.get_submodule(name)
    assert isinstance(copied, nn.ModuleList)
    del copied[:below]
    config: Any = top.config
    if getattr(config, "layer_types", None):  # the mask that each layer reads, by its index in the stack
        config.layer_types = list(config.layer_types)[below:]
    config.num_hidden_layers = count
    return top
