"""`foster build-ext`: the C++ and CUDA ops built against the torch that is there."""

from __future__ import annotations


def command() -> None:
    """Build the C++ and CUDA ops for the torch that is installed now.

    For an installation that was made without a compiler, or before torch was there or changed. Needs a C++ compiler,
    and nvcc for the CUDA kernels. FORCE_CUDA=1 builds these without a visible GPU.

    Example: foster build-ext
    """
    from foster_cli.console import Console
    from foster_cli.extension import build

    console = Console()
    console.note("building the ops: a minute, some with CUDA")
    record = build()
    cuda = f"with CUDA {record['cuda']}" if record["cuda"] else f"for the CPU alone ({record['without_cuda']})"
    console.result(f"built against torch {record['torch']}, {cuda}; next: foster doctor")
