"""Modalities as channels of one tensor; absent ones are zero."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from differseg_med.errors import CaseError
from differseg_med.keys import CHANNELS, IMAGE, NOTES, PRESENT, REFERENCE


class ConcatModalitiesd(MapTransform):
    """Stack the modalities in declared order into ``image`` ``(C, H, W, D)``; an absent one is zero everywhere.

    ``image`` carries the metadata of the reference modality, so that its original grid can be restored.

    Args:
        keys: modalities in declared order, all on one grid.
        channels: channels of each, 1 or for colours 3; their sum is ``C``.
    """

    def __init__(self, keys: KeysCollection, channels: Sequence[int] | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.channels = [1] * len(self.keys) if channels is None else list(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``image``, ``modalities`` and ``channels``, remove the single volumes.

        Raises:
            CaseError: if nothing is left: every volume is zero.
        """
        d = dict(data)
        reference: MetaTensor = d[d[REFERENCE]]
        channels = [
            torch.as_tensor(d[key]) if key in d else torch.zeros((count, *reference.shape[1:]), dtype=torch.float32)
            for key, count in zip(self.keys, self.channels)
        ]
        d[CHANNELS] = [str(key) for key, count in zip(self.keys, self.channels) for _ in range(count)]
        stacked = torch.cat([c.as_tensor() if isinstance(c, MetaTensor) else c for c in channels])
        given = {str(key): channel for key, channel in zip(self.keys, channels) if key in d}
        blank = [key for key, channel in given.items() if not bool(channel.any())]
        if len(blank) == len(given):
            raise CaseError("the images hold nothing but zeros", remedy="Check how they were exported.")
        d[PRESENT] = [key for key in given if key not in blank]
        if blank:
            d[NOTES] = [*d.get(NOTES, []), *(f"{key}: nothing but zeros, counts as absent" for key in blank)]
        for key in given:
            del d[key]
        d[IMAGE] = MetaTensor(stacked, meta=reference.meta)  # the meta holds the affine; a modality may be called image
        return d


class RandModalityDropoutd(RandomizableTransform, MapTransform):
    """Zero a random subset of the present modalities of a slab, never all: the network learns to do without.

    Args:
        keys: slabs ``(C, H, W)``, modality-major.
        in_channels: channels per modality, the network's; their sum is ``C``.
        prob: chance that anything is dropped.
        weights: how much more often one modality is dropped than another, one number each; None for alike. More for
            a modality on which the network leans too much.

    Raises:
        ValueError: for another number of weights, or weights that are not positive.
    """

    def __init__(
        self,
        keys: KeysCollection,
        in_channels: Sequence[int],
        prob: float = 0.4,
        weights: Sequence[float] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.in_channels, modalities = list(in_channels), len(in_channels)
        self.weights = np.ones(modalities) if weights is None else np.asarray(weights, dtype=float)
        if self.weights.shape != (modalities,) or not (self.weights > 0).all():
            raise ValueError(f"weights needs {modalities} positive numbers, got {weights}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Drop."""
        d = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return d
        for key in self.keys:
            parts = torch.as_tensor(d[key]).clone().split(self.in_channels)
            present = [i for i, part in enumerate(parts) if bool(part.any())]
            if len(present) > 1:
                share = self.weights[present] / self.weights[present].sum()
                for i in self.R.choice(present, self.R.randint(1, len(present)), replace=False, p=share):
                    parts[i].zero_()
            d[key] = torch.cat(parts)
        return d
