"""Contours of a slice: copies, holes and crossings by hand, and an account of area against voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from support.drawing import assert_refused, contour, drawn, filled, star
from support.making import save, slices

from differseg_med.io.dicom.contours import Account, Contour, fill_slice
from differseg_med.io.labels import load_label

ODD = Path(__file__).parents[2] / "data" / "odd_inputs"


def square(low: float, high: float, left: float | None = None) -> np.ndarray:
    """A square of pixel indices; its edges lie between pixel centers if the numbers end on .5."""
    left = low if left is None else left
    return np.array([[left, low], [left + high - low, low], [left + high - low, high], [left, high]])


def fill(*contours: np.ndarray, shape=(40, 36), exclusive=()) -> tuple[np.ndarray, Account]:
    section, account = np.zeros(shape, bool), Account()
    made = [Contour(np.asarray(points, float), number in exclusive) for number, points in enumerate(contours)]
    fill_slice(made, section, 4, account)
    return section, account


STAR = star(12)
COPIES = {
    "the same": STAR,
    "another start": np.roll(STAR, 5, axis=0),
    "another direction": STAR[::-1],
    "rounded": STAR.round(3),
    "closed": np.vstack([STAR, STAR[:1]]),
    "a point more": np.insert(STAR, 3, (STAR[2] + STAR[3]) / 2, axis=0),
    "all of it": np.roll(STAR[::-1], 7, axis=0).round(2),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_cuts_no_hole(name):
    section, account = fill(STAR, COPIES[name], *([COPIES[name]] * 2))
    assert_array_equal(section, filled(STAR))
    assert account.copies == 3
    assert account.notes("x", 1) == ["3 contours of ROI x are copies of others and left out"]


def test_what_is_a_little_smaller_is_no_copy():
    section, account = fill(square(3.5, 23.5), square(4.5, 22.5))
    assert section.sum() == 20 * 20 - 18 * 18
    assert account.copies == 0


def test_crossing_contours_are_taken_together():
    section, account = fill(square(3.5, 13.5), square(8.5, 18.5))
    assert section.sum() == 2 * 100 - 25
    assert account.notes("x", 1) == ["contours of ROI x cross each other on slice 5: taken together; look at them"]


def test_crossing_contours_that_are_declared_exclusive_keep_what_only_one_of_them_holds():
    """PS3.3 C.8.8.6.3: CLOSEDPLANAR_XOR."""
    section, account = fill(square(3.5, 13.5), square(8.5, 18.5), square(16.5, 26.5), exclusive=(0, 1, 2))
    assert_array_equal(section, filled(square(3.5, 13.5)) ^ filled(square(8.5, 18.5)) ^ filled(square(16.5, 26.5)))
    assert section.sum() == 3 * 100 - 2 * 25 - 2 * 4
    assert account.notes("x", 1) == []
    mixed, account = fill(square(3.5, 13.5), square(8.5, 18.5), square(10.5, 20.5), exclusive=(2,))
    assert_array_equal(mixed, (filled(square(3.5, 13.5)) | filled(square(8.5, 18.5))) ^ filled(square(10.5, 20.5)))
    assert account.crossing == {4}


def test_a_chain_of_crossing_contours_with_a_hole_in_it():
    section, account = fill(square(3.5, 13.5), square(8.5, 18.5), square(9.5, 12.5), square(25.5, 30.5))
    assert section.sum() == 2 * 100 - 25 - 9 + 25
    assert account.crossing == {4}


def test_a_hole_drawn_a_little_over_the_edge_is_a_hole():
    hole = np.array([[6.5, 5.5], [10.5, 5.5], [10.5, 13.6], [6.5, 13.6]])
    section, account = fill(square(3.5, 13.5), hole)
    assert section.sum() == 100 - 4 * 8
    assert not account.crossing


def test_neighbours_that_share_an_edge_do_not_cross():
    section, account = fill(square(3.5, 13.5), square(3.5, 13.5, left=13.5))
    assert section.sum() == 200
    assert account.notes("x", 1) == []


def test_a_ring_thinner_than_a_pixel_is_told():
    section, account = fill(square(3.5, 23.5), square(3.8, 23.2))
    assert section.sum() == 0
    assert "less than a pixel apart: taken as holes" in account.notes("x", 1)[0]
    assert "on slice 5 voxels of 0.0 mm2 for contours of 47.3" in account.notes("x", 2)[1]


def test_area_and_voxels_that_differ_much():
    sliver = np.array([[3.1, 3.0], [3.9, 3.0], [3.9, 30.0], [3.1, 30.0]])  # between two columns of centers
    account = fill(sliver)[1]
    assert account.disagreeing == [(4, pytest.approx(0.8 * 27), 0)]
    assert fill(square(3.5, 13.5))[1].disagreeing == []
    assert fill(square(-20, 60))[1].disagreeing == []  # what lies outside of the image cannot have voxels


def test_thousands_of_contours_over_each_other_are_refused(tmp_path):
    image = save(tmp_path / "image", slices())
    many = [contour(star(9 + k / 100), 1, (0, 0, 0)) for k in range(200)]
    assert_refused(f"{drawn(tmp_path, {'x': many})}::x", [image], "too many contours lie over each other")


@pytest.fixture
def axial(tmp_path: Path) -> Path:
    return save(tmp_path / "tree" / "image", slices())


def test_the_files_of_public_reports(axial):
    twice = load_label(f"{ODD / 'rt_contour_twice_rounded.dcm'}::GTV", [axial])
    assert int(twice.sum()) == 100
    first, second = (load_label(f"{ODD / 'rt_duplicate_names.dcm'}::{n}", [axial])[0] > 0 for n in ("1", "#2"))
    assert int(first.sum()) == int(second.sum()) == 100
    assert not bool((first & second).any())
    both = load_label(f"{ODD / 'rt_duplicate_names.dcm'}::1,2", [axial])
    assert int(both.sum()) == 200
    assert_refused(f"{ODD / 'rt_duplicate_names.dcm'}::Lesion01", [axial], "2 ROIs are called", "number instead")


@pytest.mark.parametrize(("kind", "voxels"), [("CLOSED_PLANAR", 200 - 25), ("CLOSEDPLANAR_XOR", 200 - 2 * 25)])
def test_how_contours_are_combined_stands_in_the_file(tmp_path, axial, kind, voxels):
    planes = [contour(square(*ends), 1, (0, 0, 0)) for ends in ((3.5, 13.5), (8.5, 18.5))]
    path = drawn(tmp_path, {"x": planes})
    dataset = pydicom.dcmread(path)
    for item in dataset.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = kind
    dataset.save_as(path)
    label = load_label(f"{path}::x", [axial])
    assert int(label.sum()) == voxels
    assert any("cross each other" in note for note in label.meta["notes"]) == (kind == "CLOSED_PLANAR")


def test_a_number_is_a_number_though_a_region_is_called_so(tmp_path, axial):
    path = drawn(tmp_path, {"2": [contour(star(6), 1, (0, 0, 0))], "GTV": [contour(star(12), 1, (0, 0, 0))]})
    counts = [int(load_label(f"{path}::{selector}", [axial]).sum()) for selector in ("2", "#2")]
    assert counts == [int(filled(star(6)).sum()), int(filled(star(12)).sum())]
