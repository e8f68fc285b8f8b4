"""Reliability of probabilities, against MONAI's bins and counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import calibration_binning

from differseg_med.metrics.calibration import RELIABILITY_BINS, calibration_errors, counts_of, reliability


def test_bins_are_those_of_monai() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(20, 30, 10, generator=generator)
    reference = (torch.rand(20, 30, 10, generator=generator) < probability**2).float()
    mean_p, mean_target, count = calibration_binning(
        probability[None, None], reference[None, None], num_bins=RELIABILITY_BINS
    )
    voxels, p, target = counts_of(probability, reference)
    np.testing.assert_array_equal(voxels, count[0, 0])
    np.testing.assert_allclose(p / voxels, mean_p[0, 0], rtol=1e-4)
    np.testing.assert_allclose(target / voxels, mean_target[0, 0], rtol=1e-5)


def test_pooled_by_voxels_with_an_interval_by_subject() -> None:
    sure = counts_of([0.95, 0.95, 0.95, 1.0], [1, 1, 1, 0])  # 3 of 4 at a mean of 0.9625
    small = counts_of([0.95, 0.25], [1, 1])
    rows = reliability({"a": sure, "b": small}, ["a", "b"])
    assert [(row["from"], row["to"], row["cases"], row["voxels"]) for row in rows] == [
        (0.2, 0.3, 1, 1),
        (0.9, 1.0, 2, 5),
    ]
    last = rows[-1]
    assert (last["probability"], last["target"]) == (pytest.approx(0.96), pytest.approx(0.8))
    assert last["target_mean_of_cases"] == pytest.approx((0.75 + 1) / 2)
    assert (last["target_low"], last["target_high"]) == (0.75, 1.0)
    assert rows[0]["target_low"] is None  # one subject has no interval
    errors = calibration_errors(rows)
    assert errors == pytest.approx({"average": (0.75 + 0.16) / 2, "expected": (0.75 + 5 * 0.16) / 6, "maximum": 0.75})


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 probabilities, 3 voxels"):
        counts_of([0.1, 0.2, 0.3, 0.4], [0, 1, 0])
