"""Whole batches of training samples, drawn on the device where the network is.

`training_samples` draws one sample after another on a processor core, which gives about a hundred samples a second; a
GPU wants thousands. Here every case lies on the device, and a batch is one gather out of all of them: the slab, the
placement and the shift between modalities are coordinates of a single bilinear interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureTyped, SelectItemsd
from torch import Tensor
from torch.nn import functional

from differseg_med.errors import ConfigError
from differseg_med.keys import IMAGE, LABEL
from differseg_med.transforms.modalities import RandModalityDropoutd
from differseg_med.transforms.placement import RandPlaceSlabd, target_pixels
from differseg_med.transforms.slices import PLANES, RandFlipSlabd, RandModalityIntensityd, RandSlabd, slab_indices

_ROWS_AND_COLUMNS = {"axial": (1, 2), "coronal": (1, 3), "sagittal": (2, 3)}
"""Plane -> the axes of a volume ``(C, R, A, S)`` that are its rows and columns."""


class BatchedSamples:
    """The samples of `training_samples` in batches: the same draws, computed for a whole batch at once.

    Cases are chosen with replacement. Everything random comes from one seed, so that the same seed on the same device
    gives the same batches. In two things the samples differ from those made one by one: what a shift between modalities
    moves into the window is image, not zero, and there is one interpolation with a shift, not two.

    Args:
        items: preprocessed cases with ``image`` ``(M, R, A, S)``, ``label`` ``(1, R, A, S)`` and ``case_id``.
        samples: what `training_samples` returned, with a ``placement``.
        device: where the cases are kept and the samples made.

    Raises:
        ConfigError: if the samples are made by other transforms.
    """

    def __init__(self, items: Sequence[Mapping[str, Any]], samples: Compose, device: torch.device | str) -> None:
        self.slab, self.place, self.flip, self.intensity, self.dropout = batch_parts(samples)
        self.device = torch.device(device)
        self.case_ids = [str(item["case_id"]) for item in items]
        images = [torch.as_tensor(item[IMAGE]) for item in items]
        labels = [torch.as_tensor(item[LABEL]) for item in items]
        self._shapes = np.array([image.shape for image in images])  # cases x (M, R, A, S)
        self._starts = np.cumsum([0, *(image.numel() for image in images)])[:-1]
        self._label_starts = np.cumsum([0, *(label.numel() for label in labels)])[:-1]
        self._images = torch.cat([image.reshape(-1).float() for image in images]).to(self.device)
        self._labels = torch.cat([(label.reshape(-1) > 0).to(torch.uint8) for label in labels]).to(self.device)
        self._targets = [{plane: _slices_with_target(label, plane) for plane in self.slab.planes} for label in labels]
        placed = self.place.placement.target_prob is not None
        self._drawn = [(label[0] > 0).numpy() for label in labels] if placed else []
        self._window = self.place.window.to(self.device)
        self.set_random_state(0)

    def set_random_state(self, seed: int) -> None:
        """Begin the random numbers anew."""
        self._random = np.random.RandomState(seed % 2**32)
        self._noise = torch.Generator(self.device).manual_seed(seed)

    def batch(self, size: int) -> dict[str, Any]:
        """Draw ``image`` ``(size, M * k, rows, columns)``, ``label`` ``(size, 1, rows, columns)``, ``case_id``."""
        cases = self._random.randint(len(self.case_ids), size=size)
        planes = [self.slab.planes[n] for n in self._random.randint(len(self.slab.planes), size=size)]
        centers = [self._center(case, plane) for case, plane in zip(cases, planes)]
        geometry = self._geometry(cases, planes, centers)
        image, label = self._gather(geometry)
        image = self._drop(self._change(image))
        return {IMAGE: image.flatten(1, 2), LABEL: label, "case_id": [self.case_ids[case] for case in cases]}

    def _center(self, case: int, plane: str) -> int:
        with_target, r = self._targets[case][plane], self._random
        if len(with_target) and r.rand() < self.slab.foreground_prob:
            return int(with_target[r.randint(len(with_target))])
        return int(r.randint(self._shapes[case][PLANES[plane]]))

    def _pixels(self, case: int, plane: str, center: int) -> np.ndarray:
        return target_pixels(self._drawn[case].take(center, axis=PLANES[plane] - 1))

    def _geometry(self, cases: np.ndarray, planes: Sequence[str], centers: Sequence[int]) -> dict[str, Tensor]:
        """Where in the flat memory each sample lies, as small tensors on the device."""
        rows = []
        for case, plane, center in zip(cases, planes, centers):
            shape = self._shapes[case]
            strides = np.array([shape[1:].prod(), shape[2] * shape[3], shape[3], 1])
            down, across = _ROWS_AND_COLUMNS[plane]
            box, matrix, offset = self.place.draw(
                self._random, (shape[down], shape[across]), partial(self._pixels, case, plane, center)
            )
            index = slab_indices(center, self.slab.num_slices, int(shape[PLANES[plane]]), self.slab.slice_step).numpy()
            if self._random.rand() < self.flip.prob:
                index = index[::-1]
            move = np.zeros((len(self.intensity.in_channels), 2))
            for modality in range(1, len(move)):
                if self.intensity.strength and self._random.rand() < self.intensity.shift_prob:
                    move[modality] = self._random.uniform(-self.intensity.max_shift, self.intensity.max_shift, 2)
            rows.append(
                {
                    "place": [*matrix.ravel(), *offset, *move.ravel()],
                    "box": box,
                    "step": [strides[down], strides[across]],
                    "slices": self._starts[case] + strides[PLANES[plane]] * index,
                    "modality": strides[0],
                    "center": self._label_starts[case] + strides[PLANES[plane]] * center,
                }
            )
        kinds = {"place": torch.float32}
        return {
            name: torch.from_numpy(np.array([row[name] for row in rows])).to(self.device, kinds.get(name, torch.int64))
            for name in rows[0]
        }

    def _gather(self, at: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images ``(B, M, k, rows, columns)`` and labels ``(B, 1, rows, columns)`` by one interpolation each."""
        count, place = len(self.intensity.in_channels), at["place"]
        matrix, offset = place[:, :4].reshape(-1, 2, 2), place[:, 4:6]
        move = torch.cat((place.new_zeros(len(place), 1, 2), place[:, 6:].reshape(-1, count, 2)), dim=1)
        window = self._window + move[:, :, None, None]  # the label's, then each modality's
        position = window @ matrix.transpose(1, 2)[:, None, None] + offset[:, None, None, None]
        top, height, left, width = (at["box"][:, n, None, None, None] for n in range(4))
        y, x = position[..., 0] + (height - 1) / 2, position[..., 1] + (width - 1) / 2
        modality = at["modality"][:, None] * torch.arange(count, device=self.device)
        images = at["slices"][:, None, :, None, None] + modality[:, :, None, None, None]
        image, label = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for down in (0, 1):
            for across in (0, 1):
                row, column = y.floor() + down, x.floor() + across
                weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
                weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
                row, column = row.clamp(min=0).minimum(height - 1), column.clamp(min=0).minimum(width - 1)
                pixel = (top + row.long()) * at["step"][:, 0, None, None, None]
                pixel = pixel + (left + column.long()) * at["step"][:, 1, None, None, None]
                image = image + weight[:, 1:, None] * self._images[images + pixel[:, 1:, None]]
                label = label + weight[:, :1] * self._labels[at["center"][:, None, None, None] + pixel[:, :1]]
        return image, (label > 0.5).float()

    def _change(self, image: Tensor) -> Tensor:
        """`RandModalityIntensityd` on ``(B, M, k, rows, columns)``."""
        change, r, size = self.intensity, self._random, image.shape[:2]
        if change.strength == 0:
            return image
        s = change.strength

        def only(chance: float, drawn: np.ndarray, neutral: float) -> np.ndarray:
            return np.where((r.rand(*size) < chance) & changed, drawn, neutral)

        changed = r.rand(*size) < change.prob
        drawn = {
            "gain": only(1, np.exp(r.normal(0, change.gain * s, size)), 1),
            "level": only(1, r.normal(0, change.level * s, size), 0),
            "gamma": only(change.gamma_prob, np.exp(r.normal(0, change.gamma * s, size)), 1),
            "noise": only(change.noise_prob, r.uniform(0, change.noise * s, size), 0),
            "sigma": only(change.blur_prob, r.uniform(*change.blur, size), 0),
        }
        field = (
            r.normal(0, change.field * s, (*size, 3, 3)) * only(change.field_prob, np.ones(size), 0)[..., None, None]
        )
        at = {name: self._send(value)[:, :, None, None, None] for name, value in drawn.items()}
        out = image * at["gain"] + at["level"]
        out = out.sign() * out.abs().pow(at["gamma"])
        noise = torch.randn(out.shape, generator=self._noise, device=self.device)
        out = _blur(out + noise * at["noise"], drawn["sigma"], self._send)
        smooth = functional.interpolate(self._send(field), size=out.shape[-2:], mode="bicubic", align_corners=True)
        out = (out + 2) * (1 + smooth[:, :, None]) - 2
        return torch.where(image != 0, out, torch.zeros_like(out))

    def _drop(self, image: Tensor) -> Tensor:
        """`RandModalityDropoutd` on ``(B, M, k, rows, columns)``: a random subset, without one that is there never."""
        size, r = image.shape[:2], self._random
        prob, how_many = self._send(r.rand(size[0]) < self.dropout.prob), self._send(r.rand(size[0]))
        order = self._send(np.log(self.dropout.weights) + r.gumbel(size=size))  # without replacement, by weight
        present = image.flatten(2).any(dim=2)
        count = present.sum(dim=1)
        dropped = (1 + (how_many * (count - 1)).floor()).minimum(count - 1) * prob * (count > 1)
        rank = order.masked_fill(~present, -math.inf).argsort(dim=1, descending=True).argsort(dim=1)
        return image * (rank >= dropped[:, None])[:, :, None, None, None]

    def _send(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)


def batch_parts(
    samples: Callable[..., Any],
) -> tuple[RandSlabd, RandPlaceSlabd, RandFlipSlabd, RandModalityIntensityd, RandModalityDropoutd]:
    """The steps of `training_samples` that a batch is made by.

    Raises:
        ConfigError: if there are others, or some are missing.
    """
    kinds = (RandSlabd, RandPlaceSlabd, RandFlipSlabd, RandModalityIntensityd, RandModalityDropoutd)
    steps = [step for step in getattr(samples, "transforms", ()) if not isinstance(step, SelectItemsd | EnsureTyped)]
    if [type(step) for step in steps] != list(kinds):
        raise ConfigError(
            "samples can be drawn on the device only as training_samples makes them, with a placement",
            entry="train::samples",
            expected="training_samples with placement: {}",
            found=", ".join(type(step).__name__ for step in steps) or type(samples).__name__,
        )
    slab, place, flip, intensity, dropout = steps
    if len(set(intensity.in_channels)) > 1 or intensity.in_channels[0] != slab.num_slices:
        raise ConfigError(
            "samples on the device need one channel per modality and slice",
            entry="in_channels",
            expected=slab.num_slices,
            found=intensity.in_channels,
        )
    return slab, place, flip, intensity, dropout


def _slices_with_target(label: Tensor, plane: str) -> np.ndarray:
    others = [axis for axis in range(4) if axis != PLANES[plane]]
    found: np.ndarray = (label > 0).sum(dim=others).nonzero().flatten().numpy()
    return found


def _blur(image: Tensor, sigma: np.ndarray, send: Callable[[np.ndarray], Tensor]) -> Tensor:
    """Gaussian blur in the plane, 5 taps, of ``(B, M, k, rows, columns)`` by ``sigma`` ``(B, M)``; 0 leaves it."""
    if not sigma.any():
        return image
    offsets = np.arange(-2, 3)
    wide = np.exp(-0.5 * (offsets / np.maximum(sigma, 1e-3)[..., None]) ** 2)
    taps = np.where(sigma[..., None] > 0, wide, offsets == 0)
    shares = send(taps / taps.sum(axis=-1, keepdims=True))[:, :, None, None, None]
    for axis in (-2, -1):
        pad = [2, 2, 0, 0] if axis == -1 else [0, 0, 2, 2]
        padded, length = functional.pad(image, pad), image.shape[axis]
        image = torch.stack([shares[..., n] * padded.narrow(axis, n, length) for n in range(5)]).sum(dim=0)
    return image
