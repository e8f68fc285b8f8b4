"""From the network's logits back to a mask on the reference modality's original grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    KeepLargestConnectedComponentd,
    MapTransform,
)
from monai.utils import convert_to_tensor, ensure_tuple
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from differseg_med.geometry import Grid
from differseg_med.keys import IMAGE, PRED, PROBABILITY
from differseg_med.transforms.grids import grid_of, original_grid, restore_grid

TIE_VOXELS = 1e-3
"""What the larger index is preferred by: more than affines are rounded by, less than matters."""


class RestoreGridd(MapTransform):
    """Resample a probability ``(1, h, w, d)`` from the network's grid to the original grid of ``image``.

    One channel is resampled, before thresholding, by affines alone: orientation, spacing and field of view of the
    file come back whatever the preprocessing did.

    Args:
        keys: probabilities on the grid of ``image``.
        image_key: the network's input, which remembers its original grid.
        keep_as: also store the result under these keys, where thresholds leave it alone.
    """

    def __init__(self, keys: KeysCollection, image_key: str = IMAGE, keep_as: KeysCollection = ()) -> None:
        super().__init__(keys)
        self.image_key, self.keep_as = image_key, ensure_tuple(keep_as)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore."""
        d = dict(data)
        image: MetaTensor = d[self.image_key]
        for key in self.keys:
            probability = convert_to_tensor(d[key], track_meta=False)
            d[key] = restore_grid(MetaTensor(probability, affine=image.affine), original_grid(image))
        return d | {name: d[key] for key, name in zip(self.keys, self.keep_as)}


class RemoveSmallComponentsd(MapTransform):
    """Remove 6-connected components of a 0/1 mask ``(1, H, W, D)`` that are smaller than a volume.

    MONAI's ``RemoveSmallObjects`` keeps or removes components of exactly the limit depending on the version of
    scikit-image, so the counting is done here.

    Args:
        keys: masks that know their affine.
        min_ml: smallest volume that stays, in ml.
    """

    def __init__(self, keys: KeysCollection, min_ml: float) -> None:
        super().__init__(keys)
        self.min_ml = min_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove."""
        d = dict(data)
        for key in self.keys:
            mask: MetaTensor = d[key]
            labels = measure.label(mask[0].numpy() > 0, connectivity=1)
            ml = np.bincount(labels.ravel()) * grid_of(mask).voxel_volume_mm3 / 1000
            small = (ml < self.min_ml - 1e-9)[labels]
            d[key] = mask.clone()
            d[key][0, torch.from_numpy(small)] = 0
        return d


def resample_mask(mask: NDArray[np.uint8], source: Grid, target: Grid) -> NDArray[np.uint8]:
    """Bring a 0/1 mask ``(H, W, D)`` from one grid to another of the same space, nearest neighbour, zero outside.

    Halfway between two voxels it is always the next one: rounded to even, or at random by the last digit, some would be
    taken twice and others not at all.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    offset = to_source[:3, 3] + TIE_VOXELS
    moved = ndimage.affine_transform(mask, to_source[:3, :3], offset, target.shape, order=0, mode="grid-constant")
    return np.asarray(moved, dtype=np.uint8)


def postprocessing(threshold: float = 0.5, min_component_ml: float = 0.0, largest_only: bool = False) -> Compose:
    """Logits ``pred`` ``(1, h, w, d)`` to a 0/1 mask on the reference's original grid, ``probability`` beside it; flat.

    Args:
        threshold: on the probability.
        min_component_ml: remove connected components smaller than this volume (0 keeps all).
        largest_only: keep the largest connected component only, for targets that are one piece by definition.
    """
    steps: list[Any] = [
        Activationsd(PRED, sigmoid=True),
        RestoreGridd(PRED, keep_as=PROBABILITY),
        AsDiscreted(PRED, threshold=threshold),
    ]
    if min_component_ml > 0:
        steps.append(RemoveSmallComponentsd(PRED, min_component_ml))
    if largest_only:
        steps.append(KeepLargestConnectedComponentd(PRED))
    return Compose(steps)
