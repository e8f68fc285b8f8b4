"""From the modalities' own grids to the network's, and from the network's grid back to the reference's."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation, ResampleToMatch, Resize, Spacing
from nibabel.affines import from_matvec

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, almost_same_grid, describe, differences, lattice_map
from differseg_med.grids import audit_grids, raise_on_errors
from differseg_med.io.images2d import filename
from differseg_med.keys import NOTES, REFERENCE
from differseg_med.transforms.resampling import resample_linear


def grid_of(volume: MetaTensor) -> Grid:
    """The grid of a ``(C, H, W, D)`` MetaTensor."""
    return Grid(tuple(volume.shape[1:]), np.asarray(volume.affine, dtype=np.float64))


def original_grid(volume: MetaTensor) -> Grid:
    """The grid that the volume had in its file, before any resampling."""
    return Grid(
        tuple(int(n) for n in volume.meta["spatial_shape"]), np.asarray(volume.meta["original_affine"], np.float64)
    )


def check_label(label: MetaTensor, grid: Grid, reference: str, declared: str) -> None:
    """Refuse a label that is not where the mask will be.

    Args:
        label: ``(1, H, W, D)`` as loaded.
        grid: the original grid of the case's reference.
        reference: the case's reference.
        declared: the declared reference. If the case lacks it, its label may have another grid in the same space.

    Raises:
        CaseError: naming the file.
    """
    own, file = grid_of(label), label.meta["filename_or_obj"]
    if reference == declared and not almost_same_grid(own, grid):
        raise CaseError(
            f"the label is on another grid than {reference}",
            file=file,
            expected=describe(grid),
            found=differences(own, grid),
            remedy=f"Resample the label to the grid of {reference} (differseg-med export --resample) or draw it there.",
        )
    raise_on_errors(audit_grids({reference: grid, "label": own}, reference, files={"label": file}))


class SelectReferenced(MapTransform):
    """Name the modality whose grid the mask will have: the declared one, else the next present in declared order.

    Args:
        keys: modalities in declared order.
        reference: the declared reference modality.

    Raises:
        CaseError: if the case has no modality at all.
    """

    def __init__(self, keys: KeysCollection, reference: str) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if reference not in self.keys:
            raise ValueError(f"reference must be one of {list(self.keys)}, got {reference!r}")
        self.reference = reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``reference`` and a note if it is not the declared one."""
        d = dict(data)
        present = [key for key in self.keys if key in d]
        if not present:
            raise CaseError(
                "the case has no image",
                expected=f"at least one of {', '.join(map(str, self.keys))}",
                remedy="Fill in the cohort table.",
            )
        d[NOTES] = list(d.get(NOTES, []))
        d[REFERENCE] = self.reference if self.reference in d else present[0]
        if d[REFERENCE] != self.reference:
            d[NOTES].append(f"{self.reference} is absent: the mask is on the grid of {present[0]}")
        return d


class AuditGridsd(MapTransform):
    """Compare every image's grid with the reference's; see `differseg_med.grids`.

    Args:
        keys: modalities in declared order.
        label_key: the label, which must be on the reference's own grid (unless the declared reference is absent).
        reference: the declared reference modality.

    Raises:
        CaseError: for spaces that do not fit together, or a label on another grid.
    """

    def __init__(self, keys: KeysCollection, label_key: str, reference: str) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.label_key, self.reference = label_key, reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the audit's warnings to ``notes``."""
        d = dict(data)
        grids = {str(key): grid_of(d[key]) for key in self.key_iterator(d)}
        files = {key: d[key].meta.get("filename_or_obj", "") for key in grids}
        findings = audit_grids(grids, d[REFERENCE], case=d.get("case_id"), files=files)
        raise_on_errors(findings)
        d[NOTES] = [*d[NOTES], *(str(f) for f in findings if f.level == "warning")]
        if self.label_key in d:
            check_label(d[self.label_key], grids[d[REFERENCE]], d[REFERENCE], self.reference)
        return d


class ResampleToGridd(MapTransform):
    """Bring all modalities (and the label) onto one grid: the reference's, oriented RAS, at ``pixdim``.

    The reference is oriented and resampled first; every other volume then goes to that grid in one interpolation, not
    by way of the reference's original grid. Voxels outside a modality's field of view become NaN ("no data"), as are
    those that have no data in their file.

    Args:
        keys: modalities in declared order.
        label_key: a 0/1 label, resampled linearly and cut at one half.
        pixdim: voxel spacing of the network's grid in mm (R, A, S); None keeps the reference's own spacing.
    """

    def __init__(self, keys: KeysCollection, label_key: str, pixdim: Sequence[float] | None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if pixdim is not None and (len(pixdim) != 3 or min(pixdim) <= 0):
            raise ValueError(f"pixdim needs three positive numbers in mm, got {pixdim}")
        self.label_key = label_key
        self._orient = Orientation("RAS", labels=None)
        self._space = Spacing(pixdim, dtype=np.float32, padding_mode="border") if pixdim is not None else None
        self._match = ResampleToMatch(dtype=np.float32, padding_mode="border")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample."""
        d = dict(data)
        grid = grid_of(d[d[REFERENCE]])
        reference = self._orient(d[d[REFERENCE]])
        d[d[REFERENCE]] = reference = reference if self._space is None else around_gaps(self._space, reference)
        target = grid_of(reference)
        for key in self.key_iterator(d):
            if key == d[REFERENCE]:
                continue
            volume = crop_to_lattice(d[key], grid)
            inside = _inside(grid_of(volume), target)
            moved = around_gaps(partial(self._match, img_dst=reference), volume)
            moved[:, ~inside] = float("nan")
            d[key] = moved
        if self.label_key in d:
            label = self._match((d[self.label_key] > 0).float(), img_dst=reference, padding_mode="zeros")
            d[self.label_key] = (label > 0.5).float()
        return d


def around_gaps(resample: Callable[[MetaTensor], MetaTensor], volume: MetaTensor) -> MetaTensor:
    """Resample a volume whose voxels without data are NaN; interpolation would spread them to their neighbours.

    A new voxel is the mean of the known ones that it is made of, by their weights; NaN if more than half is unknown.
    """
    known = ~torch.isnan(volume.as_tensor())
    if bool(known.all()):
        return resample(volume)
    moved = resample(MetaTensor(volume.as_tensor().nan_to_num(nan=0.0), meta=volume.meta))
    weight = resample(MetaTensor(known.float(), meta=volume.meta)).as_tensor()
    moved /= weight
    moved[weight < 0.5] = float("nan")
    return moved


def crop_to_lattice(volume: MetaTensor, reference: Grid) -> MetaTensor:
    """The part of a volume ``(C, H, W, D)`` within the reference's field of view, if both have their voxels in common.

    A CT that was resampled to the T1 gives the same result whether it was also cut to the T1's box or not. Volumes on
    other lattices, or turned against the reference, are returned as they are.
    """
    to_reference = lattice_map(grid_of(volume), reference)
    if to_reference is None or not np.array_equal(to_reference[:3, :3], np.eye(3)):
        return volume
    offset = to_reference[:3, 3]
    start, stop = np.maximum(-offset, 0), np.minimum(volume.shape[1:], np.array(reference.shape) - offset)
    if (start >= stop).any():
        return volume
    box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist()))
    affine = reference.affine @ from_matvec(np.eye(3), start + offset)
    meta = {key: value for key, value in volume.meta.items() if key != "affine"}
    return MetaTensor(volume.as_tensor()[(slice(None), *box)], affine=torch.tensor(affine), meta=meta)


def restore_grid(probability: MetaTensor, target: Grid) -> MetaTensor:
    """Resample one probability channel ``(1, h, w, d)`` to the target grid ``(1, H, W, D)``, trilinear."""
    volume = probability.as_tensor()
    to_source = np.linalg.inv(grid_of(probability).affine) @ target.affine
    channels = [resample_linear(channel.float(), to_source, target.shape) for channel in volume]
    restored = torch.stack(channels) if len(channels) > 1 else channels[0][None]
    meta = {key: value for key, value in probability.meta.items() if key != "affine"}
    return MetaTensor(restored, affine=torch.tensor(target.affine), meta=meta)


def _inside(source: Grid, target: Grid) -> torch.Tensor:
    """Which voxels of ``target`` ``(H, W, D)`` have their center within the field of view of ``source``."""
    to_source = (np.linalg.inv(source.affine) @ target.affine).astype(np.float32)
    axes = [np.arange(n, dtype=np.float32) for n in target.shape]
    inside = np.ones(target.shape, dtype=bool)
    tolerance = 1e-3  # voxels: a center on the border stays inside after two changes of coordinates
    for row, size in zip(to_source[:3], source.shape):
        position = (row[0] * axes[0])[:, None, None] + (row[1] * axes[1])[None, :, None]
        position = position + (row[2] * axes[2])[None, None, :] + row[3]
        inside &= (position >= -0.5 - tolerance) & (position <= size - 0.5 + tolerance)
    return torch.from_numpy(inside)


class ResizeImagesd(MapTransform):
    """Bring every picture ``(C, H, W, 1)`` to one size, whatever its proportions; shrinking averages pixels.

    A note is left of pictures that came in another size than the reference.

    Args:
        keys: modalities; absent ones are skipped.
        spatial_size: rows and columns.

    Raises:
        ValueError: for another number of sizes.
        CaseError: for a volume of several slices.
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if len(spatial_size) != 2 or min(spatial_size) < 1:
            raise ValueError(f"spatial_size needs rows and columns, got {spatial_size}")
        self.spatial_size = (*spatial_size, 1)
        self._shrink = Resize(self.spatial_size, mode="area")
        self._enlarge = Resize(self.spatial_size, mode="trilinear")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize."""
        d = dict(data)
        frame = d[d[REFERENCE]].shape[1:]
        for key in self.key_iterator(d):
            shape = d[key].shape[1:]
            if shape != frame:
                sizes = f"{shape[0]} x {shape[1]} pixels, {d[REFERENCE]} has {frame[0]} x {frame[1]}"
                d[NOTES] = [*d.get(NOTES, []), f"{key}: {sizes}; resized to the same frame"]
            if shape[2] != 1:
                raise CaseError("spatial_size is for 2-D images", file=filename(d[key]), found=f"{shape[2]} slices")
            larger = shape[0] > self.spatial_size[0] or shape[1] > self.spatial_size[1]
            d[key] = around_gaps(self._shrink if larger else self._enlarge, d[key])
        return d
