"""The house: data flows one way. A module imports from its own folder and from those above it, never from below."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import foster_cli

ROOT = Path(foster_cli.__file__).parent
#: From top to bottom; what stands in one row is one folder, or files that may import each other. No folder is split.
ORDER = (
    ("errors", "version"),
    ("settings",),
    ("console", "files", "extension", "settings_file"),
    ("runtime", "session", "cache"),
    ("checkpoint", "distrust"),
    ("data",),
    ("ops",),
    ("models",),
    ("ranking",),
    ("neighbours",),
    ("train",),
    ("synthetic",),
    ("bundle",),
    ("distill",),
    ("baselines",),
    ("evaluate",),
    ("tune",),
    ("bench",),
    ("diagnose", "verify"),
    ("export",),
    ("report",),
    ("commands",),
    ("app",),
    ("__main__",),
)


def _level(module: str) -> int:
    """The row of `module` (dotted, without `foster_cli.`); the longest fitting name wins."""
    found = [
        (len(name), row)
        for row, names in enumerate(ORDER)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    assert found, f"{module} stands nowhere in the order of the layers"
    return max(found)[1]


def _modules() -> dict[str, Path]:
    files = sorted(ROOT.rglob("*.py"))
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}
    return {name: path for name, path in names.items() if name != "__init__"}


def _imports(path: Path, modules: dict[str, Path]) -> list[tuple[int, str]]:
    """(line, module) of every import of foster_cli in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            # `from foster_cli.data import windows` names a module, `from foster_cli.errors import X` does not
            names = [
                f"{base}.{a.name}" if f"{base}.{a.name}".removeprefix("foster_cli.") in modules else base
                for a in node.names
            ]
        else:
            continue
        found += [(node.lineno, n.removeprefix("foster_cli.")) for n in names if n.startswith("foster_cli.")]
    return found


def test_imports_point_upwards() -> None:
    modules = _modules()
    wrong, seen = [], 0
    for name, path in modules.items():
        for line, other in _imports(path, modules):
            seen += 1
            if _level(other) > _level(name):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}, which lives below it")
    assert wrong == []
    assert seen > 100 and len(modules) > 40  # the walk did find the package


def test_the_rule_has_teeth() -> None:
    assert _level("train.fit") > _level("ranking.metrics") > _level("models.encoder")
    assert _level("evaluate.rows") > _level("distill.loop") > _level("train.anchors") > _level("data.windows")
    assert _level("baselines.goracs") > _level("distill.pipeline") > _level("bundle") > _level("synthetic.factors")
    assert _level("app") > _level("commands.eval") > _level("export.csv") > _level("bundle")


def test_no_folder_is_split() -> None:
    """A row names whole folders and files of the top level: no module of a folder stands in another row than it."""
    assert [name for names in ORDER for name in names if "." in name] == []


def _loaded(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` in a fresh Python."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "pandas", "pyarrow", "transformers", "sklearn", "safetensors", "tokenizers", "scipy", "ot"}


def test_the_app_imports_nothing_heavy() -> None:
    loaded = _loaded("import foster_cli.app")
    assert "typer" in loaded and "foster_cli" in loaded
    assert loaded & HEAVY == set()


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = """
import contextlib, io
from foster_cli.app import app
names = [c.name for c in app.registered_commands]
assert len(names) >= 6, names
benches = [["bench", name] for name in ("distill", "train")]
for args in [[], *[[n] for n in names], *benches]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            app([*args, "--help"], standalone_mode=True)
        except SystemExit as end:
            assert end.code == 0, (args, end.code)
    assert "Usage" in out.getvalue(), args
"""
    assert _loaded(code) & HEAVY == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _loaded("import foster_cli") & HEAVY == set()
