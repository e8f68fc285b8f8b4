"""The baselines that data/README of the sarcoma cohort states, and their parts."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from support.masks import STS, needs_sts

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.evaluation.baselines import (
    baseline_masks,
    baselines,
    ellipsoid_baseline,
    threshold_baseline,
    write_baselines,
)
from differseg_med.evaluation.evaluate import evaluate_case


def test_the_ellipsoid_fills_its_share_of_the_box():
    mask = ellipsoid_baseline((61, 81, 101), 0.6)
    assert mask.mean() == pytest.approx(np.pi / 6 * 0.6**3, rel=0.01)
    np.testing.assert_array_equal(mask, mask[::-1, ::-1, ::-1])
    widths = [np.ptp(np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))) + 1 for axis in range(3)]
    assert widths == pytest.approx([0.6 * n for n in mask.shape], abs=1)
    assert ellipsoid_baseline((61, 81, 101), 0.4).sum() < mask.sum()


def test_the_threshold_is_a_share_of_the_maximum():
    image = np.linspace(0, 50, 51).reshape(51, 1, 1)
    assert threshold_baseline(image, 0.4).sum() == 30  # 21 to 50
    assert threshold_baseline(image, 0.5).sum() == 25


def test_rows_and_missing_parts(tmp_path):
    label = np.pad(np.ones((4, 4, 4), np.uint8), 4)
    nib.save(nib.Nifti1Image(label, np.diag([2.0, 2, 2, 1])), tmp_path / "label.nii.gz")
    coarse = np.zeros((6, 6, 6), np.float32)
    coarse[2:4, 2:4, 2:4] = 10
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = 1
    nib.save(nib.Nifti1Image(coarse, affine), tmp_path / "pet.nii.gz")
    case = Case("c", "s", {"pet": tmp_path / "pet.nii.gz"}, tmp_path / "label.nii.gz")
    found = baselines(case)
    assert set(found) == {"ellipsoid", "threshold"}
    assert found["threshold"]["dice"] > 0.7
    assert (found["ellipsoid"]["case_id"], found["ellipsoid"]["subject_id"]) == ("c", "s")
    assert set(baselines(Case("c", "s", {}, tmp_path / "label.nii.gz"))) == {"ellipsoid"}
    folders = write_baselines([case], tmp_path / "baselines")
    for name, folder in folders.items():
        scores, notice = evaluate_case(case, folder / "c" / "mask.nii.gz")
        assert scores == {key: value for key, value in found[name].items() if key not in ("case_id", "subject_id")}
        assert not notice
    with pytest.raises(CaseError, match="no label"):
        baselines(Case("c", "s", {}, None))


@needs_sts
def test_the_stated_baselines_of_the_sarcoma_cohort():
    """The means of all 27 cases: 0.646 and 0.387; of the 7 validation cases 0.580 and 0.475."""
    found = {}
    for folder in sorted(STS.glob("STS_*")):
        masks, reference, _ = baseline_masks(
            Case(folder.name, folder.name, {"pet": folder / "pet.nii.gz"}, folder / "mask.nii.gz")
        )
        found[folder.name] = {
            n: 2 * (m & reference).sum() / (int(m.sum()) + int(reference.sum())) for n, m in masks.items()
        }
    assert len(found) == 27
    validation = [f"STS_{number}" for number in ("003", "012", "018", "029", "041", "042", "049")]
    for name, stated, on_validation in (("ellipsoid", 0.646, 0.580), ("threshold", 0.387, 0.475)):
        assert np.mean([dice[name] for dice in found.values()]) == pytest.approx(stated, abs=5e-4)
        assert np.mean([found[case][name] for case in validation]) == pytest.approx(on_validation, abs=1e-3)
