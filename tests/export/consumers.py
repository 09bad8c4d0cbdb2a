"""Other people's programs, reading what foster wrote. Run by `test_consumers.py` in an environment that has them.

    python consumers.py NAME PATH OUT    writes what the program made of PATH to OUT, as JSON

foster itself is not imported here: this is how its files look from outside. The environment is made by
`make test-consumers`; the programs pin versions that foster does not live with.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_DISABLED"] = "true"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer() -> Any:
    """A byte-level tokenizer without merges, with ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = {
        "pad_token": "<pad>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=["<|im_start|>"], model_max_length=8192, **names
    )
    made.chat_template = CHATML
    return made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recbole_split(path: Path) -> dict[str, Any]:
    """SASRec trained for an epoch on the synthetic set, validated and tested on the real cases."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    os.chdir(path.parent)
    small = {"epochs": 1, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "show_progress": False}
    config = Config("SASRec", path.name, [f"{path.name}/{path.name}.yaml"], small)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = SASRec(config, train.dataset)
    before = model.item_embedding.weight.detach().clone()
    trainer = Trainer(config, model)
    trainer.fit(train, valid, saved=False, show_progress=False)
    result = trainer.evaluate(test, load_best_model=False, show_progress=False)

    def examples(part: Any) -> list[list[Any]]:
        feat = part.dataset.inter_feat
        return [
            [[dataset.id2token("item_id", i) for i in row[:size].tolist()], dataset.id2token("item_id", int(target))]
            for row, size, target in zip(feat["item_id_list"], feat["item_length"], feat["item_id"], strict=True)
        ]

    return {
        "items": dataset.item_num,
        "tokens": list(dataset.field2id_token["item_id"]),
        "train": examples(train),
        "valid": examples(valid),
        "test": examples(test),
        "moved": bool((model.item_embedding.weight.detach() != before).any()),
        "metrics": {key: float(value) for key, value in result.items()},
    }


def recbole(path: Path) -> dict[str, Any]:
    """The interactions as RecBole holds them, in order, and an item-to-item model trained on them."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import ItemKNN

    os.chdir(path.parent)
    config = Config("ItemKNN", path.name, [f"{path.name}/{path.name}.yaml"], {"show_progress": False})
    dataset = create_dataset(config)
    feat = dataset.inter_feat
    rows = sorted(
        [dataset.id2token("user_id", int(u)), float(t), dataset.id2token("item_id", int(i))]
        for u, i, t in zip(feat["user_id"], feat["item_id"], feat["timestamp"], strict=True)
    )
    titles = [" ".join(dataset.id2token("title", [w for w in row.tolist() if w])) for row in dataset.item_feat["title"]]
    train, _, _ = data_preparation(config, dataset)
    ItemKNN(config, train.dataset)
    known = dataset.field2id_token["item_id"]
    return {"items": dataset.item_num, "rows": rows, "titles": dict(zip(known, titles, strict=True))}


def rectools(path: Path) -> dict[str, Any]:
    """RecTools' dataset, and an epoch of its SASRec: which targets carry weight in its loss."""
    import numpy as np
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    table = pd.read_parquet(path)
    dataset = Dataset.construct(table)
    model = SASRecModel(epochs=1, n_factors=8, n_blocks=1, n_heads=1, session_max_len=32, verbose=0, batch_size=64)
    model.fit(dataset)
    loader = model.data_preparator.get_dataloader_train()
    known = model.data_preparator.item_id_map.external_ids
    goals = []
    for batch in loader:
        y, weight = batch["y"].numpy(), batch["yw"].numpy()
        goals += [str(known[i]) for i in y[(weight > 0) & (y != 0)]]
    users = table["user_id"].unique()[:3]
    reco = model.recommend(users, dataset, k=2, filter_viewed=False)
    return {
        "users": int(dataset.user_id_map.size), "items": int(dataset.item_id_map.size), "goals": sorted(goals),
        "rows": len(dataset.interactions.df), "recommended": len(reco),
        "finite": bool(np.isfinite(reco["score"]).all()),
    }  # fmt: skip


def lkpy(path: Path) -> dict[str, Any]:
    """LensKit's dataset, and its item-to-item model trained on it."""
    import pandas as pd
    from lenskit import recommend
    from lenskit.data import from_interactions_df
    from lenskit.knn import ItemKNNScorer
    from lenskit.pipeline import topn_pipeline

    table = pd.read_parquet(path)
    dataset = from_interactions_df(table)
    pipe = topn_pipeline(ItemKNNScorer(feedback="implicit", min_nbrs=1, min_sim=1e-9))
    pipe.train(dataset)
    found = recommend(pipe, table["user_id"].iloc[0], n=3)
    return {
        "users": dataset.user_count, "items": dataset.item_count, "rows": dataset.interaction_count,
        "ids": sorted(map(str, dataset.items.ids())), "recommended": len(found),
    }  # fmt: skip


def hf(path: Path) -> dict[str, Any]:
    """The folder as `load_dataset` opens it."""
    from datasets import load_dataset

    data = load_dataset(str(path), cache_dir=str(path.parent / "hf-cache"))
    return {"splits": list(data), "columns": data["train"].column_names, "rows": list(data["train"])}


def llamafactory(path: Path) -> dict[str, Any]:
    """LLaMA-Factory's own parser of dataset_info.json, and its converter to prompt and response.

    Its package's `__init__` wants audio and video libraries; the parser and the converter do not.
    """
    spec = importlib.util.find_spec("llamafactory")
    assert spec is not None and spec.submodule_search_locations
    inner = types.ModuleType("llamafactory.data")
    inner.__path__ = [str(Path(spec.submodule_search_locations[0]) / "data")]
    sys.modules["llamafactory.data"] = inner
    from datasets import load_dataset
    from llamafactory.data.converter import AlpacaDatasetConverter
    from llamafactory.data.parser import get_dataset_list

    (attributes,) = get_dataset_list([path.name], str(path))
    file = str(path / attributes.dataset_name)
    data = load_dataset("json", data_files=file, split="train", cache_dir=str(path.parent / "hf-cache"))
    convert = AlpacaDatasetConverter(attributes, None)
    return {"formatting": attributes.formatting, "rows": [convert(row) for row in data]}


def trl(path: Path) -> dict[str, Any]:
    """Two steps of TRL's SFTTrainer on a tiny GPT-2, from the chat lines."""
    import torch
    from datasets import load_dataset
    from transformers import GPT2Config, GPT2LMHeadModel
    from trl import SFTConfig, SFTTrainer
    from trl.data_utils import is_conversational

    data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "hf-cache"))
    words = tokenizer()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=1024, n_embd=8, n_layer=1, n_head=1))
    out = str(path.parent / "trl")
    options = SFTConfig(out, max_steps=2, report_to=[], use_cpu=True, bf16=False, save_strategy="no", max_length=512,
                        per_device_train_batch_size=2, disable_tqdm=True, logging_steps=1)  # fmt: skip
    trainer = SFTTrainer(model, args=options, train_dataset=data, processing_class=words)
    loss = trainer.train().training_loss
    return {"conversational": all(is_conversational(row) for row in data), "rows": len(data), "loss": float(loss)}


def axolotl_alpaca(path: Path) -> dict[str, Any]:
    """axolotl's dataset schema, and its alpaca strategy on every line."""
    from axolotl.prompt_tokenizers import AlpacaPromptTokenizingStrategy
    from axolotl.prompters import AlpacaPrompter
    from axolotl.utils.schemas.datasets import SFTDataset

    SFTDataset(path=str(path), ds_type="json", type="alpaca")
    words = tokenizer()
    strategy = AlpacaPromptTokenizingStrategy(AlpacaPrompter(), words, False, 8192)
    return {"answers": [_answer(strategy.tokenize_prompt(row), words) for row in lines(path)]}


def axolotl_chat(path: Path) -> dict[str, Any]:
    """axolotl's dataset schema, and its chat_template strategy on every line."""
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.datasets import SFTDataset

    SFTDataset(path=str(path), ds_type="json", type="chat_template", roles_to_train=["assistant"])
    words = tokenizer()
    config = DictDefault({"train_on_inputs": False, "sequence_len": 8192})
    strategy = load(words, config, {"roles_to_train": ["assistant"], "train_on_eos": "turn"})
    return {"answers": [_answer(strategy.tokenize_prompt(row), words) for row in lines(path)]}


def _answer(encoded: dict[str, Any], words: Any) -> str:
    """What is trained on: the tokens that have labels."""
    kept = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100]
    return str(words.decode(kept, skip_special_tokens=True)).strip()


CONSUMERS = (recbole, recbole_split, rectools, lkpy, hf, llamafactory, trl, axolotl_alpaca, axolotl_chat)

if __name__ == "__main__":
    called = {f.__name__: f for f in CONSUMERS}
    program, read, out = called[sys.argv[1]], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    sys.argv = sys.argv[:1]  # RecBole reads it
    found = program(read)
    out.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
