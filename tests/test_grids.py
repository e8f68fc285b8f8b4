"""The audit's levels and figures, on the grids of a real patient and on grids made wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.eulerangles import euler2mat

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.grids import audit_grids, raise_on_errors

# STS_001 of the soft-tissue sarcoma cohort, rounded to 5 decimals: T1, CT and mask share a grid, PET has its own.
T1 = Grid(
    (174, 158, 59), [[-0.97656, 0, 0, 0.00014], [0, -0.97656, 0, 67.3829], [0, 0, 3.26995, -881.31458], [0, 0, 0, 1]]
)
PET = Grid((41, 43, 59), [[-4.6875, 0, 0, 21.09375], [0, -4.6875, 0, 86.71875], [0, 0, 3.27, -881.29999], [0, 0, 0, 1]])


def moved(grid: Grid, x: float = 0, y: float = 0, z: float = 0, degrees: float = 0) -> Grid:
    """The grid turned about its center's z axis, then shifted, in mm RAS."""
    center = grid.corners().mean(axis=0)
    turn = np.eye(4)
    turn[:3, :3] = euler2mat(np.radians(degrees))
    turn[:3, 3] = center - turn[:3, :3] @ center + [x, y, z]
    return Grid(grid.shape, turn @ grid.affine)


def only(other: Grid):
    """The finding for ``other`` against the T1."""
    findings = audit_grids({"t1": T1, "other": other}, "t1", case="STS_001")
    assert findings[0].level == "ok"
    return findings[1]


def test_a_sound_case_says_what_happens_to_each_image():
    findings = audit_grids({"t1": T1, "ct": T1, "pet": PET}, "t1", case="STS_001", files={"pet": "STS_001/pet.nii.gz"})
    assert [finding.level for finding in findings] == ["ok", "ok", "ok"]
    assert [finding.column for finding in findings] == ["t1", "ct", "pet"]
    assert findings[0].text == "reference grid: 174 x 158 x 59 voxels of 0.98 x 0.98 x 3.27 mm, LPS"
    assert findings[1].text == "same grid as t1"
    assert "41 x 43 x 59 voxels of 4.69 x 4.69 x 3.27 mm" in findings[2].text
    assert "turned by 0.0 degrees" in findings[2].text
    assert "resampled" in findings[2].text
    assert "covers 100% of the field of view of t1" in findings[2].text
    assert [finding.remedy for finding in findings] == ["", "", ""]
    assert findings[2].file is not None
    raise_on_errors(findings)


def test_rounding_of_headers_is_the_same_grid():
    assert only(Grid(T1.shape, T1.affine.astype(np.float32))).text == "same grid as t1"


def test_almost_equal_grids_are_noted():
    finding = only(moved(T1, x=0.03))
    assert finding.level == "ok"
    assert "at most 0.030 mm apart" in finding.text
    assert "other grid" in only(moved(T1, x=0.06)).text  # 0.05 voxels of 0.977 mm are 0.049 mm


def test_turned_images_say_by_how_much():
    assert "turned by 12.0 degrees" in only(moved(PET, degrees=12)).text


def test_little_overlap_is_a_warning_with_figures():
    # The T1 is 169.9 mm wide: shifted by 127.4 mm, a quarter is shared.
    finding = only(moved(T1, x=127.4))
    assert finding.level == "warning"
    assert "covers 25% of the field of view of t1 only" in finding.text
    assert "127 mm apart" in finding.text
    assert finding.remedy


def test_a_small_image_within_the_reference_overlaps():
    # 20 x 20 x 1 voxels of 174 x 158 x 59 are 0.02 %: a patch of the same body, not another space.
    finding = only(Grid((20, 20, 1), T1.affine))
    assert finding.level == "warning"
    assert "covers less than 1% of the field of view of t1 only" in finding.text


def test_half_covered_is_no_warning():
    assert only(moved(T1, x=80)).level == "ok"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (moved(T1, z=300), "the centers of the fields of view are 300 mm apart"),
        (moved(T1, x=174 * 0.97656), "does not overlap t1"),
        (Grid(T1.shape, np.diag([np.nan, 1, 1, 1])), "not finite"),
        (Grid(T1.shape, np.diag([1.0, 0.0, 1.0, 1.0])), "an axis has no length"),
        (Grid(T1.shape, T1.affine + np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])), "73.0"),
    ],
    ids=["far away", "touching", "not finite", "singular", "sheared"],
)
def test_errors_stop_the_case_and_name_it(other, words):
    findings = audit_grids({"t1": T1, "pet": other}, "t1", case="STS_001", files={"pet": "data/STS_001/pet.nii.gz"})
    assert [finding.level for finding in findings] == ["ok", "error"]
    assert words in findings[1].text
    with pytest.raises(CaseError, match=r"case STS_001, file STS_001/pet\.nii\.gz: pet: .+\. \w+"):
        raise_on_errors(findings)


def test_a_broken_reference_is_blamed_alone():
    findings = audit_grids({"ct": T1, "t1": Grid(T1.shape, np.zeros((4, 4))), "pet": PET}, "t1")
    assert [finding.level for finding in findings] == ["ok", "error", "ok"]
    assert "not compared" in findings[0].text


def test_all_errors_are_told_at_once():
    findings = audit_grids({"t1": T1, "ct": moved(T1, x=900), "pet": moved(PET, x=900)}, "t1")
    with pytest.raises(CaseError, match=r"ct: does not overlap t1.*pet: does not overlap t1"):
        raise_on_errors(findings)


def test_reference_must_be_present():
    with pytest.raises(KeyError):
        audit_grids({"ct": T1}, "t1")
