"""What ``report.html`` shows of a case: a picture, and small volumes for its viewer."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from torch.nn import functional as F

from differseg_med.components import foreground_box, foreground_center
from differseg_med.geometry import FloatArray, Grid
from differseg_med.reports.overlay import closest_ras, draw_overlay
from differseg_med.reports.overlay2d import draw_panels
from differseg_med.transforms.restoring import resample_mask

MARGIN_MM = 50.0
"""How much of the surroundings of the mask is shown."""

LEVELS = 63
"""Grey levels, besides 0 for no data: fewer than a screen has, which halves the size."""

SIZE = 560_000
"""Characters of a case in the page, picture and volumes: 50 cases stay under 30 MB."""

SMALLEST = 60_000
"""Characters that the volumes may have however large the picture is."""

Image = NDArray[np.float32]
Mask = NDArray[np.uint8]


def part_of(image: Image, affine: FloatArray, channels: Sequence[str], mask: Mask, grid: Grid) -> dict[str, Any]:
    """Picture and volumes of a case, together no more than `SIZE`.

    Args:
        image: ``(C, h, w, d)``, normalised; 0 is no data. A modality without any data is left out.
        affine: of ``image``, RAS.
        channels: the modality that each channel belongs to.
        mask: ``(H, W, D)`` of 0 and 1 on ``grid``.
        grid: the mask's grid, any orientation, same space.

    Returns:
        ``picture`` (WebP, base64: three planes, a row per modality), ``volumes`` (name to NIfTI, gzip, base64),
        ``mask`` (likewise: its own voxels around the foreground), ``levels``, ``center_mm`` (RAS) and a ``caption``.
    """
    whole = Grid(image.shape[1:], affine)
    part = foreground_box(mask, (1, 1, 1))
    window: tuple[slice, ...]
    middle = foreground_center(mask)
    if part is None or middle is None:
        center = whole.corners().mean(axis=0)
        part, window, shown = tuple([slice(0, 1)] * 3), tuple([slice(None)] * 3), "the whole field of view"
    else:
        center = grid.world(middle)
        window = _around(_part(grid, part), whole)
        shown = f"the mask and {MARGIN_MM:.0f} mm around it"
    near, own = image[(slice(None), *window)], _part(whole, window)
    picture = _picture(near, own, channels, resample_mask(mask, grid, own))
    volumes, spacing_mm = _volumes(near, own, channels, max(SIZE - len(picture), SMALLEST))
    return {
        "picture": picture,
        "volumes": volumes,
        "mask": _base64(_nifti(mask[part], _part(grid, part).affine)),
        "levels": LEVELS,
        "center_mm": [round(float(x), 2) for x in center],
        "caption": f"Shown: {shown}, as the network sees it, voxels of {_times(spacing_mm)} mm; the mask in its own.",
    }


def panels_of(pictures: Mapping[str, Image], mask: Mask) -> str:
    """Photographs ``(H, W, C)`` by name side by side, with the outline of the mask ``(H, W)``: WebP, base64."""
    return _base64(draw_panels(pictures, mask, suffix="webp"))


def _picture(image: Image, grid: Grid, channels: Sequence[str], mask: Mask) -> str:
    """Three planes through the mask, one row per modality; image and mask on ``grid``."""
    turned, spacing_mm = closest_ras(mask, grid.affine)
    rows = {name: closest_ras(_levels(v), grid.affine)[0] for name, v in _by_modality(image, channels).items()}
    windows = dict.fromkeys(rows, (0.0, float(LEVELS)))
    shown = rows or np.zeros_like(turned)
    return _base64(draw_overlay(shown, turned, spacing_mm=spacing_mm, windows=windows, suffix="webp"))


def _by_modality(image: Image, channels: Sequence[str]) -> dict[str, Image]:
    """One volume ``(h, w, d)`` per modality that has data; colours become grey."""
    names = dict.fromkeys(channels)
    volumes = {name: image[[i for i, c in enumerate(channels) if c == name]].mean(axis=0) for name in names}
    return {name: volume for name, volume in volumes.items() if volume.any()}


def _part(grid: Grid, window: Sequence[slice]) -> Grid:
    """The grid of a window of an array."""
    starts, stops = zip(*(s.indices(n)[:2] for s, n in zip(window, grid.shape)))
    return Grid(tuple(np.subtract(stops, starts)), grid.affine @ from_matvec(np.eye(3), starts))


def _around(target: Grid, image: Grid) -> tuple[slice, ...]:
    """The voxels of ``image`` within `MARGIN_MM` of the box of ``target``."""
    corners = image.indices(target.corners())
    margin = MARGIN_MM / np.asarray(image.spacing_mm)
    low, high = np.floor(corners.min(axis=0) - margin), np.ceil(corners.max(axis=0) + margin) + 1
    starts = np.clip(low, 0, np.asarray(image.shape) - 1).astype(int)
    return tuple(slice(int(a), int(max(b, a + 1))) for a, b in zip(starts, high))


def _volumes(
    image: Image, grid: Grid, channels: Sequence[str], limit: int
) -> tuple[dict[str, str], tuple[float, float, float]]:
    """The modalities as files in base64 of at most ``limit`` characters together, and their voxel spacing in mm."""
    spacing = float(min(grid.spacing_mm))
    while True:
        shape = tuple(max(1, min(n, round(extent / spacing))) for n, extent in zip(grid.shape, grid.extent_mm))
        coarser = F.interpolate(torch.from_numpy(image)[None], shape, mode="area")[0].numpy()
        scale = np.divide(grid.shape, shape)
        affine = grid.affine @ from_matvec(np.diag(scale), (scale - 1) / 2)  # the outer borders stay
        files = {name: _base64(_nifti(_levels(v), affine)) for name, v in _by_modality(coarser, channels).items()}
        size = sum(map(len, files.values()))
        if size <= limit or max(shape) == 1:
            return files, Grid(shape, affine).spacing_mm
        spacing *= max(1.05, (size / limit) ** (1 / 3))


def _levels(volume: Image) -> Mask:
    """Grey values 1 to `LEVELS`; 0 is no data."""
    low, high = np.percentile(volume[volume != 0], (0.5, 99.5))
    grey = np.clip((volume - low) / max(high - low, 1e-6), 0, 1) * (LEVELS - 1)
    return np.where(volume == 0, 0, 1 + grey.round()).astype(np.uint8)


def _nifti(voxels: NDArray[np.uint8], affine: FloatArray) -> bytes:
    """A NIfTI file, compressed the same way every time."""
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)  # 6: thrice the time for 3 % less


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _times(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{mm:.1f}" for mm in spacing_mm)
