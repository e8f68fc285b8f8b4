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
    MapTransform,
)
from monai.utils import convert_to_tensor, ensure_tuple
from numpy.typing import NDArray
from scipy import ndimage

from differseg_med.components import CONNECTIVITY, check_connectivity, large_components, largest_component
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
    """Remove connected components of a 0/1 mask ``(1, H, W, D)`` that are smaller than a volume.

    MONAI's ``RemoveSmallObjects`` keeps or removes components of exactly the limit depending on the version of
    scikit-image, so the counting is done here.

    Args:
        keys: masks that know their affine.
        min_ml: smallest volume that stays, in ml.
        connectivity: 6, 18 or 26 neighbours.
    """

    def __init__(self, keys: KeysCollection, min_ml: float, connectivity: int = CONNECTIVITY) -> None:
        super().__init__(keys)
        self.min_ml, self.connectivity = min_ml, check_connectivity(connectivity)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove."""
        d = dict(data)
        for key in self.keys:
            min_voxels = (self.min_ml - 1e-9) * 1000 / grid_of(d[key]).voxel_volume_mm3
            d[key] = _masked(d[key], large_components(d[key][0].numpy(), min_voxels, self.connectivity))
        return d


class KeepLargestComponentd(MapTransform):
    """Keep the largest connected component of a 0/1 mask ``(1, H, W, D)``.

    The voxels of MONAI's ``KeepLargestConnectedComponentd``, ties too, with less time and memory, because only the box
    around the foreground is looked at.

    Args:
        keys: masks.
        connectivity: 6, 18 or 26 neighbours.
    """

    def __init__(self, keys: KeysCollection, connectivity: int = CONNECTIVITY) -> None:
        super().__init__(keys)
        self.connectivity = check_connectivity(connectivity)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Keep."""
        d = dict(data)
        for key in self.keys:
            d[key] = _masked(d[key], largest_component(d[key][0].numpy(), self.connectivity))
        return d


def _masked(mask: MetaTensor, kept: NDArray[np.bool_]) -> MetaTensor:
    """The mask ``(1, H, W, D)`` with 0 outside of ``kept`` ``(H, W, D)``."""
    held = mask.as_tensor()
    return MetaTensor(held * torch.from_numpy(kept)[None].to(held.dtype), meta=mask.meta)


def resample_mask(mask: NDArray[np.uint8], source: Grid, target: Grid) -> NDArray[np.uint8]:
    """Bring a 0/1 mask ``(H, W, D)`` from one grid to another of the same space, nearest neighbour, zero outside.

    Halfway between two voxels it is always the next one: rounded to even, or at random by the last digit, some would be
    taken twice and others not at all.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    offset = to_source[:3, 3] + TIE_VOXELS
    moved = ndimage.affine_transform(mask, to_source[:3, :3], offset, target.shape, order=0, mode="grid-constant")
    return np.asarray(moved, dtype=np.uint8)


def postprocessing(
    threshold: float = 0.5,
    min_component_ml: float = 0.0,
    largest_only: bool = False,
    connectivity: int = CONNECTIVITY,
) -> Compose:
    """Logits ``pred`` ``(1, h, w, d)`` to a 0/1 mask on the reference's original grid, ``probability`` beside it; flat.

    Args:
        threshold: on the probability.
        min_component_ml: remove connected components smaller than this volume (0 keeps all).
        largest_only: keep the largest connected component only, for targets that are one piece by definition.
        connectivity: neighbours of a voxel that are the same component: 6 (faces), 18 (edges) or 26 (corners).

    Raises:
        ValueError: for a threshold that is no probability, or a negative volume.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
    if min_component_ml < 0:
        raise ValueError(f"min_component_ml must not be negative, got {min_component_ml}")
    steps: list[Any] = [
        Activationsd(PRED, sigmoid=True),
        RestoreGridd(PRED, keep_as=PROBABILITY),
        AsDiscreted(PRED, threshold=threshold, dtype=torch.uint8),  # a quarter of the memory
    ]
    if min_component_ml > 0:
        steps.append(RemoveSmallComponentsd(PRED, min_component_ml, connectivity))
    if largest_only:
        steps.append(KeepLargestComponentd(PRED, connectivity))
    return Compose(steps)


def threshold_of(steps: Compose) -> float | None:
    """The threshold of a postprocessing; None if it has none, or more than one."""
    given = [step.threshold[0] for step in steps.transforms if isinstance(step, AsDiscreted)]
    return float(given[0]) if len(given) == 1 and given[0] is not None else None
