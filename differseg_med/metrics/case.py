"""All measures of one case, with the policy for empty masks applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from differseg_med.components import Mask, foreground_box, joint_box
from differseg_med.errors import CaseError
from differseg_med.geometry import BoolArray
from differseg_med.metrics.lesions import MatchRule, lesion_counts
from differseg_med.metrics.policy import MEASURES, POLICY, POOLED, emptiness, score_of_empty
from differseg_med.metrics.surfaces import surface_dice, surface_measures

__all__ = ["POLICY", "MatchRule", "Settings", "binary", "boundary_entropy", "case_metrics", "overlap"]


BAND_MM = 4.0
"""Half the width of the band around the mask's boundary over which entropy is averaged."""

SURFACE_MEASURES = ("hd95_mm", "hd_mm", "assd_mm", "surface_dice")


@dataclass(frozen=True)
class Settings:
    """What a reader has to know to compare figures with others; stored beside them.

    Args:
        tolerance_mm: distance within which surface Dice takes two boundaries for the same, in mm.
        match: when a lesion counts as detected.
        stretch: pictures: stretch each saliency map to the full range before it is measured.
        hd95_pooled: also measure HD95 as MedPy does, the percentile of both directions together.

    Raises:
        ValueError: for a tolerance below zero.
    """

    tolerance_mm: float = 2.0
    match: MatchRule = field(default_factory=MatchRule)
    stretch: bool = False
    hd95_pooled: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance_mm < np.inf:
            raise ValueError(f"the tolerance of surface Dice must be a length in mm, got {self.tolerance_mm}")

    def describe(self) -> dict[str, str | float]:
        """The settings as they stand in ``metrics.json``."""
        settings: dict[str, str | float] = {
            "surface_dice_tolerance_mm": self.tolerance_mm,
            "lesion_match_rule": str(self.match),
        }
        return settings | ({"saliency_maps": "stretched to the full range"} if self.stretch else {})


def case_metrics(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing_mm: tuple[float, ...],
    *,
    settings: Settings | None = None,
) -> dict[str, float | bool | str]:
    """Compare a predicted mask with the reference mask of the same grid.

    Args:
        prediction: ``(H, W, D)`` or ``(H, W)`` of 0 and 1, any dtype.
        reference: same shape.
        spacing_mm: size of a voxel along each axis in mm. In 2-D, volumes are those of a slice 1 mm thick.
        settings: tolerance and match rule.

    Returns:
        Every key of `MEASURES` (and ``hd95_pooled_mm`` if the settings ask for it), with no NaN and no infinity, and
        ``volume_ml``, ``reference_ml``, the lesion counts, and ``empty``: which mask has no foreground (``none``,
        ``both``, ``prediction`` or ``reference``).

    Raises:
        CaseError: if the masks are not binary, or their shapes differ.
        ValueError: if the spacing does not fit the shape.

    Example:
        >>> missed = case_metrics(np.zeros((4, 4, 4)), np.eye(4)[..., None].repeat(4, -1), (1.0, 1.0, 2.0))
        >>> missed["dice"], round(missed["hd95_mm"], 3), missed["empty"]
        (0.0, 9.798, 'prediction')
    """
    settings = settings or Settings()
    masks = binary(prediction, "predicted"), binary(reference, "reference")
    spacing = tuple(float(s) for s in spacing_mm)
    _check(masks, spacing)
    diagonal_mm = float(np.linalg.norm(np.multiply(masks[0].shape, spacing)))
    box = joint_box(*masks) or (slice(0, 1),) * masks[0].ndim
    cropped = masks[0][box], masks[1][box]
    counts = [int(np.count_nonzero(mask)) for mask in cropped]
    empty = emptiness(*counts)
    result: dict[str, float | bool | str] = {**_overlap_measures(cropped, counts, spacing), "empty": empty}
    result.update(lesion_counts(*cropped, settings.match))
    if empty == "none":
        cropped = np.pad(cropped[0], 1), np.pad(cropped[1], 1)  # only now: the lesions needed the memory
        result.update(surface_measures(*cropped, spacing))
        result["surface_dice"] = surface_dice(*cropped, spacing, settings.tolerance_mm)
    else:
        policy = [name for name in (*MEASURES, POOLED) if name != "volume_difference_ml"]
        result.update({name: score_of_empty(name, empty, diagonal_mm) for name in policy})
    pooled = {POOLED: result.pop(POOLED)}
    first = {name: result.pop(name) for name in (*MEASURES, "volume_ml", "reference_ml", "empty")}
    return first | (pooled if settings.hd95_pooled else {}) | result


def overlap(mask: BoolArray, other: BoolArray) -> float:
    """Dice of two masks ``(H, W, D)``; 1 if both are empty."""
    size = int(np.count_nonzero(mask)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(mask & other)) / size if size else 1.0


def _overlap_measures(
    masks: tuple[BoolArray, BoolArray], counts: list[int], spacing: tuple[float, ...]
) -> dict[str, float]:
    predicted, referenced = counts
    common = int(np.count_nonzero(masks[0] & masks[1]))
    voxel_ml = float(np.prod(spacing)) / 1000
    scores = {"volume_ml": predicted * voxel_ml, "reference_ml": referenced * voxel_ml}
    scores["volume_difference_ml"] = (predicted - referenced) * voxel_ml
    if predicted and referenced:  # else the policy gives these scores
        scores["dice"] = 2 * common / (predicted + referenced)
        scores["iou"] = common / (predicted + referenced - common)
        scores["precision"], scores["recall"] = common / predicted, common / referenced
        scores["volume_difference_percent"] = 100 * (predicted - referenced) / referenced
    return scores


def binary(mask: ArrayLike, name: str, file: Path | None = None) -> BoolArray:
    """The mask as bool, without a copy if its voxels are bytes.

    Args:
        mask: of any dtype.
        name: what to call it in the error.
        file: where it comes from.

    Raises:
        CaseError: if it has other values than 0 and 1.
    """
    array: NDArray[Any] = np.asarray(mask)
    if array.dtype == np.bool_:
        return array
    if not ((array == 0) | (array == 1)).all():
        values = np.unique(array)
        raise CaseError(
            f"the {name} mask is not binary",
            file=file,
            expected="0 and 1",
            found=", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else ""),
            remedy="Choose one label or threshold the probabilities, and save that as 0 and 1.",
        )
    return array.view(np.bool_) if array.dtype == np.uint8 else array.astype(np.bool_)


def _check(masks: tuple[BoolArray, BoolArray], spacing: tuple[float, ...]) -> None:
    shapes = [mask.shape for mask in masks]
    if shapes[0] != shapes[1]:
        raise CaseError(
            "prediction and reference differ in shape",
            expected=shapes[1],
            found=shapes[0],
            remedy="Compare masks on the grid of the reference.",
        )
    if len(shapes[0]) not in (2, 3) or 0 in shapes[0]:
        raise CaseError("a mask must have two or three axes with voxels", found=f"shape {shapes[0]}")
    if len(spacing) != len(shapes[0]) or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"spacing_mm must be {len(shapes[0])} lengths in mm, got {spacing}")


def boundary_entropy(
    mask: Mask, probability: NDArray[np.floating[Any]], spacing_mm: tuple[float, float, float]
) -> float | None:
    """Mean entropy in bits (0 sure, 1 undecided) of the probability within `BAND_MM` of the mask's boundary.

    Args:
        mask: ``(H, W, D)`` of 0 and 1.
        probability: same shape, 0 to 1.
        spacing_mm: size of a voxel along each axis.

    Returns:
        None if there is no boundary.
    """
    reach = [max(1, round(BAND_MM / mm)) for mm in spacing_mm]
    box = foreground_box(mask, reach)
    if box is None:
        return None
    inside = np.asarray(mask[box]).astype(np.uint8)
    size = [2 * r + 1 for r in reach]
    band = ndimage.maximum_filter(inside, size, mode="nearest") > ndimage.minimum_filter(inside, size, mode="nearest")
    if not band.any():  # the mask fills the image
        return None
    p = np.clip(np.asarray(probability[box])[band].astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())
