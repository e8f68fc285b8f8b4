"""Where the foreground of a mask is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]


def foreground_box(mask: Mask, margin: Sequence[int]) -> tuple[slice, ...] | None:
    """The smallest box around the foreground of a mask, ``margin`` voxels wider on each side; None if it is empty."""
    profiles = [np.flatnonzero(np.any(mask, axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not profiles[0].size:
        return None
    return tuple(slice(max(0, int(p[0]) - m), int(p[-1]) + 1 + m) for p, m in zip(profiles, margin))
