"""Crop, turn, scale, move and mirror a sample in one interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

REACH = 0.35
"""How far from the window's middle the pixel of the target lies that a window is placed for, as a share of its side."""

MARGIN_VOXELS = 4
"""Pixels around that pixel that a part of the image must show, where the image has them."""


@dataclass(frozen=True)
class Placement:
    """How samples are placed in the window; every chance is drawn by itself.

    Attributes:
        crop_prob: chance that only a part of the field of view is seen, then 0.6 to 1 of each side.
        turn_prob: chance of a rotation of up to ``turn_degrees`` to either side.
        turn_degrees: see there.
        any_turn_prob: chance of a rotation by any angle instead.
        zoom_prob: chance of a magnification within ``zoom``.
        zoom: smallest and largest.
        stretch: standard deviation of the logarithm of the stretch of rows against columns.
        shift: farthest move of the centre, as a share of the window.
        flip_prob: chance that the rows are mirrored.
        target_prob: None puts the window near the middle of the image, which is right where it holds all of it. A
            number puts it anywhere in a larger image, and with this chance so that it holds some of the target, if the
            slice does.
    """

    crop_prob: float = 0.5
    turn_prob: float = 0.6
    turn_degrees: float = 30.0
    any_turn_prob: float = 0.1
    zoom_prob: float = 0.6
    zoom: tuple[float, float] = (0.78, 1.22)
    stretch: float = 0.05
    shift: float = 0.1
    flip_prob: float = 0.5
    target_prob: float | None = None


class RandPlaceSlabd(RandomizableTransform, MapTransform):
    """Bring a slab ``(C, h, w)`` and its label ``(1, h, w)`` of any size into a window, in one bilinear interpolation.

    Three transforms one after another (crop and zoom, then an affine) interpolate three times, which blurs, and cost
    several times as much. Outside the image there is zero ("no data"); the label is cut at one half.

    Args:
        image_key: slab.
        label_key: label.
        roi_size: rows and columns of the window.
        placement: what is drawn; None for the defaults.
    """

    def __init__(
        self, image_key: str, label_key: str, roi_size: Sequence[int], placement: Placement | None = None
    ) -> None:
        MapTransform.__init__(self, (image_key, label_key))
        RandomizableTransform.__init__(self, 1.0)
        self.image_key, self.label_key = image_key, label_key
        self.placement = placement or Placement()
        rows, columns = (torch.arange(n) - (n - 1) / 2 for n in roi_size)
        self.roi_size = tuple(roi_size)
        self.window = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Place."""
        d = dict(data)
        image, label = torch.as_tensor(d[self.image_key]), torch.as_tensor(d[self.label_key])
        both = torch.cat((image, label.to(image.dtype)))
        (top, h, left, w), matrix, offset = self.draw(self.R, both.shape[-2:], lambda: target_pixels(label[0]))
        both = both[:, top : top + h, left : left + w]
        turn = torch.from_numpy(matrix.T.astype("float32"))
        position = self.window @ turn + torch.from_numpy(
            offset.astype("float32")
        )  # pixels from the middle of the image
        grid = torch.stack((2 * position[..., 1] / w, 2 * position[..., 0] / h), dim=-1).to(both.dtype)
        placed = functional.grid_sample(both[None], grid[None], align_corners=False)[0]
        d[self.image_key] = placed[: image.shape[0]]
        d[self.label_key] = (placed[image.shape[0] :] > 0.5).to(label.dtype)
        return d

    def draw(
        self, random: np.random.RandomState, shape: Sequence[int], target: Callable[[], NDArray[Any]]
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Draw what happens to an image of ``shape`` (rows, columns).

        Args:
            random: numbers.
            shape: of the image.
            target: gives the pixels ``(N, 2)`` of the target in the slice; asked for only where they count.

        Returns:
            The part of it that is seen (first row, rows, first column, columns); the matrix ``(2, 2)`` from pixels of
            the window to pixels of that part, both from the middle; the offset in such pixels (rows, columns).
        """
        box, held = self._crop(random, shape), None
        if self.placement.target_prob is not None and random.random_sample() < self.placement.target_prob:
            pixels = target()
            held = pixels[random.randint(len(pixels))] if len(pixels) else None
        if held is not None:  # the part that is seen moves as little as it must to show it, and what is around it
            for axis in (0, 1):
                first, part = box[2 * axis : 2 * axis + 2]
                margin = min(MARGIN_VOXELS, (part - 1) // 2)
                moved = np.clip(first, held[axis] - part + 1 + margin, held[axis] - margin)
                box[2 * axis] = int(np.clip(moved, 0, shape[axis] - part))
        return box, self._matrix(random), self._offset(random, box, held)

    def _crop(self, random: np.random.RandomState, shape: Sequence[int]) -> list[int]:
        if random.random_sample() >= self.placement.crop_prob:
            return [0, int(shape[0]), 0, int(shape[1])]
        box = []
        for size in map(int, shape):
            part = max(round(size * random.uniform(0.6, 1.0)), 1)
            box += [int(random.randint(size - part + 1)), part]
        return box

    def _matrix(self, random: np.random.RandomState) -> np.ndarray:
        p, angle, zoom = self.placement, 0.0, 1.0
        if random.random_sample() < p.turn_prob:
            angle = math.radians(random.uniform(-p.turn_degrees, p.turn_degrees))
        if random.random_sample() < p.any_turn_prob:
            angle = random.uniform(-math.pi, math.pi)
        if random.random_sample() < p.zoom_prob:
            zoom = math.exp(random.uniform(math.log(p.zoom[0]), math.log(p.zoom[1])))
        stretch = math.exp(random.normal(0, p.stretch))
        mirror = -1.0 if random.random_sample() < p.flip_prob else 1.0
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix: np.ndarray = turn @ np.diag([mirror * stretch / zoom, 1 / (stretch * zoom)])
        return matrix

    def _offset(self, random: np.random.RandomState, box: Sequence[int], held: NDArray[Any] | None) -> np.ndarray:
        """Where the window's middle lies: near that of the part that is seen, or anywhere in it (``target_prob``)."""
        share = random.uniform(-self.placement.shift, self.placement.shift, 2)
        size = np.array(self.roi_size)
        if self.placement.target_prob is None:
            return size * share
        part = np.array(box[1::2])
        room = np.maximum((part - size) / 2, 0)
        low, high = -room, room
        if held is not None:
            pixel = held - np.array(box[::2]) - (part - 1) / 2
            low, high = np.clip(pixel - REACH * size, -room, room), np.clip(pixel + REACH * size, -room, room)
        found: np.ndarray = size * share + random.uniform(low, high)
        return found


def target_pixels(label: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Rows and columns ``(N, 2)`` of the target in a slice ``(rows, columns)``."""
    return np.argwhere(np.asarray(label) > 0)
