"""`--help` is quick because it loads nothing heavy; a usage error ends with code 2.

Every command starts a process; alone: `pytest tests/commands/test_help.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from calling import commands, headings

from foster_cli.commands.from_settings import GROUPS, fields

COMMANDS = (
    "preprocess", "sample", "distill", "eval", "compare", "ablate", "sweep", "tune", "report", "export", "doctor",
    "build-ext", "demo", "verify", "rank",
)  # fmt: skip
INNER = ("bench distill", "bench train", "cache list", "cache clear")
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "sklearn", "numpy")
CODE = """
import sys
from foster_cli.__main__ import main
try:
    main()
finally:
    print("loaded:", *[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["", *COMMANDS, *INNER])
def test_help(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loaded:\n"
    assert "Usage: " in done.stdout
    if not command:
        assert all(name in done.stdout for name in (*COMMANDS, "bench", "cache"))
        return
    assert "Example: foster " + command in done.stdout
    groups = headings(done.stdout)
    for f in fields(command):  # each under the heading of its section, and under no other
        flag = f.flag.split("/")[0]
        assert [name for name, entries in groups.items() if flag in entries] == [GROUPS[f.section]], flag
        shown = "".join(groups[GROUPS[f.section]][flag].split())  # a line may end within a word, at its hyphen
        assert "".join(f.parameter.annotation.__metadata__[0].help.split()) in shown
    sections = [name for name in groups if name in GROUPS.values()]
    assert sections == [name for name in GROUPS.values() if name in sections]
    options = {p.opts[0] for p in commands()[command].params if p.param_type_name == "option"}
    listed = [flag for entries in groups.values() for flag in entries if flag.startswith("-")]
    assert sorted(listed) == sorted({*options, "--help"})


def test_every_command_is_here() -> None:
    assert set(commands()) == {*COMMANDS, *INNER}


def test_version() -> None:
    from foster_cli.version import __version__

    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"foster {__version__}\n", "loaded:\n")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("distill",), "DATA"),
        (("preprocess", "x.csv"), "--out"),
        (("distill", "x.csv", "--bugdet", "20"), "--bugdet"),
        (("eval", "--seeds", "0"), "--seeds"),
        (("distil", "x.csv"), "distil"),
        ((), ""),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_usage_errors(args: tuple[str, ...], word: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if args:
        said = done.stderr.split("loaded:")[0]
        assert said.startswith("foster: ") and said.count("\n") == 1 and not done.stdout
        assert word in ("DATA", "") or f"see foster {'--help' if word == 'distil' else args[0]}" in said


def test_completion(tmp_path: Path) -> None:
    """What `--install-completion` writes is bash that completes commands and options."""
    foster = Path(sys.executable).with_name("foster")
    home = {**os.environ, "HOME": str(tmp_path)}
    install = f"{foster} --install-completion; exit $?"  # for the shell that is the process above
    done = subprocess.run(["bash", "--norc", "-c", install], env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (script,) = (tmp_path / ".bash_completions").iterdir()
    asked = f"""
source {script}
for words in "foster compa" "foster distill --budg"; do
  COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
  _foster_completion {foster}; echo "${{COMPREPLY[@]}}"
done
"""
    done = subprocess.run(["bash", "--norc", "-c", asked], env=home, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["compare", "--budget"], done.stderr
