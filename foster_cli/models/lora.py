"""LoRA (Hu et al. 2022) on the linear layers of an encoder's top layers, with the peft library.

A linear layer x W^T becomes x W^T + (alpha / r) dropout(x) A^T B^T with A (r, in) and B (out, r); W is frozen.
In: the top layers, from `pretrained.top_of`. Out: the same object, changed in place so that only A and B learn.
B starts at 0, so the initial model equals the frozen one. A and the dropout have separate generators.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import torch
from torch import nn

from foster_cli.errors import FosterError
from foster_cli.models.backbones.base import SeededDropout
from foster_cli.models.pretrained import encoder_layers
from foster_cli.runtime import generator, stream_seed
from foster_cli.settings import ModelConfig


@dataclass(frozen=True)
class Lora:
    """Rank r, alpha, and the dropout of what A reads. The paper (D.4): 32, 128, 0.1."""

    rank: int
    alpha: float
    dropout: float

    @staticmethod
    def of(config: ModelConfig) -> Lora | None:
        """The LoRA settings in `config`, or None without LoRA. alpha defaults to 4 r, the paper's proportion."""
        if config.lora is None:
            return None
        alpha = 4.0 * config.lora if config.lora_alpha is None else config.lora_alpha
        return Lora(config.lora, alpha, config.lora_dropout)


def require_peft() -> None:
    """Raise FosterError if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise FosterError(
            "--lora needs the peft library, which is not installed", "type `pip install 'foster-cli[llm]'`"
        )


def add_lora(top: nn.Module, lora: Lora) -> list[torch.Generator]:
    """Add A and B to every linear layer of `top`'s layers. Returns the list that holds the dropout's generator.

    Raises FosterError for an encoder without linear layers (`nn.Linear`).
    """
    require_peft()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        raise FosterError(
            f"--lora: peft does not fit the other libraries ({reason})", "type `pip install --upgrade peft`"
        ) from error
    stack = encoder_layers(top)
    inside = {id(m) for m in stack.modules()}
    names = [name for name, m in top.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
    if not names:
        raise FosterError("--lora: the layers of this encoder hold no linear layers", "leave out --lora")
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator; `start_lora` draws it again
        inject_adapter_in_model(config, top)
    for name, p in top.named_parameters():
        p.requires_grad_(_is_lora(name))
    source = [torch.Generator()]
    for m in top.modules():
        if isinstance(m, nn.ModuleDict):
            for key, child in m.items():
                if isinstance(child, nn.Dropout) and lora.dropout > 0:
                    m[key] = SeededDropout(lora.dropout, source)
    return source


def _is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def frozen_weights(top: nn.Module) -> list[nn.Parameter]:
    """The weights of `top` other than A and B. They never learn, so clones may share them."""
    return [p for name, p in top.named_parameters() if not _is_lora(name)]


@torch.no_grad()
def start_lora(top: nn.Module, source: list[torch.Generator], seed: int) -> None:
    """Reset A to U(-1/sqrt(in), 1/sqrt(in)), as in peft, B to 0, and the dropout's generator, all from `seed`."""
    rng = generator(seed, "lora")
    for name, p in top.named_parameters():
        if ".lora_A." in name:
            drawn = torch.empty(p.shape, dtype=p.dtype)
            p.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=rng))
        elif ".lora_B." in name:
            p.zero_()
    device = next(top.parameters()).device
    source[0] = torch.Generator(device=device).manual_seed(stream_seed(seed, "lora dropout"))
