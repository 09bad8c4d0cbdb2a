"""`foster build-ext`: builds the C++ and CUDA ops against the installed torch."""

from __future__ import annotations


def command() -> None:
    """Build the C++ and CUDA ops for the installed torch.

    Use it if foster was installed without a compiler, or before torch was installed or changed. It needs a C++
    compiler, and nvcc for the CUDA kernels. FORCE_CUDA=1 builds these without a visible GPU.

    Example: foster build-ext
    """
    from foster_cli.console import Console
    from foster_cli.extension import build

    console = Console()
    console.note("building the ops: a minute, some with CUDA")
    record = build()
    cuda = f"with CUDA {record['cuda']}" if record["cuda"] else f"for the CPU alone ({record['without_cuda']})"
    console.result(f"built against torch {record['torch']}, {cuda}; next: foster doctor")
