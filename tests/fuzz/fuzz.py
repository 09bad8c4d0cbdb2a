"""Fuzzes the readers with atheris: `python tests/fuzz/fuzz.py [SECONDS]`, divided among the entries; `make fuzz`.

Each input may take 10 s and 2 GiB. What fails is left in `build/fuzz/ENTRY-crash-*`, and
`python tests/fuzz/fuzz.py 0 ENTRY FILE` runs it again. New inputs that reach new code are kept in `build/fuzz/ENTRY`.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

_LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-verbosity=0", "-print_final_stats=1"]


def _one(entry: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["foster_cli.data", "fuzz_entries"]):
        from fuzz_entries import ENTRIES

    def test(data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ENTRIES[entry](data)

    atheris.Setup([sys.argv[0], *arguments], test)
    atheris.Fuzz()


def _all(seconds: int) -> int:
    from fuzz_entries import ENTRIES
    from fuzz_seeds import seeds

    failed = 0
    for entry in ENTRIES:
        corpus = Path("build/fuzz") / entry
        corpus.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(seeds(entry)):
            (corpus / f"seed-{i}").write_bytes(seed)
        share = max(1, seconds // len(ENTRIES))
        limits = [*_LIMITS, f"-max_total_time={share}", f"-artifact_prefix={corpus}-", str(corpus)]
        failed += subprocess.run([sys.executable, __file__, "--entry", entry, *limits], check=False).returncode != 0
    print(f"{len(ENTRIES)} entries, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--entry"] or len(sys.argv) > 3:
        _one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(_all(int(sys.argv[1]) if len(sys.argv) > 1 else 600))
