"""A training step as one CUDA graph: a step of some 150 small kernels then costs one launch.

The first steps run as they are, then one is recorded, and all later ones replay it. What changes between steps goes
into fixed memory before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from foster_cli.models.recommender import Recommender

#: Steps before the recording: libraries choose their algorithms, and the optimizer makes its state.
WARM_UP = 3


class StepGraph:
    """Runs `step(*inputs)` for a model on a CUDA device. If a step cannot be recorded, `note` says so once.

    At every call the tensors in `inputs` have the same shapes, and the other inputs are the same; all else that the
    step reads or writes must be the same memory every time.
    """

    def __init__(self, phi: Recommender, note: Callable[[str], None]) -> None:
        self.phi, self.note = phi, note
        self.stream = torch.cuda.Stream(phi.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Any] = []
        self.steps = 0
        self.loss = torch.empty(0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The steps' own stream, which waits for the present one and is waited for."""
        outside = torch.cuda.current_stream(self.phi.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def __call__(self, step: Callable[..., Tensor], inputs: list[Any]) -> Tensor:
        """Take a step; return its loss, which the next call may overwrite."""
        if self.graph is not None:
            for held, new in zip(self.inputs, inputs, strict=True):
                if isinstance(held, Tensor):
                    held.copy_(new)
            self.graph.replay()
            return self.loss
        self.steps += 1
        loss = step(*inputs)
        if self.steps == WARM_UP:
            self._record(step, inputs)
        return loss

    def _record(self, step: Callable[..., Tensor], inputs: list[Any]) -> None:
        self.inputs = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators():
            graph.register_generator_state(generator)
        torch.cuda.synchronize(self.phi.device)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.loss = step(*self.inputs)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            self.note(f"its steps are not recorded as a CUDA graph, and take longer: {reason}")
            return
        self.graph = graph

    def _generators(self) -> list[torch.Generator]:
        """The generators of the model's dropout."""
        sources: list[Any] = [self.phi.sequence.source]
        if self.phi.text is not None and self.phi.text.lora is not None:
            sources.append(self.phi.text.lora)
        return [source[0] for source in sources if source[0].device.type == "cuda"]


def step_graph(phi: Recommender, note: Callable[[str], None]) -> StepGraph | None:
    """The graph for steps of `phi`; None where it is not on a CUDA device."""
    return StepGraph(phi, note) if phi.device.type == "cuda" else None
