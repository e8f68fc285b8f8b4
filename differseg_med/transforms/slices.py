"""2.5D: slabs of neighbouring slices in three planes, and their augmentation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor
from torch.nn import functional as F

#: Anatomical plane -> the axis of a RAS volume ``(C, R, A, S)`` along which its slices are stacked.
PLANES = {"axial": 3, "coronal": 2, "sagittal": 1}


def to_plane(volume: Tensor, plane: str) -> Tensor:
    """Move the slice axis of a RAS volume ``(C, R, A, S)`` first: ``(C, slices, rows, columns)``.

    The in-plane axes keep their order: axial (R, A), coronal (R, S), sagittal (A, S).
    """
    return volume.movedim(PLANES[plane], 1)


def from_plane(slices: Tensor, plane: str) -> Tensor:
    """Undo `to_plane`."""
    return slices.movedim(1, PLANES[plane])


def slab_indices(center: int | Tensor, num_slices: int, depth: int, step: int = 1) -> Tensor:
    """Indices of ``num_slices`` slices around ``center``, ``step`` apart, ascending; border slices repeat at the edge.

    A tensor of N centers gives ``(N, num_slices)``.
    """
    offsets = step * (torch.arange(num_slices) - num_slices // 2)
    return (torch.as_tensor(center).unsqueeze(-1) + offsets).clamp(0, depth - 1)


def gather_slabs(slices: Tensor, centers: Tensor, num_slices: int, step: int = 1) -> Tensor:
    """Cut slabs, whose slices are ``step`` apart, out of ``(M, slices, rows, columns)``.

    Returns:
        ``(N, M * num_slices, rows, columns)``, modality-major with slices ascending:
        ``[m1 z-1, m1 z, m1 z+1, m2 z-1, ...]``.
    """
    index = slab_indices(centers, num_slices, slices.shape[1], step)
    return slices[:, index].movedim(1, 0).flatten(1, 2)


class RandSlabd(RandomizableTransform, MapTransform):
    """Draw one slab ``(M * k, rows, columns)`` and the label of its centre slice ``(1, rows, columns)``.

    Args:
        image_key: volume ``(M, R, A, S)``.
        label_key: label ``(1, R, A, S)``.
        num_slices: k, odd.
        slice_step: distance of neighbours in a slab, in slices of the network's grid.
        planes: planes to draw from.
        foreground_prob: chance that the centre slice holds some of the target.

    Raises:
        ValueError: for an even number of slices or an unknown plane.
    """

    def __init__(
        self,
        image_key: str,
        label_key: str,
        num_slices: int = 3,
        slice_step: int = 1,
        planes: Sequence[str] = ("axial",),
        foreground_prob: float = 0.7,
    ) -> None:
        MapTransform.__init__(self, (image_key, label_key))
        RandomizableTransform.__init__(self, 1.0)
        check_slab(num_slices, planes, slice_step)
        self.image_key, self.label_key = image_key, label_key
        self.num_slices, self.slice_step, self.planes = num_slices, slice_step, tuple(planes)
        self.foreground_prob = foreground_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw."""
        d = dict(data)
        plane = self.planes[self.R.randint(len(self.planes))]
        label = to_plane(torch.as_tensor(d[self.label_key]), plane)
        with_target = label.flatten(2).any(dim=2)[0].nonzero().flatten()
        if len(with_target) and self.R.random() < self.foreground_prob:
            center = int(with_target[self.R.randint(len(with_target))])
        else:
            center = int(self.R.randint(label.shape[1]))
        image = to_plane(torch.as_tensor(d[self.image_key]), plane)
        d[self.image_key] = gather_slabs(image, torch.tensor([center]), self.num_slices, self.slice_step)[0]
        d[self.label_key] = label[:, center].clone()
        return d


class RandFlipSlabd(RandomizableTransform, MapTransform):
    """Reverse the order of a slab's slices within each modality; the centre stays.

    Args:
        image_key: slab ``(M * k, H, W)``, modality-major.
        num_slices: k.
        prob: chance of doing so.
    """

    def __init__(self, image_key: str, num_slices: int, prob: float = 0.5) -> None:
        MapTransform.__init__(self, image_key)
        RandomizableTransform.__init__(self, prob)
        self.num_slices = num_slices

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Flip."""
        d = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.keys:
                d[key] = d[key].unflatten(0, (-1, self.num_slices)).flip(1).flatten(0, 1)
        return d


class RandModalityIntensityd(RandomizableTransform, MapTransform):
    """Change the intensities of each modality of a slab by itself, as another scanner would.

    Random gain, offset, gamma, noise, blur, a smooth bias field and a small shift against the other modalities. Zero
    voxels ("no data") stay zero.

    Args:
        keys: slabs ``(C, H, W)``, modality-major, already normalised.
        in_channels: channels per modality, the network's; their sum is ``C``.
        strength: scales the spread of everything; 0 changes nothing.
        prob: chance that a modality is changed.
        max_shift: largest misalignment of a modality other than the first, in pixels.
    """

    shift_prob, gamma_prob, noise_prob, blur_prob, field_prob = 0.3, 0.3, 0.3, 0.2, 0.3
    """Chances, each of a modality that is changed; `shift_prob` of any but the first."""
    gain, level, gamma, noise, field, blur = 0.2, 0.15, 0.2, 0.3, 0.15, (0.4, 1.2)
    """Spreads at strength 1; `noise` is the largest, `blur` the least and most, in pixels, at any strength."""

    def __init__(
        self,
        keys: KeysCollection,
        in_channels: Sequence[int],
        strength: float = 1.0,
        prob: float = 0.8,
        max_shift: float = 2.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.in_channels, self.strength, self.prob, self.max_shift = list(in_channels), strength, prob, max_shift

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change."""
        d = dict(data)
        for key in self.keys:
            parts = torch.as_tensor(d[key]).split(self.in_channels)
            d[key] = torch.cat([self._change(part, i) for i, part in enumerate(parts)])
        return d

    def _change(self, part: Tensor, index: int) -> Tensor:
        if not bool(part.any()) or self.strength == 0:
            return part
        if index > 0 and self.R.random() < self.shift_prob:
            part = _shift(part, *self.R.uniform(-self.max_shift, self.max_shift, 2))
        if self.R.random() >= self.prob:
            return part
        data, s = part != 0, self.strength
        out = part * math.exp(self.R.normal(0, self.gain * s)) + self.R.normal(0, self.level * s)
        if self.R.random() < self.gamma_prob:
            out = out.sign() * out.abs().pow(math.exp(self.R.normal(0, self.gamma * s)))
        if self.R.random() < self.noise_prob:
            noise = torch.from_numpy(self.R.normal(0, 1, out.shape).astype("float32"))
            out = out + noise * self.R.uniform(0, self.noise * s)
        if self.R.random() < self.blur_prob:
            out = _blur(out, self.R.uniform(*self.blur))
        if self.R.random() < self.field_prob:
            coarse = torch.from_numpy(self.R.normal(0, self.field * s, (1, 1, 3, 3)).astype("float32"))
            field = F.interpolate(coarse, size=out.shape[-2:], mode="bicubic", align_corners=True)[0]
            out = (out + 2) * (1 + field) - 2
        return torch.where(data, out, torch.zeros_like(out))


def check_slab(num_slices: int, planes: Sequence[str], slice_step: int = 1) -> None:
    """Refuse slabs without a centre slice, or of one slice many times, and planes that do not exist.

    Raises:
        ValueError: saying which.
    """
    if num_slices < 1 or num_slices % 2 == 0:
        raise ValueError(f"num_slices must be odd, so that a slab has a centre slice; got {num_slices}")
    if slice_step < 1:
        raise ValueError(f"slice_step must be at least 1, got {slice_step}")
    unknown = [p for p in planes if p not in PLANES]
    if unknown or not planes:
        raise ValueError(f"planes must be some of {list(PLANES)}, got {list(planes)}")


def _shift(part: Tensor, rows: float, columns: float) -> Tensor:
    """Move a slab ``(k, H, W)`` by a fraction of pixels, zero outside."""
    h, w = part.shape[-2:]
    theta = torch.tensor([[[1.0, 0.0, 2 * columns / w], [0.0, 1.0, 2 * rows / h]]], dtype=part.dtype)
    grid = F.affine_grid(theta, [1, 1, h, w], align_corners=False)
    return F.grid_sample(part[None], grid, align_corners=False)[0]


def _blur(part: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a slab ``(k, H, W)`` in the plane, 5 taps."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=part.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    out = F.conv2d(part.unsqueeze(1), taps.view(1, 1, 5, 1), padding=(2, 0))
    return F.conv2d(out, taps.view(1, 1, 1, 5), padding=(0, 2)).squeeze(1)
