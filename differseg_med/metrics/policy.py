"""The measures by name, and the one policy for masks without foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Empty = Literal["none", "both", "prediction", "reference"]
"""Which of the two masks of a case has no foreground."""

Better = Literal["higher", "lower", "zero"]

POLICY = (
    "Every case counts in every mean. Prediction and reference both empty: a perfect score (Dice, IoU, precision, "
    "recall, surface Dice and lesion scores 1; distances 0 mm; volume difference 0). Only one of them empty, that is a "
    "missed target or a false positive: the worst score (those scores 0; HD95, HD and ASSD the diagonal of the image "
    "in mm; volume difference the whole volume in ml and -100 % for a missed, +100 % for a false positive). Such cases "
    "are counted and listed, never dropped. A prediction that does not exist counts as an empty one and is listed. A "
    "case whose files cannot be compared (different space, not a binary mask, unreadable) has failed: it has no scores "
    "and is listed as failed beside every mean. Distances are between the centres of boundary voxels (6 neighbours; "
    "outside the image is background), in mm; HD95 is the larger of the two directed 95th percentiles; surface Dice "
    "weighs boundary elements by their area. Everything is measured on the grid of the reference mask."
)
"""The policy in words, printed in every report."""


@dataclass(frozen=True)
class Measure:
    """What a column of ``metrics.csv`` means.

    Args:
        title: name for people.
        unit: ``""``, ``mm``, ``ml`` or ``%``.
        better: whether higher values, lower values or values near zero are better.
        text: definition in one sentence.
    """

    title: str
    unit: str
    better: Better
    text: str

    @property
    def label(self) -> str:
        """Title and unit for tables and axes."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


MEASURES: dict[str, Measure] = {
    "dice": Measure("Dice", "", "higher", "2 |P and R| / (|P| + |R|) over voxels."),
    "hd95_mm": Measure("HD95", "mm", "lower", "Larger of the two directed 95th percentiles of boundary distances."),
    "surface_dice": Measure(
        "Surface Dice", "", "higher", "Share of both boundaries within the tolerance of the other."
    ),
    "iou": Measure("IoU", "", "higher", "|P and R| / |P or R| over voxels."),
    "precision": Measure("Precision", "", "higher", "|P and R| / |P| over voxels."),
    "recall": Measure("Recall", "", "higher", "|P and R| / |R| over voxels (sensitivity)."),
    "hd_mm": Measure("HD", "mm", "lower", "Largest distance of a boundary voxel from the other boundary."),
    "assd_mm": Measure("ASSD", "mm", "lower", "Mean of all distances from each boundary to the other, pooled."),
    "volume_difference_ml": Measure("Volume difference", "ml", "zero", "Volume of P minus volume of R."),
    "volume_difference_percent": Measure("Volume difference", "%", "zero", "The same as a share of the volume of R."),
    "lesion_precision": Measure("Lesion precision", "", "higher", "Predicted lesions that belong to a detected one."),
    "lesion_recall": Measure("Lesion recall", "", "higher", "Reference lesions that were detected."),
    "lesion_f1": Measure("Lesion F1", "", "higher", "Harmonic mean of lesion precision and lesion recall."),
    "lesion_dice": Measure(
        "Lesion-wise Dice",
        "",
        "higher",
        "Sum of the Dice of each reference lesion / (reference lesions + predicted ones that touch none).",
    ),
}
"""The measures that have a better and a worse, in the order of reports."""

POOLED = "hd95_pooled_mm"

OPTIONAL_MEASURES: dict[str, Measure] = {
    POOLED: Measure("HD95 pooled", "mm", "lower", "95th percentile of the distances of both directions together."),
}
"""Measures that are there if they are asked for, to compare with figures of others."""

IMAGE2D_MEASURES: dict[str, Measure] = {
    "s_measure": Measure("S-measure", "", "higher", "Structure of the map, by objects and regions (Fan et al. 2017)."),
    "e_adaptive": Measure("E adaptive", "", "higher", "Enhanced alignment at twice the map's mean (Fan et al. 2018)."),
    "e_mean": Measure("E mean", "", "higher", "The same, mean over 256 thresholds."),
    "e_max": Measure("E max", "", "higher", "The same, at the best threshold; of a set: of its mean curve."),
    "f_weighted": Measure("Weighted F", "", "higher", "F of the map with weighted errors (Margolin et al. 2014)."),
    "f_adaptive": Measure("F adaptive", "", "higher", "F (beta squared 0.3) at twice the map's mean."),
    "f_mean": Measure("F mean", "", "higher", "The same, mean over 256 thresholds."),
    "f_max": Measure("F max", "", "higher", "The same, at the best threshold; of a set: of its mean curve."),
    "mae": Measure("MAE", "", "lower", "Mean absolute difference of map and mask."),
}
"""Measures of saliency maps of pictures; where a mask is empty, those of PySODMetrics."""

KNOWN = MEASURES | OPTIONAL_MEASURES | IMAGE2D_MEASURES


def emptiness(predicted: int, referenced: int) -> Empty:
    """Which mask is empty, from the numbers of foreground voxels."""
    if predicted and referenced:
        return "none"
    if predicted or referenced:
        return "reference" if predicted else "prediction"
    return "both"


def score_of_empty(name: str, empty: Empty, diagonal_mm: float) -> float:
    """The score that `POLICY` gives when a mask is empty, for every measure but the volume difference in ml.

    Args:
        name: a key of `MEASURES` or `OPTIONAL_MEASURES`.
        empty: which mask is empty; not ``none``.
        diagonal_mm: diagonal of the image in mm.
    """
    measure = KNOWN[name]
    if empty == "none" or name == "volume_difference_ml":
        raise ValueError(f"{name} of masks that are empty: {empty} follows from its definition")
    if empty == "both":
        return 1.0 if measure.better == "higher" else 0.0
    if measure.unit == "%":
        return -100.0 if empty == "prediction" else 100.0
    if measure.better == "higher":
        return 0.0
    return diagonal_mm if measure.unit == "mm" else 1.0


def badness(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values turned so that lower is better: the sign changed, or the distance from zero."""
    better = KNOWN[name].better
    return -values if better == "higher" else np.abs(values) if better == "zero" else values
