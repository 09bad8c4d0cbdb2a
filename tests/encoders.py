"""A tiny random encoder in a folder, with a tokenizer of its own: what the tests use in a real one's place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from foster_cli.models.encoder import TextEncoder

WORDS = ("red", "blue", "iron", "glass", "small", "large", "lamp", "chair", "knife", "radio")
BERT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 40, "initializer_range": 0.2,
}  # fmt: skip
CAUSAL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip


def write_encoder(
    folder: Path, pooling: str | None = None, normalize: bool = False, *, texts: Sequence[str] = WORDS,
    kind: str = "bert", dtype: str = "float32", **shape: Any,
) -> Path:  # fmt: skip
    """A random model of 4 layers and width 32 in `folder`, with the words of `texts`; the same at every call.

    `kind`: `bert`, or the make of a causal LM. `pooling` and `normalize`: what a sentence transformer's files say; None
    leaves them out. `shape`: fields of the configuration that are to differ.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    words = list(dict.fromkeys(w for text in texts for w in re.findall(r"\w+|[^\w\s]", text)))
    bert = kind == "bert"
    tokenizer = _pieces(words) if bert else _whole_words(words)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **{**(BERT if bert else CAUSAL), **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (AutoModel if bert else AutoModelForCausalLM).from_config(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if pooling is not None:
        modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *[("Normalize", "2_Normalize")] * normalize]
        entries = [
            {"idx": i, "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(modules)
        ]
        (folder / "modules.json").write_text(json.dumps(entries))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def _pieces(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer: `words` whole, all others by their letters and digits, in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = list("abcdefghijklmnopqrstuvwxyz0123456789")
    pieces = dict.fromkeys([*special, *signs, *[f"##{c}" for c in signs], *[w.lower() for w in words]])
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)


def _whole_words(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words without a pad token, which adds nothing to a text, as Qwen's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["<|endoftext|>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", unk_token="<unk>")
    assert made.pad_token is None and made("")["input_ids"] == []
    return made


def read_encoder(name: str | Path, texts: Sequence[str], use_cache: bool = False, **model: Any) -> TextEncoder:
    """The text encoder `name`, an alias or a folder, on `texts`, without lexical vectors beside its own unless `model`,
    fields of `ModelConfig`, asks for them."""
    from foster_cli.models.encoder import build_text_encoder
    from foster_cli.models.source import find_encoder
    from foster_cli.session import Session
    from foster_cli.settings import ModelConfig

    source = find_encoder(str(name), model.get("pooling"))
    config = ModelConfig(**{"lexical": 0, **model})
    return build_text_encoder(list(texts), source, config, Session(use_cache=use_cache))
