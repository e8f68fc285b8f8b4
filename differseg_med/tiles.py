"""Windows on the slices of one plane: where they lie, how they are filled into batches, and how they blend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor
from torch.nn import functional

from differseg_med.networks.fusion import present_modalities
from differseg_med.networks.restriction import Pattern
from differseg_med.transforms.slices import gather_slabs

MOST_OPEN = 64
"""Slices that may wait for windows of theirs, so that memory does not grow with the volume."""

Window = tuple[int, tuple[slice, slice]]
"""Number of a slice, rows and columns of the padded slice."""


@dataclass
class Tiles:
    """The slices of a volume along one plane, tiled as by MONAI's ``sliding_window_inference`` in its gaussian mode.

    Args:
        slices: ``(M, n, rows, columns)``.
        roi_size: rows and columns of a window.
        num_slices: of a slab.
        slice_step: between them.
        overlap: share of neighbouring windows that overlaps.
    """

    slices: Tensor
    roi_size: tuple[int, int]
    num_slices: int
    slice_step: int
    overlap: float
    padding: tuple[int, int, int, int] = field(init=False)
    places: list[tuple[slice, slice]] = field(init=False)
    weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = tuple(self.slices.shape[2:])
        lack = [max(roi - n, 0) for roi, n in zip(self.roi_size, size)]
        self.padding = (lack[1] // 2, lack[1] - lack[1] // 2, lack[0] // 2, lack[0] - lack[0] // 2)
        padded = [n + more for n, more in zip(size, lack)]
        steps = [r if r == n else max(int(r * (1 - self.overlap)), 1) for r, n in zip(self.roi_size, padded)]
        self.places = list(dense_patch_slices(padded, self.roi_size, steps))
        self.weights = compute_importance_map(self.roi_size, mode="gaussian", device=self.slices.device)

    def with_signal(self, among: Iterable[int]) -> list[int]:
        """Which of some slices hold anything; one by one, as a copy of the volume would be needed otherwise."""
        return [z for z in among if bool((self.slices[:, z] != 0).any())]

    def slab(self, center: int) -> Tensor:
        """The padded slab ``(C, rows, columns)`` around a slice."""
        slab = gather_slabs(self.slices, torch.tensor([center]), self.num_slices, self.slice_step)[0]
        return functional.pad(slab, self.padding) if any(self.padding) else slab

    def windows(self, centers: Sequence[int], zone: Tensor | None = None) -> Iterator[Window]:
        """The windows of some slices; with a ``zone``, bool ``(n, rows, columns)``, those that hold some of it."""
        for z in centers:
            if zone is None:
                yield from ((z, place) for place in self.places)
            else:
                inside = functional.pad(zone[z], self.padding) if any(self.padding) else zone[z]
                yield from ((z, place) for place in self.places if bool(inside[place].any()))

    def patterns(self, windows: Sequence[Window], in_channels: list[int]) -> list[Pattern]:
        """Which modalities each window has."""
        found: list[Pattern] = []
        held = (-1, torch.empty(0))
        for z, place in windows:
            if held[0] != z:
                held = (z, self.slab(z))
            found.append(tuple(present_modalities(held[1][(slice(None), *place)][None], in_channels)[0].tolist()))
        return found


class Job(NamedTuple):
    """Windows of one plane to compute, slice by slice, and which modalities each has."""

    tiles: Tiles
    windows: Sequence[Window]
    patterns: Sequence[Pattern]


def run(
    jobs: Sequence[Job], batch_size: int, network: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Compute windows in batches that are filled across slices and planes, those with the same modalities together.

    Windows without any signal are computed once: they are all the same.

    Args:
        jobs: of one size of windows.
        batch_size: windows per call.
        network: ``(N, C, rows, columns)`` to logits ``(N, 1, rows, columns)``.

    Yields:
        For each slice the number of its job, its own, the blended logits ``(rows, columns)``, and where there are any.
    """
    batches, blends = _Batches(batch_size, network), [_Blend(job.tiles, job.windows) for job in jobs]

    def finished() -> Iterator[tuple[int, int, Tensor, Tensor]]:
        for number, blend in enumerate(blends):
            yield from ((number, *found) for found in blend.finished())

    for blend, job in zip(blends, jobs):
        slab = (-1, torch.empty(0))
        for window, pattern in zip(job.windows, job.patterns):
            if slab[0] != window[0]:
                slab = (window[0], job.tiles.slab(window[0]))
            batches.take(blend, window, pattern, slab[1][(slice(None), *window[1])])
            yield from finished()
    batches.flush_all()
    yield from finished()


class _Blend:
    """The slices of a plane that wait for windows of theirs."""

    def __init__(self, tiles: Tiles, windows: Sequence[Window]) -> None:
        self.tiles = tiles
        self.left = Counter(z for z, _ in windows)
        self.open: dict[int, tuple[Tensor, Tensor]] = {}  # sums of logits and of weights, of padded slices

    def finished(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The slices of which no window is left."""
        tiles = self.tiles
        columns, _, rows, _ = tiles.padding
        inside = (slice(rows, rows + tiles.slices.shape[2]), slice(columns, columns + tiles.slices.shape[3]))
        for z in [z for z in self.open if not self.left[z]]:
            total, weight = (part[inside] for part in self.open.pop(z))
            known = weight > 0
            yield z, torch.where(known, total / weight.clamp_min(1e-12), 0.0), known

    def add(self, window: Window, logits: Tensor) -> None:
        """The logits ``(rows, columns)`` of a window."""
        z, place = window
        if z not in self.open:
            padded = functional.pad(torch.zeros_like(self.tiles.slices[0, z], dtype=torch.float32), self.tiles.padding)
            self.open[z] = (padded, torch.zeros_like(padded))
        total, weight = self.open[z]
        total[place] += logits.to(total.dtype) * self.tiles.weights
        weight[place] += self.tiles.weights
        self.left[z] -= 1


class _Batches:
    """The windows that wait for their batch to be full."""

    def __init__(self, batch_size: int, network: Callable[[Tensor], Tensor]) -> None:
        self.batch_size, self.network = batch_size, network
        self.waiting: dict[Pattern, list[tuple[_Blend, Window, Tensor]]] = {}
        self.empty: Tensor | None = None

    def take(self, blend: _Blend, window: Window, pattern: Pattern, image: Tensor) -> None:
        """Compute a window, or let it wait for others with the same modalities."""
        if not any(pattern):
            self.empty = self.network(image[None])[0, 0] if self.empty is None else self.empty
            blend.add(window, self.empty)
            return
        self.waiting.setdefault(pattern, []).append((blend, window, image))
        if len(self.waiting[pattern]) == self.batch_size:
            self._flush(pattern)
        waits = {(id(blend), window[0]) for batch in self.waiting.values() for blend, window, _ in batch}
        if len(waits) > MOST_OPEN:
            self.flush_all()

    def flush_all(self) -> None:
        """Compute whatever waits."""
        for pattern in list(self.waiting):
            self._flush(pattern)

    def _flush(self, pattern: Pattern) -> None:
        batch = self.waiting.pop(pattern)
        for (blend, window, _), logits in zip(batch, self.network(torch.stack([image for _, _, image in batch]))):
            blend.add(window, logits[0])
