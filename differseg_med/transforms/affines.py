"""Affines beside plain tensors: what is cached and collated has no meta data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from differseg_med.keys import AFFINE


class KeepAffined(Transform):
    """Store the affine of a volume, 4 x 4, RAS, mm, as an entry ``affine`` of its own.

    Args:
        key: the volume, a MetaTensor.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Store."""
        return {**data, AFFINE: data[self.key].affine.clone()}


class RestoreAffined(MapTransform):
    """Give volumes ``(1, H, W, D)`` the entry ``affine`` as theirs, so that they know millimetres again.

    Args:
        keys: tensors.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = MetaTensor(d[key], affine=d[AFFINE])
        return d
