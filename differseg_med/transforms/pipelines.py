"""The one way from a cohort row to the network's input, and the way of a training sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAffined,
    RandFlipd,
    RandScaleCropd,
    RandZoomd,
    SelectItemsd,
    SpatialPadd,
)

from differseg_med.case import OWN_COLUMNS
from differseg_med.keys import CHANNELS, IMAGE, LABEL, NOTES, PRESENT, REFERENCE, REFERENCE_IMAGES
from differseg_med.transforms.grids import AuditGridsd, ResampleToGridd, ResizeImagesd, SelectReferenced
from differseg_med.transforms.intensity import NormalizeByKindd
from differseg_med.transforms.loading import LoadLabeld, LoadVolumesd
from differseg_med.transforms.modalities import ConcatModalitiesd, RandModalityDropoutd
from differseg_med.transforms.placement import Placement, RandPlaceSlabd
from differseg_med.transforms.slices import RandFlipSlabd, RandModalityIntensityd, RandSlabd

MIN_CROP = 8
"""Pixels along an axis below which a slab is padded with zeros: cropping and shrinking would leave none."""


def preprocessing(
    modalities: Mapping[str, Mapping[str, Any]],
    reference: str,
    pixdim: Sequence[float] | None = (2.0, 2.0, 2.0),
    spatial_size: Sequence[int] | None = None,
) -> Compose:
    """A cohort row (paths) to ``image`` ``(C, R, A, S)`` on the network's grid; deterministic, a flat Compose.

    Args:
        modalities: in the network's channel order, with kind and settings; see `NormalizeByKindd`.
        reference: modality whose original grid the mask will have.
        pixdim: voxel spacing in mm of the network's grid.
        spatial_size: for pictures, in place of ``pixdim``: rows and columns of the network's grid; see `ResizeImagesd`.

    Raises:
        ValueError: for a modality with an impossible name, kind or setting, an undeclared reference, or no spacing.
    """
    names = tuple(modalities)
    for name in {*OWN_COLUMNS, CHANNELS, REFERENCE_IMAGES, NOTES, PRESENT, REFERENCE} & set(names):
        raise ValueError(f"a modality cannot be called {name!r}: the name has another meaning")
    if pixdim is not None and (len(pixdim) != 3 or not all(size > 0 for size in pixdim)):
        raise ValueError(f"pixdim needs three positive numbers (mm), got {list(pixdim)}")
    normalize = NormalizeByKindd(modalities)
    pictures = [] if spatial_size is None else [ResizeImagesd(names, spatial_size)]
    return Compose(
        [
            SelectReferenced(names, reference),
            LoadVolumesd(names),
            LoadLabeld(LABEL, names),
            AuditGridsd(names, LABEL, reference),
            *pictures,
            ResampleToGridd(names, LABEL, None if pictures else pixdim),
            normalize,
            ConcatModalitiesd(names, normalize.channels),
        ]
    )


def training_samples(
    in_channels: Sequence[int],
    roi_size: Sequence[int],
    num_slices: int = 3,
    slice_step: int = 1,
    planes: Sequence[str] = ("axial",),
    *,
    modality_dropout: float = 0.5,
    dropout_weights: Sequence[float] | None = None,
    intensity: float = 1.0,
    max_shift: float = 2.0,
    rotate_degrees: float = 180.0,
    zoom: Sequence[float] = (0.6, 1.25),
    shift: float = 0.25,
    flip_axis: int = 0,
    foreground_prob: float = 0.7,
    placement: Mapping[str, Any] | None = None,
) -> Compose:
    """A preprocessed case to one augmented slab ``(C, *roi_size)`` and its label ``(1, *roi_size)``.

    The field of view is cropped at random and put at a random place in the window, so that the target's position says
    nothing: images cropped around a tumour would otherwise teach that it is in the middle.

    Args:
        in_channels: channels per modality of a slab, the network's; their sum is ``C``.
        roi_size: window in pixels, the one that inference uses.
        num_slices: k.
        slice_step: distance of neighbours in a slab.
        planes: planes to draw slabs from.
        modality_dropout: chance that a sample lacks some of its modalities.
        dropout_weights: how much more often one modality is left out than another; see `RandModalityDropoutd`.
        intensity: strength of `RandModalityIntensityd`.
        max_shift: its misalignment of modalities in pixels; 0 where they lie on each other exactly.
        rotate_degrees: largest rotation in the plane.
        zoom: smallest and largest magnification.
        shift: farthest move of the image's centre in the window, as a share of the window.
        flip_axis: axis of the window that is mirrored in half of the samples: 0 rows, 1 columns (left and right).
        foreground_prob: chance that the centre slice holds some of the target.
        placement: settings of `Placement`: one interpolation in place of rotation, zoom, shift and flip axis above.

    Raises:
        ValueError: for channels that are not whole slabs, or what the single transforms refuse.
    """
    _check_samples(in_channels, num_slices, modality_dropout=modality_dropout, foreground_prob=foreground_prob)
    keys = (IMAGE, LABEL)
    placing, flip_prob = _place_in_steps(keys, roi_size, rotate_degrees, zoom, shift, flip_axis), 0.5
    if placement is not None:
        placing, flip_prob = _place_at_once(roi_size, Placement(**placement))
    return Compose(
        [
            SelectItemsd((*keys, "case_id"), allow_missing_keys=True),
            RandSlabd(IMAGE, LABEL, num_slices, slice_step, planes, foreground_prob),
            *placing,
            RandFlipSlabd(IMAGE, num_slices, flip_prob),
            RandModalityIntensityd(IMAGE, in_channels, intensity, max_shift=max_shift),
            RandModalityDropoutd(IMAGE, in_channels, modality_dropout, dropout_weights),
            EnsureTyped(keys, track_meta=False),  # the network is quicker on plain tensors
        ]
    )


def _check_samples(in_channels: Sequence[int], num_slices: int, **chances: float) -> None:
    """Whole slabs, and chances that are ones; MONAI would clip them without a word."""
    if any(channels % num_slices for channels in in_channels):
        raise ValueError(f"in_channels must be multiples of num_slices {num_slices}, got {list(in_channels)}")
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {chance}")


def _place_at_once(roi_size: Sequence[int], chosen: Placement) -> tuple[list[Any], float]:
    """The transform of one interpolation, and how often a slab's slices are reversed: that mirrors sagittal ones."""
    return [RandPlaceSlabd(IMAGE, LABEL, roi_size, chosen)], chosen.flip_prob


def _place_in_steps(
    keys: Sequence[str],
    roi_size: Sequence[int],
    rotate_degrees: float,
    zoom: Sequence[float],
    shift: float,
    flip_axis: int,
) -> list[Any]:
    """Crop, scale, then turn and move, then mirror: an interpolation for each."""
    modes = ("bilinear", "nearest")
    return [
        SpatialPadd(keys, (MIN_CROP, MIN_CROP)),  # a plane across one slice is one pixel wide
        RandScaleCropd(keys, roi_scale=0.6, max_roi_scale=1.0, random_size=True, random_center=True),
        RandZoomd(keys, prob=0.8, min_zoom=zoom[0], max_zoom=zoom[1], mode=modes, keep_size=False),
        _rand_place(keys, modes, roi_size, rotate_degrees, shift),
        RandFlipd(keys, prob=0.5, spatial_axis=flip_axis),
    ]


def _rand_place(
    keys: Sequence[str], modes: Sequence[str], roi_size: Sequence[int], rotate_degrees: float, shift: float
) -> RandAffined:
    """Put the image at a random place of the window, turned, sheared and scaled a little; zero around it."""
    return RandAffined(
        keys,
        prob=1.0,
        rotate_range=[np.deg2rad(rotate_degrees)],
        scale_range=[0.1, 0.1],
        shear_range=[0.1, 0.1],
        translate_range=[size * shift for size in roi_size],
        spatial_size=tuple(roi_size),
        mode=modes,
        padding_mode="zeros",
    )
