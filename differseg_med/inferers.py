"""2.5D sliding window: volumes through a network that sees a few neighbouring slices at a time."""

from __future__ import annotations

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
from differseg_med.tiles import Tiles
from differseg_med.transforms.slices import check_slab, from_plane, to_plane


class SliceWindowInferer(Inferer):
    """Predict a volume slice by slice from slabs of neighbouring slices, tiled in the plane, in one or more planes.

    Each slice is covered by ``roi_size`` windows with gaussian blending (as MONAI's sliding window); batches are filled
    across slices. Slices without any signal are not computed: they get ``empty_logit``. With several planes the
    probabilities are averaged, which evens out the steps between slices. The arguments do not change during use.

    With ``look_every`` the first plane is looked through first, every so many slices, and interpolated between them.
    Where it nowhere rises above ``suspect``, its probability stands; what is within ``margin`` of anything suspect is
    computed in full, and is as without the look. A target thinner than ``look_every`` slices may be overlooked.

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
    ) -> None:
        super().__init__()
        check_slab(num_slices, planes, slice_step)
        if look_every < 1 or margin < 0 or not 0 < suspect < 1:
            raise ValueError(
                f"need look_every >= 1, margin >= 0 and 0 < suspect < 1, got {look_every}, {margin}, {suspect}"
            )
        self.roi_size, self.planes = tuple(roi_size), tuple(planes)
        self.num_slices, self.slice_step = num_slices, slice_step
        self.overlap, self.sw_batch_size, self.flip, self.empty_logit = overlap, sw_batch_size, flip, empty_logit
        self.look_every, self.suspect, self.margin = look_every, suspect, margin

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
        if self.look_every == 1:
            probability = self._mean(volume, task, None)
        else:
            probability = self._look(volume, task)
            zone = functional.max_pool3d(
                (probability > self.suspect).float(), 2 * self.margin + 1, stride=1, padding=self.margin
            )[0].bool()
            if bool(zone.any()):
                probability[:, zone] = self._mean(volume, task, zone)[:, zone]
        return probability.logit_(eps=1e-6).unsqueeze(0)

    def _mean(self, volume: Tensor, task: _Task, zone: Tensor | None) -> Tensor:
        """Mean probabilities ``(1, R, A, S)`` of the planes; with a zone ``(R, A, S)`` they hold within it."""
        total = self._plane(volume, self.planes[0], task, zone)
        for plane in self.planes[1:]:
            total += self._plane(volume, plane, task, zone)
        return total.div_(len(self.planes))

    def _look(self, volume: Tensor, task: _Task) -> Tensor:
        """Probabilities ``(1, R, A, S)`` of the first plane, from every so many slices."""
        plane = self.planes[0]
        depth = to_plane(volume, plane).shape[1]
        seen = sorted({*range(0, depth, self.look_every), depth - 1})
        found = to_plane(self._plane(volume, plane, task, None, seen), plane)
        for before, after in pairwise(seen):
            for z in range(before + 1, after):
                found[:, z] = found[:, before].lerp(found[:, after], (z - before) / (after - before))
        return from_plane(found, plane)

    def _plane(
        self, volume: Tensor, plane: str, task: _Task, zone: Tensor | None, only: Sequence[int] | None = None
    ) -> Tensor:
        """Probabilities ``(1, R, A, S)`` of ``(M, R, A, S)`` from slices of one plane, ``only`` some of them."""
        slices = to_plane(volume, plane)
        wanted = None if zone is None else to_plane(zone[None], plane)[0]
        empty = torch.sigmoid(torch.tensor(self.empty_logit)).item()
        out = torch.full((1, *slices.shape[1:]), empty, dtype=torch.float32, device=volume.device)
        mirrors: list[tuple[int, ...]] = [(), (0,), (1,), (0, 1)] if self.flip else [()]
        for axes in mirrors:
            turned = slices.flip([axis + 2 for axis in axes]) if axes else slices
            within = wanted.flip([axis + 1 for axis in axes]) if axes and wanted is not None else wanted
            tiles = Tiles(turned, (self.roi_size[0], self.roi_size[1]), self.num_slices, self.slice_step, self.overlap)
            signal = tiles.with_signal().nonzero().flatten().tolist()
            centers = signal if only is None else [z for z in signal if z in set(only)]
            for z, logits, known in self._run(tiles, centers, within, task):
                probability = logits.sigmoid().flip(axes) / len(mirrors)
                if axes:
                    out[0, z] += torch.where(known.flip(axes), probability, 0.0)
                else:
                    out[0, z] = torch.where(known, probability, out[0, z])
                task.progress(int(axes == mirrors[-1]))
        return from_plane(out, plane)

    def _run(
        self, tiles: Tiles, centers: Sequence[int], zone: Tensor | None, task: _Task
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        windows = list(tiles.windows(centers, zone))
        channels = getattr(task.network, "in_channels", None)
        whole = [tiles.slices.shape[0] * self.num_slices]
        patterns = tiles.patterns(windows, channels if isinstance(channels, list) and not task.args else whole)
        expect = getattr(task.network, "expect", None)
        if expect is not None:
            expect(Counter(patterns))
        return tiles.run(windows, patterns, self.sw_batch_size, lambda x: task.network(x, *task.args).float())


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
