"""The one way from a cohort row to the network's input, and the way of a training sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import Compose, RandAffined, RandFlipd, RandScaleCropd, SelectItemsd

from differseg_med.transforms.grids import AuditGridsd, ChooseReferenced, ToNetworkGridd
from differseg_med.transforms.intensity import NormalizeByKindd
from differseg_med.transforms.loading import LoadVolumesd
from differseg_med.transforms.modalities import IMAGE, RandModalityDropoutd, StackModalitiesd
from differseg_med.transforms.slices import RandFlipSlabd, RandModalityIntensityd, RandSlabd

LABEL = "label"


def preprocessing(
    modalities: Mapping[str, Mapping[str, Any]], reference: str, pixdim: Sequence[float] | None = (2.0, 2.0, 2.0)
) -> Compose:
    """A cohort row (paths) to ``image`` ``(M, R, A, S)`` on the network's grid; deterministic, a flat Compose.

    Args:
        modalities: in the network's channel order, with kind and settings; see `NormalizeByKindd`.
        reference: modality whose original grid the mask will have.
        pixdim: voxel spacing in mm of the network's grid.
    """
    names = tuple(modalities)
    return Compose(
        [
            ChooseReferenced(names, reference),
            LoadVolumesd((*names, LABEL)),
            AuditGridsd(names, LABEL, reference),
            ToNetworkGridd(names, LABEL, pixdim),
            NormalizeByKindd(modalities),
            StackModalitiesd(names),
        ]
    )


def training_samples(
    num_modalities: int,
    roi_size: Sequence[int],
    num_slices: int = 3,
    planes: Sequence[str] = ("axial",),
    *,
    modality_dropout: float = 0.4,
    intensity: float = 1.0,
    rotate_degrees: float = 20.0,
    scale: float = 0.25,
    foreground_prob: float = 0.7,
) -> Compose:
    """A preprocessed case to one augmented slab ``(M * k, *roi_size)`` and its label ``(1, *roi_size)``.

    The field of view is cropped at random and put at a random place in the window, so that the target's position says
    nothing: images cropped around a tumour would otherwise teach that it is in the middle.
    """
    keys = (IMAGE, LABEL)
    shift = [size / 4 for size in roi_size]
    return Compose(
        [
            SelectItemsd(keys),
            RandSlabd(IMAGE, LABEL, num_slices, planes, foreground_prob),
            RandScaleCropd(keys, roi_scale=0.6, max_roi_scale=1.0, random_size=True, random_center=True),
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=[np.deg2rad(rotate_degrees)],
                scale_range=[scale, scale],
                translate_range=shift,
                spatial_size=tuple(roi_size),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandFlipSlabd(IMAGE, num_slices),
            RandModalityIntensityd(IMAGE, num_modalities, intensity),
            RandModalityDropoutd(IMAGE, num_modalities, modality_dropout),
        ]
    )
