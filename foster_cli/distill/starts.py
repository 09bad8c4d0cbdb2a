"""Starting points of D~: probes or real windows that the teacher answers, its rollouts, real sequences, random factors.

In: the teacher, V (n, d), real windows. Out: `Start`s, of which validation chooses one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from foster_cli.checkpoint import Store
from foster_cli.console import Console
from foster_cli.data.windows import Windows
from foster_cli.distill.alignment import Outputs
from foster_cli.distill.checks import ASKING
from foster_cli.distill.run_folder import Start, digest
from foster_cli.distill.validation import Check, words
from foster_cli.ops import soft_embed
from foster_cli.runtime import stream_seed
from foster_cli.settings import DistillConfig
from foster_cli.synthetic.factors import from_tensor, random_start
from foster_cli.synthetic.reading import Reading, make_reading
from foster_cli.train.best import value_of


def _unit_rows(V: Tensor) -> Tensor:
    """The rows of V, centred over the catalogue and scaled to length 1."""
    return nn.functional.normalize(V - V.mean(0), dim=-1)


@torch.no_grad()
def diverse_contexts(
    teacher: Outputs, E: Tensor, windows: Windows, M: int, rng: np.random.Generator, most: int = 20000
) -> list[int]:
    """Indices of M windows: those nearest to k-means centres of the teacher's last outputs on up to `most` windows."""
    from sklearn.cluster import KMeans

    chosen = np.sort(rng.choice(len(windows), min(most, len(windows)), replace=False))
    outputs = []
    for part in np.array_split(chosen, max(1, len(chosen) // 512)):
        items = torch.from_numpy(windows.items[part, :-1]).to(E.device)
        last = torch.from_numpy(windows.lengths[part] - 2).to(E.device)
        outputs.append(teacher(E[items.clamp_min(0)])[torch.arange(len(part), device=E.device), last].cpu())
    H = torch.cat(outputs).double().numpy()
    means = KMeans(M, n_init=1, random_state=int(rng.integers(2**31 - 1))).fit(H)
    distance = means.transform(H)  # (W, M)
    picked: list[int] = []
    for m in range(M):
        order = np.argsort(distance[:, m], kind="stable")
        picked.append(next(int(i) for i in order if int(i) not in picked))
    return [int(chosen[i]) for i in picked]


def window_items(windows: Windows, contexts: list[int], L: int) -> np.ndarray:
    """(M, L): the first L items of the windows `contexts`; a short window is repeated."""
    return np.stack([np.resize(windows.items[i, : windows.lengths[i]], L) for i in contexts])


def real_tensor(V: Tensor, windows: Windows, contexts: list[int], L: int, gain: float) -> Tensor:
    """Q (M, L, d) of M real windows: centred unit rows of V times `gain`; a short window is repeated to L."""
    return gain * _unit_rows(V)[torch.from_numpy(window_items(windows, contexts, L)).to(V.device)]


@torch.no_grad()
def rollout_tensor(
    teacher: Outputs, V: Tensor, windows: Windows, contexts: list[int], L: int, gain: float,
    inputs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Q (M, L, d): Q[m,0] is the first item of window m (its centred unit row of V times `gain`). Every later Q[m,t]
    is the frozen teacher's output on the soft sequence so far, so P[m,t] is the teacher's next-item distribution."""
    first = torch.from_numpy(windows.items[contexts, 0]).to(V.device)
    Q = (gain * _unit_rows(V)[first])[:, None, :]
    for _ in range(1, L):
        H = teacher(soft_embed(Q, V, V if inputs is None else inputs))
        Q = torch.cat([Q, H[:, -1:, :]], dim=1)
    return Q


def probe_items(windows: Windows, n: int, M: int, L: int, rng: np.random.Generator) -> np.ndarray:
    """(M, L) items in random order, all different if the training windows hold that many.

    They are drawn without replacement. The weight of an item is the square root of its number of occurrences in
    `windows`: uniform weights would query mostly items that nobody reads, weights by occurrence mostly a few items.
    """
    count = np.bincount(windows.items[windows.items >= 0], minlength=n)
    known = np.flatnonzero(count)
    keys = rng.exponential(size=len(known)) / np.sqrt(count[known])  # the items with the smallest keys are such a draw
    return np.resize(known[np.argsort(keys, kind="stable")], M * L).reshape(M, L)


@torch.no_grad()
def probe_tensor(teacher: Outputs, V: Tensor, items: np.ndarray, gain: float, inputs: Tensor | None = None) -> Tensor:
    """Q (M, 2L, d) with separate targets. Rows 0…L-1 are the inputs: `items` (M, L) as centred unit rows of V times
    `gain`. Row L+t is the target of position t: the frozen teacher's output after items 0…t."""
    index = torch.from_numpy(items).to(V.device)
    return torch.cat([gain * _unit_rows(V)[index], teacher((V if inputs is None else inputs)[index])], dim=1)


def with_own_goals(Q: Tensor) -> Tensor:
    """(M, L+1, d), where each position is the target of the one before it -> (M, 2L, d) with separate targets."""
    return torch.cat([Q[:, :-1], Q[:, 1:]], dim=1)


def starting_points(
    teacher: Outputs, V: Tensor, windows: Windows, config: DistillConfig, seed: int, inputs: Tensor | None = None
) -> Iterator[Start]:
    """Yield the candidate starts of D~: for each draw, each kind in `config.init`; a random one only once.

    `inputs` (n, r): what the teacher reads for each item; None: V.
    """
    M, L, own = config.budget, config.length, config.targets == "own"
    reads = V if inputs is None else inputs
    length = L + 1 if own else L  # L + 1 positions give L inputs and L targets
    kinds = config.init.split(",")
    if "random" in kinds:
        rng = torch.Generator().manual_seed(stream_seed(seed, "init"))
        rows = 2 * L if own else L
        start = random_start(M, rows, V.shape[1], config.rank_user, config.rank_time, rng)
        yield Start(start.to(V.device), 0.0, [])
    kinds = [kind for kind in kinds if kind != "random"]
    for draw in range(config.draws if kinds else 0):
        rng_contexts = np.random.default_rng(stream_seed(seed, "contexts", draw))
        contexts: list[int] = []
        if set(kinds) - {"probe"}:
            contexts = diverse_contexts(teacher, reads, windows, M, rng_contexts)
        for kind in kinds:
            if kind == "probe":
                items = probe_items(windows, len(V), M, L, np.random.default_rng(stream_seed(seed, "probe", draw)))
                Q = probe_tensor(teacher, V, items, config.gain, inputs)
            elif kind == "guided":
                Q = probe_tensor(teacher, V, window_items(windows, contexts, L), config.gain, inputs)
            elif kind == "rollout":
                Q = rollout_tensor(teacher, V, windows, contexts, length, config.gain, inputs)
            else:
                Q = real_tensor(V, windows, contexts, length, config.gain)
            if own and kind not in ASKING:
                Q = with_own_goals(Q)
            synthetic, error = from_tensor(Q, config.rank_user, config.rank_time)
            yield Start(synthetic.to(V.device), error, [] if kind == "probe" else contexts, f"{kind} {draw + 1}")


def best_start(
    starts: Iterator[Start], check_of: Callable[[Reading], Check], config: DistillConfig, V: Tensor,
    console: Console, store: Store,
) -> tuple[Start, Reading]:  # fmt: skip
    """The start on which one fresh model does best on validation (the same seed for all), and its reading.

    The result of each start is stored; a resumed run reads it.
    """
    best: tuple[Start, Reading] | None = None
    value = -math.inf
    kinds = config.init.split(",")
    several = sum(1 if kind == "random" else config.draws for kind in kinds) > 1
    for number, start in enumerate(starts):
        Q = start.synthetic().detach()
        reading = make_reading(config.targets == "own", config.mix, Q, V)
        if not several:
            return start, reading
        stored = store.read(f"start-{number}")
        if stored is not None and stored["Q"] == digest(Q):
            found = stored["found"]
        else:
            found = check_of(reading)(Q, 0)
            store.write({f"start-{number}": {"name": start.name, "Q": digest(Q), "found": found}})
        console.event(event="start", name=start.name, **found)
        console.note(f"start {start.name}: D~ trains a fresh model to {words(found)}")
        if best is None or value_of(found) > value:
            best, value = (start, reading), value_of(found)
    assert best is not None
    return best
