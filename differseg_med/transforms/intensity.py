"""Intensity by kind of image: CT in HU, MR in arbitrary units, PET in SUV, photographs, depth maps.

Every kind maps to roughly [-2, 4]. Exactly zero means "no data": voxels outside a field of view (NaN on arrival), and
the zero background of MR. A modality that is zero everywhere is absent to the network.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from scipy import ndimage
from torch import Tensor

from differseg_med.io.images2d import luminance
from differseg_med.modality import KINDS, Modality, declared


def normalize_ct(volume: Tensor, window: Sequence[float] = (-160.0, 240.0), smooth: float = 0.0) -> Tensor:
    """Calibrated values (HU, Gy): clip to ``window`` and scale linearly to [-2, 2].

    Args:
        volume: ``(1, H, W, D)``.
        window: lowest and highest value in HU; the default shows soft tissue.
        smooth: standard deviation in voxels of a gaussian filter, for noisy low-dose CT; 0 for none.
    """
    low, high = window
    if not low < high:
        raise ValueError(f"window must be (lowest, highest) in HU, got {tuple(window)}")
    scaled = (volume.clamp(low, high) - low) * (4.0 / (high - low)) - 2.0
    if smooth <= 0:
        return scaled
    outside = torch.isnan(scaled)
    # SciPy's filter repeats the border; MONAI's GaussianSmooth takes zeros there, which are soft tissue on this scale.
    filled = torch.nan_to_num(scaled, nan=-2.0).numpy()
    filtered = ndimage.gaussian_filter(filled, smooth, axes=(-3, -2, -1), mode="nearest")
    return torch.where(outside, scaled, torch.from_numpy(filtered))


def normalize_mr(volume: Tensor, percentile: float | None = None) -> Tensor:
    """MR in arbitrary units, over non-zero voxels.

    Args:
        volume: any shape; zero is background.
        percentile: None for a z-score clipped to [-5, 5]. Otherwise scale so that 0 becomes -2 and this percentile
            of the non-zero voxels 2 (clipped at 1.5 times it). On fat-bright T1 that does not depend on how much fat
            is in view, which a z-score does.
    """
    values = volume[torch.isfinite(volume) & (volume != 0)].numpy()
    if values.size == 0:
        return torch.zeros_like(volume)
    if percentile is None:
        mean = float(values.mean(dtype=np.float64))
        spread = max(float(values.std()), 1e-5 * abs(mean), 1e-6)  # of a constant image only rounding would be left
        scaled = ((volume - mean) / spread).clamp(-5, 5)
    else:
        top = max(float(np.percentile(values, percentile)), 1e-6)
        scaled = (volume / top).clamp(0, 1.5) * 4.0 - 2.0
    return torch.where(volume == 0, torch.zeros_like(volume), scaled)


def normalize_pet(volume: Tensor, log_scale: float = 1.5) -> Tensor:
    """PET in SUV: ``log_scale * log(1 + SUV)``, so that background, faint and very hot lesions stay apart."""
    return log_scale * volume.clamp(min=0).log1p()


def normalize_image(volume: Tensor, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> Tensor:
    """Photographs in [0, 1]: subtract the mean, divide by the standard deviation.

    Args:
        volume: ``(1, ...)`` grey or ``(3, ...)`` RGB.
        mean: one number per channel that the network gets: grey is repeated for three, colour turned grey for one.
        std: likewise.
    """
    shape = (-1, *[1] * (volume.ndim - 1))
    if len(mean) == 1:
        volume = luminance(volume)
    return (volume - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def normalize_depth(volume: Tensor, percentile: float = 0.5, zero_is_missing: bool = True) -> Tensor:
    """Values in any unit (depth, ultrasound, cone-beam CT): scale the range in this image to [-2, 2].

    Args:
        volume: ``(1, ...)``, or a map that was saved with three equal channels.
        percentile: this percentile becomes -2 and its counterpart 2; what is beyond is clipped.
        zero_is_missing: 0 says that nothing was measured there, and stays 0.
    """
    volume = luminance(volume)
    known = torch.isfinite(volume) & (volume != 0) if zero_is_missing else torch.isfinite(volume)
    values = volume[known].numpy()
    if values.size == 0:
        return torch.zeros_like(volume)
    low, high = np.percentile(values, (percentile, 100 - percentile)).tolist()
    scaled = ((volume - low) / max(high - low, 1e-6)).clamp(0, 1) * 4.0 - 2.0
    return torch.where(known, scaled, torch.zeros_like(scaled))


NORMALIZE: dict[str, Callable[..., Tensor]] = {
    "window": normalize_ct,
    "nonzero": normalize_mr,
    "log": normalize_pet,
    "channels": normalize_image,
    "range": normalize_depth,
}
"""The functions behind the names of `differseg_med.modality.NORMALIZATIONS`."""


class NormalizeByKindd(MapTransform):
    """Normalise each present modality by its kind, see `differseg_med.modality.KINDS`.

    Args:
        modalities: per modality its kind and settings of that kind's normalisation, for example
            ``{"ct": {"kind": "ct", "window": [-160, 240]}, "t1": {"kind": "mr"}}``.

    Attributes:
        channels: channels per modality after normalisation, in declared order.

    Raises:
        ValueError: for an unknown kind, or settings that it does not have; see `Modality`.
    """

    def __init__(self, modalities: Mapping[str, Modality | Mapping[str, Any]]) -> None:
        known = declared(modalities)
        super().__init__(tuple(known), allow_missing_keys=True)
        self.channels = [modality.channels for modality in known.values()]
        self._normalize: dict[Hashable, Callable[[Tensor], Tensor]] = {
            name: partial(NORMALIZE[KINDS[modality.kind].normalization], **modality.options)
            for name, modality in known.items()
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise; NaN becomes zero."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = torch.nan_to_num(self._normalize[key](d[key]), nan=0.0)
        return d
