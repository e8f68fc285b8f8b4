"""Images and label of a case, from their cells to volumes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.keys import NOTES, REFERENCE_IMAGES


class LoadVolumesd(MapTransform):
    """Load the present modalities of a case as ``(1, H, W, D)`` float32 MetaTensors, RAS affine; see `load_volume`.

    What the reader has to remark is added to ``notes``. Voxels without data are NaN.

    Args:
        keys: modality names; absent keys are skipped.
        masks: the keys among them that are masks, which 2-D images do not say themselves.

    Raises:
        CaseError: as `load_volume`.
    """

    def __init__(self, keys: KeysCollection, masks: KeysCollection = ()) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.masks = ensure_tuple(masks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by its volume."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = volume = load_volume(Path(d[key]), mask=key in self.masks, gaps=True)
            _take_notes(d, key, volume)
        return d


class LoadLabeld(MapTransform):
    """Load the label of a case, see `load_label`; the images must have been loaded.

    Args:
        keys: the label; an absent one is skipped.
        images: modality names in declared order.

    Raises:
        CaseError: as `load_label`.
    """

    def __init__(self, keys: KeysCollection, images: Sequence[str]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.images = tuple(images)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the cell by the mask."""
        d = dict(data)
        for key in self.key_iterator(d):
            cells = d.get(REFERENCE_IMAGES) or [d[name].meta["filename_or_obj"] for name in self.images if name in d]
            d[key] = label = load_label(d[key], cells)
            _take_notes(d, key, label)
        return d


def _take_notes(d: dict[Hashable, Any], key: Hashable, volume: MetaTensor) -> None:
    if notes := volume.meta.get(NOTES):
        d[NOTES] = [*d.get(NOTES, []), *(f"{key}: {note}" for note in notes)]
