"""Results of pictures as PNG: masks, probabilities, cut-outs, and the modalities side by side with outlines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError


def save_png(pixels: NDArray[Any], path: str | Path) -> Path:
    """Save pixels ``(H, W)``, ``(H, W, 3)`` or with alpha ``(H, W, 4)``, read them back and compare.

    Raises:
        CaseError: if the file cannot be written, or does not hold what was written.
    """
    path = Path(path)
    with exporting(path, ".png") as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
        with Image.open(temporary) as written:
            if not np.array_equal(np.asarray(written), pixels):
                raise CaseError("the image on disk is not the one that was written", file=path)
    return path


def save_mask_png(mask: NDArray[Any], path: str | Path) -> Path:
    """Save a mask ``(H, W)`` of 0 and 1 as black and white."""
    return save_png((np.asarray(mask) > 0).astype(np.uint8) * 255, path)


def save_probability_png(probability: NDArray[Any], path: str | Path) -> Path:
    """Save a probability ``(H, W)`` in [0, 1] as grey values of 0 to 255; nothing is stretched."""
    return save_png(np.round(np.clip(probability, 0, 1) * 255).astype(np.uint8), path)


def save_cutout(picture: NDArray[Any], probability: NDArray[Any], path: str | Path) -> Path:
    """Save a picture ``(H, W, C)`` in [0, 1]: opaque above a probability ``(H, W)`` of 0.75, transparent under 0.25."""
    colours = np.broadcast_to(picture, (*picture.shape[:2], 3))
    pixels = np.concatenate([colours, 2 * np.asarray(probability)[..., np.newaxis] - 0.5], axis=-1)
    return save_png(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8), path)
