"""A mask and what it belongs to: what every writer of a format is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from differseg_med.export.segment import SegmentInfo
from differseg_med.geometry import Grid

Notes = list[str]


@dataclass(frozen=True)
class Segmented:
    """A mask and what it belongs to.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on ``grid``.
        grid: of the reference image.
        segment: what the mask shows.
        images: cells of the cohort table by modality, the reference among them.
        reference: modality whose grid that is.
        case_id: for titles and names.
        probability: ``(H, W, D)`` on ``grid``, if there is one.
        kinds: kind of image of each modality, as far as it is known.
    """

    mask: NDArray[np.uint8]
    grid: Grid
    segment: SegmentInfo
    images: Mapping[str, str | Path]
    reference: str
    case_id: str = ""
    probability: NDArray[np.float32] | None = field(default=None, repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict)
