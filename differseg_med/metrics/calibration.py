"""Does a probability of 0.7 mean that seven voxels in ten belong to the target? Bins of a reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from differseg_med.metrics.statistics import summarize

RELIABILITY_BINS = 10
BIN_COLUMNS = (
    *("from", "to", "cases", "voxels", "probability", "target"),
    *("target_mean_of_cases", "target_low", "target_high"),
)
BinCounts = NDArray[np.float64]
"""``(3, bins)`` of a case, by bin of the probability: voxels, the sum of their probabilities, voxels of the target."""


def counts_of(probability: ArrayLike, reference: ArrayLike) -> BinCounts:
    """Counts of a case, of equal bins from 0 to 1; the upper end belongs to the next bin, 1 to the last.

    As MONAI's `calibration_binning`, in double precision: single precision stops counting at 16.8 million voxels.

    Args:
        probability: any shape, 0 to 1.
        reference: the same shape, 0 or 1.
    """
    p = np.asarray(probability, dtype=np.float64).ravel()
    target = np.asarray(reference).ravel() > 0
    if p.shape != target.shape:
        raise ValueError(f"{p.size} probabilities, {target.size} voxels of the reference")
    place = np.minimum((p * RELIABILITY_BINS).astype(np.intp), RELIABILITY_BINS - 1)
    return np.stack([np.bincount(place, w, RELIABILITY_BINS) for w in (np.ones_like(p), p, target.astype(np.float64))])


def reliability(counts: Mapping[str, BinCounts], subjects: Sequence[str]) -> list[dict[str, Any]]:
    """A row of `BIN_COLUMNS` per bin over all cases: mean ``probability``, and share of voxels that are ``target``.

    ``target_low`` and ``target_high`` are the 95 % bootstrap interval by subject of the mean over cases of that share,
    ``cases`` how many have voxels in the bin. Bins without voxels are left out.

    Args:
        counts: `counts_of` by case.
        subjects: of the cases, in the same order.
    """
    every = np.stack(list(counts.values()))
    rows = []
    for index in range(RELIABILITY_BINS):
        voxels, probability, target = every[:, :, index].T
        some = voxels > 0
        if not some.any():
            continue
        found = summarize(target[some] / voxels[some], [s for s, has in zip(subjects, some) if has])
        pooled = (float(probability.sum() / voxels.sum()), float(target.sum() / voxels.sum()))
        values = (int(some.sum()), int(voxels.sum()), *pooled, found.mean, found.mean_low, found.mean_high)
        rows.append(dict(zip(BIN_COLUMNS, (index / RELIABILITY_BINS, (index + 1) / RELIABILITY_BINS, *values))))
    return rows


def calibration_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Distance of probability and share: mean over bins (``average``), weighted by voxels (``expected``), ``maximum``.

    Sources: Guo et al. 2017, proceedings.mlr.press/v70/guo17a (expected, maximum); Barfoot et al. 2025,
    arXiv:2506.03942 (average, for segmentation, where nearly all voxels are background that is certain).
    """
    gaps = np.array([abs(row["probability"] - row["target"]) for row in rows])
    weights = np.array([row["voxels"] for row in rows], dtype=np.float64)
    return {
        "average": float(gaps.mean()),
        "expected": float((gaps * weights).sum() / weights.sum()),
        "maximum": float(gaps.max()),
    }
