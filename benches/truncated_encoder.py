"""A second text encoder without a download: the first layers of another one, in a folder for `--encoder`.

    python benches/truncated_encoder.py minilm 3 encoders/minilm-3
    foster eval runs/games-foster-b20-1 --encoder encoders/minilm-3

Tokenizer, pooling and normalisation stay. No weight is trained or changed: what layer N gives is pooled as the last
layer was. That is a weaker encoder with other vectors, which is what a test of transfer between encoders needs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from foster_cli.errors import FosterError
from foster_cli.files import writing_dir
from foster_cli.models.pretrained import encoder_layers, load_backbone
from foster_cli.models.source import find_encoder


def truncate(encoder: str, layers: int, out: Path) -> None:
    """Write the first `layers` of `encoder` to the new folder `out`. Raises FosterError for what cannot be."""
    source = find_encoder(encoder)
    model, tokenizer = load_backbone(source)
    stack = encoder_layers(model)
    if not 0 < layers < len(stack):
        raise FosterError(f"{encoder} has {len(stack)} layers", f"give 1 to {len(stack) - 1}")
    if out.exists():
        raise FosterError(f"{out}: exists already", "give another name")
    del stack[layers:]
    model.config.num_hidden_layers = layers
    with writing_dir(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name in ("modules.json", "1_Pooling"):  # how the vectors are pooled
            if (source.folder / name).is_dir():
                shutil.copytree(source.folder / name, folder / name)
            elif (source.folder / name).exists():
                shutil.copyfile(source.folder / name, folder / name)


def main() -> None:
    """Parse, write, say what to type next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="minilm, tinybert, a folder or org/name")
    parser.add_argument("layers", type=int, help="how many layers stay")
    parser.add_argument("out", type=Path, help="the folder to write")
    given = parser.parse_args()
    try:
        truncate(given.encoder, given.layers, given.out)
    except FosterError as error:
        sys.exit(str(error))
    print(f"wrote {given.out}; next: foster eval BUNDLE --encoder {given.out}")


if __name__ == "__main__":
    main()
