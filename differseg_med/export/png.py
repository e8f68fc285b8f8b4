"""Results of pictures as PNG: masks, probabilities, cut-outs, and the modalities side by side with outlines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.reports.overlay import MASK_COLOR, REFERENCE_COLOR

PANEL_INCHES = 3.4


def save_png(pixels: NDArray[np.uint8], path: str | Path) -> Path:
    """Save pixels ``(H, W)``, ``(H, W, 3)`` or with alpha ``(H, W, 4)``, read them back and compare.

    Raises:
        CaseError: if the file cannot be written, or does not hold what was written.
    """
    path = Path(path)
    with exporting(path, ".png") as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
        with Image.open(temporary) as written:
            if not np.array_equal(np.asarray(written), pixels):
                raise CaseError("the picture on disk is not the one that was written", file=path)
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


def save_panels(
    pictures: Mapping[str, NDArray[Any]],
    mask: NDArray[Any],
    path: str | Path,
    *,
    reference: NDArray[Any] | None = None,
    title: str = "",
) -> Path:
    """Draw pictures side by side with the outlines of ``mask`` and ``reference``.

    Args:
        pictures: ``(H, W, 1)`` or ``(H, W, 3)`` by name; grey ones are shown from their 1st to their 99th percentile.
        mask: ``(H, W)`` of 0 and 1.
        path: the picture to write, ``.png`` or ``.webp``.
        reference: likewise.
        title: a line above. Case ids only.
    """
    height, width = mask.shape
    size = (PANEL_INCHES * len(pictures) + 0.3, PANEL_INCHES * height / width + 0.9)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    outlines = [(mask, MASK_COLOR, "mask")] + ([] if reference is None else [(reference, REFERENCE_COLOR, "reference")])
    for ax, (name, picture) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items()):
        if picture.shape[-1] == 1:
            low, high = np.percentile(picture, (1, 99))
            ax.imshow(picture[..., 0], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        else:
            ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
        for outline, colour, _ in outlines:
            if np.any(outline):
                closed = np.pad(np.asarray(outline, dtype=float), 1)  # also where it meets the border
                ax.contour(np.arange(-1, width + 1), np.arange(-1, height + 1), closed, [0.5], colors=[colour])
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
    handles = [Line2D([], [], color=c, label=n if np.any(o) else f"{n} (empty)") for o, c, n in outlines]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    with exporting(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:], dpi=110)
    return Path(path)
