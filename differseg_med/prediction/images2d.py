"""Writers for cases that are pictures, beside mask and probability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from differseg_med.export.png import save_cutout
from differseg_med.prediction.result import CaseResult, CaseWriter
from differseg_med.reports.overlay2d import save_panels

OVERLAY, CUTOUT = "overlay.png", "cutout.png"


def write_overlay(result: CaseResult, folder: Path) -> Mapping[str, object]:
    """Write ``overlay.png``: the modalities and the probability side by side with the outline of the mask."""
    save_panels(
        result.images2d | {"probability": result.probability},
        result.mask[..., 0],
        folder / OVERLAY,
        title=result.case.case_id,
    )
    return {}


def write_cutout(result: CaseResult, folder: Path) -> Mapping[str, object]:
    """Write ``cutout.png``: the reference, transparent outside of the mask, softly."""
    save_cutout(result.images2d[result.reference], result.probability[..., 0], folder / CUTOUT)
    return {}


def picture_writers(overlay: bool = True, cutout: bool = False) -> list[CaseWriter]:
    """The writers to give to a `CohortEvaluator`."""
    return [write for write, wanted in ((write_overlay, overlay), (write_cutout, cutout)) if wanted]
