"""Evaluation of pictures: what `evaluate_case` and `draw_overlay` do where a label is a PNG, JPEG or TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch.nn import functional

from differseg_med.case import Case
from differseg_med.io.images2d import as_mask, luminance
from differseg_med.io.volumes import load_volume
from differseg_med.metrics.case import case_metrics
from differseg_med.metrics.saliency import Map, Saliency
from differseg_med.reports.overlay2d import draw_panels
from differseg_med.transforms.grids import grid_of, restore_grid

PROBABILITY_FILE = "probability.png"
OVERLAP = ("dice", "iou", "precision", "recall", "empty")
"""What is measured of the masks; a picture has no millimetres."""


def measure_image2d(
    path: Path, label: MetaTensor, saliency: Saliency
) -> tuple[dict[str, float | bool | str], NDArray[np.bool_], str]:
    """Measure a predicted picture against a label ``(1, H, W, 1)``.

    Args:
        path: the predicted mask, or a saliency map, whose values above one half are the mask. If a ``probability.png``
            lies beside it, that is the map. A file that does not exist counts as black.
        label: 0 and 1.
        saliency: account of the set.

    Returns:
        Scores by name, the predicted mask ``(H, W, 1)``, and a notice for the reader (empty for none).

    Raises:
        CaseError: if a file cannot be read.
    """
    size = tuple(label.shape[1:3])
    reference = label[0].numpy() > 0
    notice, mask, grey = "", np.zeros(reference.shape, dtype=np.bool_), np.zeros(size, dtype=np.uint8)
    if path.is_file():
        read = _full_range(luminance(load_volume(path)))
        map_file = path.parent / PROBABILITY_FILE
        grey = _bytes(luminance(load_volume(map_file)) if map_file.is_file() else read, size)
        if tuple(read.shape[1:3]) != size:
            notice = f"resized from {read.shape[1]} x {read.shape[2]} pixels to the label's {size[0]} x {size[1]}"
        mask = (_bytes(_stretched(read) if saliency.stretch else read, size) > 127)[..., np.newaxis]
    else:
        notice = "there is no prediction: an empty mask counts"
    overlap = case_metrics(mask, reference, (1.0, 1.0, 1.0))
    scores: dict[str, float | bool | str] = {name: overlap[name] for name in OVERLAP}
    scores |= {"area_percent": 100 * float(mask.mean()), "reference_percent": 100 * float(reference.mean())}
    return scores | saliency.add(grey, reference[..., 0]), mask, notice


def _full_range(read: torch.Tensor) -> torch.Tensor:
    """Masks of 0 and 1 (or 0 and any other value) as 0 and full; maps as they are."""
    return as_mask(MetaTensor(read)) if len(read.unique()) == 2 and not bool(read.min()) else read


def _stretched(read: torch.Tensor) -> torch.Tensor:
    low, high = read.min(), read.max()
    return (read - low) / (high - low) if high > low else read


def _bytes(read: torch.Tensor, size: tuple[int, ...]) -> Map:
    """A map ``(1, H, W, 1)`` in [0, 1] as ``(H, W)`` bytes of the wanted size."""
    flat = torch.as_tensor(read)[None, ..., 0]
    if tuple(flat.shape[2:]) != size:
        flat = functional.interpolate(flat, size=size, mode="bilinear", antialias=True)
    return np.asarray((flat[0, 0] * 255).round(), dtype=np.uint8)


def draw_image2d(case: Case, mask: NDArray[np.bool_], label: MetaTensor) -> bytes:
    """Draw a predicted mask ``(H, W, 1)`` and the label over the pictures of a case, see `draw_panels`.

    Raises:
        CaseError: if a file cannot be read.
    """
    grid, reference = grid_of(label), label[0, ..., 0].numpy() > 0
    pictures = {name: restore_grid(load_volume(file), grid) for name, file in case.images.items()}
    shown = {name: picture[..., 0].permute(1, 2, 0).numpy() for name, picture in pictures.items()}
    background = shown or {"": np.zeros((*reference.shape, 1))}
    return draw_panels(background, mask[..., 0], reference=reference, title=case.case_id)
