"""2.5D sliding window: volumes through a network that sees a few neighbouring slices at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional

from differseg_med.errors import ConfigError
from differseg_med.networks.restriction import Pattern
from differseg_med.tiles import MOST_OPEN, Job, Tiles, Window, run
from differseg_med.transforms.slices import check_slab, from_plane, to_plane

DOUBT = 0.75
"""How wrong a slice that is interpolated between two others is taken to be, as a share of their difference."""


class SliceWindowInferer(Inferer):
    """Predict a volume slice by slice from slabs of neighbouring slices, tiled in the plane, in one or more planes.

    Each slice is covered by ``roi_size`` windows with gaussian blending (as MONAI's sliding window); batches are filled
    across slices. Slices without any signal are not computed: they get ``empty_logit``. With several planes the
    probabilities are averaged, which evens out the steps between slices. The arguments do not change during use.

    With ``look_every`` every plane is looked through first, every so many slices, and interpolated between them. Where
    their mean nowhere rises above ``suspect``, it stands; what is within ``margin`` of anything suspect is computed in
    full, and is as without the look. Only a target that lies between two looks in all planes, thinner than
    ``look_every`` slices along every axis, may be overlooked.

    With ``decide_at`` only slices are followed up without which the mask could be another one: where the slices beside
    them differ so much that a mean near that probability could come to lie on its other side. Outside them the
    probabilities are interpolated.

    Args:
        roi_size: window (rows, columns) in pixels, the size that the network was trained with.
        num_slices: slices per modality in a slab, odd.
        slice_step: distance of neighbours in a slab, in slices.
        planes: any of axial, coronal, sagittal (of a RAS volume).
        overlap: share of neighbouring windows that overlaps.
        sw_batch_size: windows per forward pass.
        flip: also predict the mirrored slices (rows, columns) and average; twice to four times the time.
        empty_logit: logit of slices without signal.
        look_every: 1 computes every slice of every plane; choose more on validation cases only.
        suspect: probability above which a look is followed up.
        margin: voxels around what is suspect that are followed up too.
        decide_at: probability at which the mask will be cut; None follows up whatever is suspect.
        tolerance: of ``decide_at``: voxels that may stay in doubt, as a share of the mask.
    """

    def __init__(
        self,
        roi_size: Sequence[int] = (96, 96),
        num_slices: int = 3,
        slice_step: int = 1,
        planes: Sequence[str] = ("axial",),
        overlap: float = 0.5,
        sw_batch_size: int = 16,
        flip: bool = False,
        empty_logit: float = -10.0,
        look_every: int = 1,
        suspect: float = 0.05,
        margin: int = 2,
        decide_at: float | None = None,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        check_slab(num_slices, planes, slice_step)
        if look_every < 1 or margin < 0 or not 0 < suspect < 1:
            raise ValueError(
                f"need look_every >= 1, margin >= 0 and 0 < suspect < 1, got {look_every}, {margin}, {suspect}"
            )
        if decide_at is not None and not 0 < decide_at < 1:
            raise ValueError(f"decide_at must be a probability between 0 and 1, got {decide_at}")
        if tolerance < 0:
            raise ValueError(f"need tolerance >= 0, got {tolerance}")
        if not 0 <= overlap < 1 or sw_batch_size < 1 or len(roi_size) != 2 or min(roi_size) < 1:
            raise ValueError(
                "need 0 <= overlap < 1, sw_batch_size >= 1 and two numbers above 0 as roi_size, "
                f"got {overlap}, {sw_batch_size} and {list(roi_size)}"
            )
        self.roi_size, self.planes = tuple(roi_size), tuple(planes)
        self.num_slices, self.slice_step = num_slices, slice_step
        self.overlap, self.sw_batch_size, self.flip, self.empty_logit = overlap, sw_batch_size, flip, empty_logit
        self.look_every, self.suspect, self.margin = look_every, suspect, margin
        self.decide_at, self.tolerance = decide_at, tolerance

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, progress: Callable[[int], Any] | None = None
    ) -> Tensor:
        """Predict.

        Args:
            inputs: ``(1, M, R, A, S)``, one RAS volume.
            network: maps ``(N, M * num_slices, rows, columns)`` to logits ``(N, 1, rows, columns)``.
            args: more arguments of the network.
            progress: called with the number of slices done after each batch.

        Returns:
            Logits ``(1, 1, R, A, S)``.

        Raises:
            ValueError: for more than one volume at a time.
        """
        if inputs.ndim != 5 or inputs.shape[0] != 1:
            raise ValueError(f"expected one volume (1, M, R, A, S), got {tuple(inputs.shape)}")
        volume = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs)[0]
        task = _Task(network, args, progress or (lambda _: None))
        self._tell(volume, task)
        if self.look_every > 1:
            looks = self._look(volume, self.planes, task)
            probability = looks[0].volume()
            for look in looks[1:]:
                probability += look.volume()
        else:  # each is a whole volume, and none is looked at again
            looks = []
            probability = self._look(volume, self.planes[:1], task)[0].volume()
            for plane in self.planes[1:]:
                probability += self._look(volume, (plane,), task)[0].volume()
        probability /= len(self.planes)
        if self.look_every > 1:
            self._follow_up(volume, probability, looks, task)
        return probability.logit_(eps=1e-6).unsqueeze(0)

    def _tell(self, volume: Tensor, task: _Task) -> None:
        """Tell a network that wants to know it how many windows of a volume have which modalities, about."""
        expect = getattr(task.network, "expect", None)
        if expect is None:
            return
        counts: Counter[Pattern] = Counter()
        for plane in self.planes:
            tiles = self._tiles(to_plane(volume, plane))
            windows = list(tiles.windows(tiles.with_signal(range(0, tiles.slices.shape[1], self.look_every))))
            counts.update(self._patterns(tiles, windows, task))
        expect({pattern: count * self.look_every for pattern, count in counts.items()})

    def _look(self, volume: Tensor, planes: Sequence[str], task: _Task) -> list[_Look]:
        """Every so many slices of some planes, of a volume ``(M, R, A, S)``."""
        empty = torch.sigmoid(torch.tensor(self.empty_logit)).item()
        looks, parts = [], []
        for plane in planes:
            slices = to_plane(volume, plane)
            depth = slices.shape[1]
            seen = sorted({*range(0, depth, self.look_every), depth - 1})
            found = torch.full((len(seen), *slices.shape[2:]), empty, dtype=torch.float32, device=volume.device)
            looks.append(_Look(plane, depth, seen, found))
            parts.append(_Part(slices, {z: found[i] for i, z in enumerate(seen)}, None))
        self._compute(parts, task)
        return looks

    def _follow_up(self, volume: Tensor, probability: Tensor, looks: Sequence[_Look], task: _Task) -> None:
        """Compute in full, in place, where a mean of looks ``(1, R, A, S)`` is suspect."""
        zone = (probability > self.suspect).float()
        for axis in range(3):  # one axis after the other is the same, and less work
            size, padding = [1, 1, 1], [0, 0, 0]
            size[axis], padding[axis] = 2 * self.margin + 1, self.margin
            zone = functional.max_pool3d(zone, size, stride=1, padding=padding)
        zone = zone.bool()
        doubtful = None if self.decide_at is None else self._in_doubt(probability, looks, self.decide_at)
        zones = [to_plane(zone, look.plane)[0] for look in looks]
        centers: list[tuple[int, int]] = []
        for number, look in enumerate(looks):
            within = set(zones[number].flatten(1).any(dim=1).nonzero().flatten().tolist())
            within = within if doubtful is None else within & doubtful[number]
            centers += [(number, z) for z in sorted(within - set(look.seen))]
        for some in (centers[i : i + MOST_OPEN] for i in range(0, len(centers), MOST_OPEN)):
            before = {(number, z): looks[number].slice(z) for number, z in some}
            after = {center: found.clone() for center, found in before.items()}
            parts = []
            for number, look in enumerate(looks):
                found = {z: after[n, z] for n, z in some if n == number}
                parts.append(_Part(to_plane(volume, look.plane), found, zones[number]))
            self._compute(parts, task)
            for number, z in some:
                mean = to_plane(probability, looks[number].plane)[0]
                mean[z] += (after[number, z] - before[number, z]) / len(looks)

    def _in_doubt(self, probability: Tensor, looks: Sequence[_Look], threshold: float) -> list[set[int]]:
        """The slices of each look without which a mask, cut from a mean ``(1, R, A, S)``, could be another one.

        A voxel is in doubt if its mean lies nearer to the threshold than the interpolation of this plane may be wrong.
        The slices with the fewest such voxels are left out, as long as these are few beside the mask.
        """
        counts: list[tuple[int, int, int]] = []
        for number, look in enumerate(looks):
            away = (to_plane(probability, look.plane)[0] - threshold).abs_()
            for below, above, change in look.gaps():
                doubt = (change * (DOUBT / len(looks)) > away[below + 1 : above]) & (change > self.suspect)
                counts += [(n, number, below + 1 + i) for i, n in enumerate(doubt.flatten(1).sum(dim=1).tolist()) if n]
        left = self.tolerance * int((probability >= threshold).sum())
        chosen: list[set[int]] = [set() for _ in looks]
        for count, number, z in sorted(counts):
            left -= count
            if left < 0:
                chosen[number].add(z)
        return chosen

    def _compute(self, parts: Sequence[_Part], task: _Task) -> None:
        """Put the probabilities of some slices of each part into place; parts share their batches."""
        if self.flip and len(parts) > 1:  # each is copied to be mirrored: one after the other
            for part in parts:
                self._compute([part], task)
            return
        mirrors: list[tuple[int, ...]] = [(), (0,), (1,), (0, 1)] if self.flip else [()]
        for axes in mirrors:
            turned = [part.flipped(axes) for part in parts]
            for number, z, logits, known in self._run(turned, task):
                found, zone = parts[number].found, parts[number].zone
                probability = logits.sigmoid().flip(axes) / len(mirrors)
                inside = known.flip(axes) if zone is None else known.flip(axes) & zone[z]
                before = found[z] if axes else torch.zeros_like(probability)
                found[z].copy_(torch.where(inside, before + probability, found[z]))
                task.progress(int(axes == mirrors[-1]))

    def _tiles(self, slices: Tensor) -> Tiles:
        return Tiles(slices, (self.roi_size[0], self.roi_size[1]), self.num_slices, self.slice_step, self.overlap)

    def _patterns(self, tiles: Tiles, windows: Sequence[Window], task: _Task) -> list[Pattern]:
        """Which modalities each window has; of a network that does not say what it takes, whether it has anything."""
        channels = getattr(task.network, "in_channels", None)
        whole = [tiles.slices.shape[0] * self.num_slices]
        return tiles.patterns(windows, channels if isinstance(channels, list) and not task.args else whole)

    def _run(self, parts: Sequence[_Part], task: _Task) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        jobs = []
        for part in parts:
            tiles = self._tiles(part.slices)
            windows = list(tiles.windows(tiles.with_signal(part.found), part.zone))
            jobs.append(Job(tiles, windows, self._patterns(tiles, windows, task)))
        return run(jobs, self.sw_batch_size, lambda x: task.network(x, *task.args).float())


class _Part(NamedTuple):
    """What to compute of a plane.

    Args:
        slices: ``(M, n, rows, columns)``.
        found: of the wanted slices, ``(rows, columns)``; stays where there is no signal, or outside the zone.
        zone: bool ``(n, rows, columns)``.
    """

    slices: Tensor
    found: dict[int, Tensor]
    zone: Tensor | None

    def flipped(self, axes: tuple[int, ...]) -> _Part:
        """Its slices and zone mirrored along rows (0), columns (1)."""
        if not axes:
            return self
        zone = None if self.zone is None else self.zone.flip([axis + 1 for axis in axes])
        return self._replace(slices=self.slices.flip([axis + 2 for axis in axes]), zone=zone)


class _Look(NamedTuple):
    """What was seen of a plane: its slices ``seen``, their probabilities ``(len(seen), rows, columns)``."""

    plane: str
    depth: int
    seen: list[int]
    found: Tensor

    def slice(self, z: int) -> Tensor:
        """A slice ``(rows, columns)``, interpolated between those that were seen."""
        after = bisect_left(self.seen, z)
        if self.seen[after] == z:
            return self.found[after]
        low, high = self.seen[after - 1], self.seen[after]
        return self.found[after - 1].lerp(self.found[after], (z - low) / (high - low))

    def gaps(self) -> Iterator[tuple[int, int, Tensor]]:
        """Neighbours that were seen, with others between them, and how much they differ ``(rows, columns)``."""
        for i, (below, above) in enumerate(pairwise(self.seen)):
            if above > below + 1:
                yield below, above, (self.found[i + 1] - self.found[i]).abs()

    def volume(self) -> Tensor:
        """All of them as a volume ``(1, R, A, S)``."""
        every = self.found if len(self.seen) == self.depth else torch.stack([self.slice(z) for z in range(self.depth)])
        return from_plane(every[None], self.plane)


class _Task(NamedTuple):
    """What an inferer was called with."""

    network: Callable[..., Tensor]
    args: tuple[Any, ...]
    progress: Callable[[int], Any]


class AutocastInferer(Inferer):
    """Another inferer in bfloat16 (autocast) on any device; what comes out is float32 again.

    MONAI's own ``amp`` is float16 with a loss scaler, and CUDA only.

    Args:
        inferer: does the work.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Predict as the inferer does; a list of outputs stays a list."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            out = self.inferer(inputs, network, *args, **kwargs)
        return [o.float() for o in out] if isinstance(out, (list, tuple)) else out.float()


def check_channels(network: object, inferer: Inferer, channels: Sequence[int]) -> None:
    """Whether the network takes the slabs that an inferer cuts.

    Args:
        network: of any kind; only a `DifferSeg` says what it takes.
        inferer: of any kind; only a `SliceWindowInferer` cuts slabs.
        channels: per modality, of the volume.

    Raises:
        ConfigError: if it does not.
    """
    takes = getattr(network, "in_channels", None)
    if not isinstance(inferer, SliceWindowInferer) or not isinstance(takes, (list, tuple)):
        return
    needed = [count * inferer.num_slices for count in channels]
    if list(takes) != needed:
        raise ConfigError(
            "the network takes other channels than the slabs have",
            entry="in_channels",
            expected=f"{needed}: {inferer.num_slices} slices of each modality's {list(channels)} channels",
            found=list(takes),
            remedy="Change in_channels or num_slices; weights fit one number of channels only.",
        )
