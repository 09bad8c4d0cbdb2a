"""A text encoder's folder with its weights in 16 bits: minilm becomes 44 MiB, small enough to carry to another machine.

python benches/gpu/half.py SOURCE TARGET
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(source: Path, target: Path) -> None:
    """Write `target`, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    left_out = shutil.ignore_patterns("model.safetensors", "*.onnx", "*.bin", "openvino*", "*.py")
    shutil.copytree(source, target, ignore=left_out)
    weights = load_file(source / "model.safetensors")
    halved = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(halved, target / "model.safetensors", {"format": "pt"})
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 2**20
    change = max(float((v - v.half().float()).abs().max()) for v in weights.values() if v.is_floating_point())
    print(f"{size:.0f} MiB; largest change of a weight {change:.2g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
