"""Scores that count lesions instead of voxels: which were found, which are false positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from differseg_med.components import label_components, label_sizes
from differseg_med.geometry import BoolArray

Counts = NDArray[np.int64]

_CHUNK = 2**22
"""Voxels whose labels are paired at a time: bounds the memory of the sort."""


@dataclass(frozen=True)
class MatchRule:
    """When a reference lesion counts as detected by the predicted lesions that touch it, taken together.

    Args:
        kind: ``any``: at least one common voxel; ``dice`` or ``iou``: at least ``threshold``.
        threshold: between 0 and 1; ignored by ``any``.

    Raises:
        ValueError: for another kind, or a threshold outside 0 to 1.
    """

    kind: Literal["any", "dice", "iou"] = "dice"
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("any", "dice", "iou"):
            raise ValueError(f"the match rule must be one of any, dice, iou, got {self.kind!r}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold of the match rule must be between 0 and 1, got {self.threshold}")

    def __str__(self) -> str:
        if self.kind == "any":
            return "a reference lesion is detected if one voxel of it is predicted"
        name = {"dice": "Dice", "iou": "IoU"}[self.kind]
        return (
            f"a reference lesion is detected if its {name} with the predictions that touch it is >= {self.threshold:g}"
        )

    def detected(self, dice: NDArray[np.float64]) -> BoolArray:
        """Which lesions are detected, from their Dice; IoU = Dice / (2 - Dice)."""
        score = dice if self.kind == "dice" else dice / (2 - dice)
        result: BoolArray = (dice > 0) & ((self.kind == "any") | (score >= self.threshold))
        return result


def lesion_counts(prediction: BoolArray, reference: BoolArray, rule: MatchRule) -> dict[str, float]:
    """Lesion-wise scores of two masks of which at least one may have foreground.

    Lesions are 26-connected components (2-D: 8-connected). A predicted lesion is true if it touches a detected
    reference lesion, else false. One large prediction over several lesions is not counted as one per lesion: it gives
    each of them a small Dice, and the match rule decides.

    Args:
        prediction: ``(H, W[, D])``.
        reference: same shape.
        rule: when a reference lesion is detected.

    Returns:
        ``lesion_precision``, ``lesion_recall``, ``lesion_f1``; ``lesion_dice``, which knows no match rule (BraTS 2023
        without its dilation: the sum of the lesions' Dice, 0 for a missed one, over the number of reference lesions and
        of predicted ones that touch none); the counts ``reference_lesions``, ``predicted_lesions``, ``missed_lesions``,
        ``false_lesions``. A ratio of nothing to nothing is 1 if both masks are empty, else 0.
    """
    lesion, touched, common, sizes, predicted_sizes = _overlaps(prediction, reference)
    lesions, predicted = len(sizes), len(predicted_sizes)
    inside = np.bincount(lesion, weights=common, minlength=lesions)
    pooled = np.bincount(lesion, weights=predicted_sizes[touched], minlength=lesions)
    dice = 2 * inside / (sizes + pooled)
    detected = rule.detected(dice)
    true = len(np.unique(touched[detected[lesion]]))
    false, false_positives = predicted - true, predicted - len(np.unique(touched))
    perfect = 1.0 if lesions == predicted == 0 else 0.0
    recall = float(detected.mean()) if lesions else perfect
    precision = true / predicted if predicted else perfect
    return {
        "lesion_precision": precision,
        "lesion_recall": recall,
        "lesion_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "lesion_dice": float(dice.sum()) / (lesions + false_positives) if lesions + false_positives else perfect,
        "reference_lesions": lesions,
        "predicted_lesions": predicted,
        "missed_lesions": lesions - int(detected.sum()),
        "false_lesions": false,
    }


def _overlaps(prediction: BoolArray, reference: BoolArray) -> tuple[Counts, Counts, Counts, Counts, Counts]:
    """Which lesions of the two masks share voxels, in arrays and not in a matrix: there may be 100 000 of each.

    Returns:
        For each pair that touches the number of the reference lesion, that of the predicted one, and the common voxels;
        then the sizes of all reference lesions and of all predicted ones, in voxels.
    """
    both = prediction & reference
    found, sizes = [], []
    for mask in (reference, prediction):
        labels, number = label_components(mask)
        sizes.append(label_sizes(labels, number)[1:])
        found.append(labels[both] - 1)
        del labels  # the full-size labels can go before the second ones are made
    shape = [max(1, len(size)) for size in sizes]
    parts = [
        np.unique(np.ravel_multi_index((found[0][i : i + _CHUNK], found[1][i : i + _CHUNK]), shape), return_counts=True)
        for i in range(0, len(found[0]), _CHUNK)
    ]
    none = np.zeros(0, dtype=np.int64)
    keys, inverse = np.unique(np.concatenate([none, *(key for key, _ in parts)]), return_inverse=True)
    common = np.zeros(len(keys), dtype=np.int64)
    np.add.at(common, inverse, np.concatenate([none, *(count for _, count in parts)]))
    lesion, touched = np.unravel_index(keys, shape)
    return lesion, touched, common, sizes[0], sizes[1]
