"""Pictures of a case: its modalities on the reference's grid with the outlines of mask and label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.transforms import ResampleToMatch

from differseg_med.cohort.table import Case
from differseg_med.export.image import closest_ras, save_overlay
from differseg_med.transforms.loading import load_volume


def case_overlay(case: Case, mask: str | Path, path: str | Path, title: str = "") -> Path:
    """Draw three planes of every present modality with the mask's outline, and the label's if there is one.

    Args:
        case: case whose modalities share the patient's space with the mask.
        mask: mask file that a bundle wrote.
        path: PNG to write.
        title: above the pictures; the case id if empty.

    Returns:
        The PNG's path.

    Raises:
        CaseError: if a file cannot be read.
    """
    target = load_volume(mask)
    affine = np.asarray(target.affine)
    to_target = ResampleToMatch(dtype=np.float32, padding_mode="zeros")
    volumes = {name: load_volume(file) for name, file in case.images.items()}
    if case.label is not None:
        volumes["label"] = load_volume(case.label)
    turned = {
        name: closest_ras(np.asarray(to_target(volume, img_dst=target)[0]), affine)[0]
        for name, volume in volumes.items()
    }
    label = turned.pop("label", None)
    shown, spacing_mm = closest_ras(np.asarray(target[0]), affine)
    return save_overlay(
        turned,
        shown > 0.5,
        path,
        spacing_mm=spacing_mm,
        reference=None if label is None else label > 0.5,
        title=title or case.case_id,
    )
