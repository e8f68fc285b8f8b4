"""Summaries with their uncertainty: every figure with its number of cases and an interval over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from differseg_med.geometry import FloatArray

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0


@dataclass(frozen=True)
class MeasureSummary:
    """One measure over the cases of a group.

    Args:
        n: number of cases.
        subjects: number of subjects they come from.
        mean: mean over cases.
        mean_low: lower end of the bootstrap interval of the mean; None with fewer than two subjects.
        mean_high: upper end.
        median: median over cases.
        median_low: lower end of the bootstrap interval of the median; None with fewer than two subjects.
        median_high: upper end.
        q1: first quartile.
        q3: third quartile.
        minimum: lowest value.
        maximum: highest value.
    """

    n: int
    subjects: int
    mean: float
    mean_low: float | None
    mean_high: float | None
    median: float
    median_low: float | None
    median_high: float | None
    q1: float
    q3: float
    minimum: float
    maximum: float

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def summarize(
    values: ArrayLike, subjects: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> MeasureSummary:
    """Summarize one measure of a group of cases.

    The 95 % intervals are percentile bootstrap intervals over subjects: subjects are drawn with replacement and bring
    all their cases, because scans of one person are not independent.

    Args:
        values: ``(cases,)``, finite.
        subjects: subject id of each case.
        resamples: number of bootstrap samples.
        seed: seed of the drawing; the same data give the same interval.

    Raises:
        ValueError: without cases, with values that are not finite, or if the lengths differ.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size or len(subjects) != x.size:
        raise ValueError(f"values and subjects must have one length of at least 1, got {x.shape} and {len(subjects)}")
    if not np.isfinite(x).all():
        raise ValueError("values must be finite: the policy for empty masks leaves none that is not")
    number = len(set(subjects))
    mean: tuple[float | None, float | None] = (None, None)
    median = mean
    if number > 1:
        mean, median = _intervals(x, subjects, resamples, seed)
    low, q1, q2, q3, high = np.percentile(x, (0, 25, 50, 75, 100)).tolist()
    return MeasureSummary(
        n=x.size,
        subjects=number,
        mean=float(x.mean()),
        mean_low=mean[0],
        mean_high=mean[1],
        median=q2,
        median_low=median[0],
        median_high=median[1],
        q1=q1,
        q3=q3,
        minimum=low,
        maximum=high,
    )


def _intervals(
    x: FloatArray, subjects: Sequence[str], resamples: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bootstrap intervals of mean and median over subjects."""
    members = _members(subjects)
    scans = np.full((len(members), max(len(member) for member in members)), np.nan)
    for line, member in zip(scans, members):
        line[: len(member)] = x[member]
    drawn = np.random.default_rng(seed).integers(len(members), size=(resamples, len(members)))
    samples = scans[drawn].reshape(resamples, -1)
    means, medians = np.nanmean(samples, axis=1), np.nanmedian(samples, axis=1)
    tails = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
    (a, b), (c, d) = (np.percentile(found, tails).tolist() for found in (means, medians))
    return (a, b), (c, d)


def _members(subjects: Sequence[str]) -> list[NDArray[np.intp]]:
    """Positions of the cases of each subject."""
    _, inverse = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    return [np.flatnonzero(inverse == i) for i in range(inverse.max() + 1)]


def per_subject(values: ArrayLike, subjects: Sequence[str]) -> FloatArray:
    """Mean value of each subject, ``(subjects,)``, sorted by subject id."""
    x = np.asarray(values, dtype=np.float64)
    return np.array([x[member].mean() for member in _members(subjects)])


def limits_of_agreement(differences: ArrayLike) -> tuple[float, float, float]:
    """Bland-Altman: mean difference, and mean -/+ 1.96 standard deviations; the limits are the mean for one case."""
    x = np.asarray(differences, dtype=np.float64)
    spread = 1.96 * float(x.std(ddof=1)) if x.size > 1 else 0.0
    return float(x.mean()), float(x.mean()) - spread, float(x.mean()) + spread
