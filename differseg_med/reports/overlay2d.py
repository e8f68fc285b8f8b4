"""2-D images side by side with the outlines of mask and reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from differseg_med.atomic import exporting
from differseg_med.reports.colors import MASK_COLOR, REFERENCE_COLOR
from differseg_med.reports.overlay import encoded

PANEL_INCHES = 3.4


def save_panels(pictures: Mapping[str, NDArray[Any]], mask: NDArray[Any], path: str | Path, **options: Any) -> Path:
    """Save what `draw_panels` draws; the ending of ``path`` says the format.

    Raises:
        CaseError: if the file cannot be written.
    """
    drawn = draw_panels(pictures, mask, **options, suffix=Path(path).suffix[1:])
    with exporting(path) as temporary:
        temporary.write_bytes(drawn)
    return Path(path)


def draw_panels(
    pictures: Mapping[str, NDArray[Any]],
    mask: NDArray[Any],
    *,
    reference: NDArray[Any] | None = None,
    title: str = "",
    suffix: str = "png",
) -> bytes:
    """Draw pictures side by side with the outlines of ``mask`` and ``reference``.

    Args:
        pictures: ``(H, W, 1)`` or ``(H, W, 3)`` by name; grey ones are shown from their 1st to their 99th percentile.
        mask: ``(H, W)`` of 0 and 1.
        reference: likewise.
        title: a line above. Case ids only.
        suffix: ``png`` or ``webp``.

    Returns:
        The content of an image file.
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
    return encoded(figure, suffix)
