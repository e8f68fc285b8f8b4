"""Labels as masks: contours placed by geometry, segments by name, values by number; half a voxel stays half a voxel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.drawing import OBLIQUE, assert_refused, blob, contour, drawn, filled, seg, star
from support.making import (
    COLUMNS,
    ORIGIN,
    ROWS,
    SLICES,
    SPACING,
    STEP,
    affine_lps,
    axes,
    ras,
    save,
    slices,
    uid,
)

from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import check_label, grid_of
from differseg_med.transforms.loading import LoadLabeld, LoadVolumesd


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "image", slices(angles=OBLIQUE))


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE, (90, 70, -20)])
def test_contours_fill_the_voxels_whose_centers_they_hold(tmp_path, angles):
    image = save(tmp_path / "image", slices(angles=angles))
    path = drawn(tmp_path, {"GTV": [contour(star(9 + k), k, angles) for k in (1, 2, 3)]})
    label = load_label(f"{path}::GTV", [image])
    expected = np.zeros((COLUMNS, ROWS, SLICES), bool)
    for k in (1, 2, 3):
        expected[:, :, k] = filled(star(9 + k))
    assert_array_equal(label[0] > 0, expected)
    assert_allclose(label.affine, ras(affine_lps(angles)), atol=1e-6)


def test_holes_and_islands_by_the_even_odd_rule(tmp_path, image):
    rings = [contour(star(radius), 2) for radius in (15, 10, 4)]
    label = load_label(f"{drawn(tmp_path, {'ring': rings})}::ring", [image])
    expected = filled(star(15)) ^ filled(star(10)) ^ filled(star(4))
    assert_array_equal(label[0, :, :, 2] > 0, expected)
    assert label[0, :, :, [0, 1, 3, 4, 5]].sum() == 0


def test_a_keyhole_contour_leaves_its_hole(tmp_path, image):
    outer = np.array([[3.5, 3.5], [30.5, 3.5], [30.5, 30.5], [3.5, 30.5], [3.5, 3.5]])
    inner = np.array([[10.5, 10.5], [10.5, 20.5], [20.5, 20.5], [20.5, 10.5], [10.5, 10.5]])
    label = load_label(f"{drawn(tmp_path, {'k': [contour(np.vstack([outer, inner]), 1)]})}::k", [image])
    assert int(label.sum()) == 27 * 27 - 10 * 10


def test_regions_by_name_in_any_case_by_number_and_several(tmp_path, image):
    path = drawn(tmp_path, {"GTV, left": [contour(star(6, (10.2, 10.3)), 1)], "PTV": [contour(star(6, (28, 25)), 1)]})
    left, right = (int(load_label(f"{path}::{name}", [image]).sum()) for name in ("gtv, LEFT", "2"))
    assert left == int(filled(star(6, (10.2, 10.3))).sum())
    assert int(load_label(f"{path}::PTV,1", [image]).sum()) == left + right
    assert_refused(f"{path}::GVT", [image], "no ROI 'GVT'", "GTV, left (1), PTV (2)")
    assert_refused(path, [image], "there are 2 ROIs here", f"{path.name}::GTV, left")


def test_contours_between_slices_or_off_the_plane_are_refused(tmp_path, image):
    between = drawn(tmp_path / "a", {"x": [contour(star(9), 1.5)]})
    assert_refused(f"{between}::x", [image], "lie between the slices", "1.25 mm from the next slice", "2.50 mm apart")
    tilted = contour(star(9), 2) + axes(OBLIQUE)[2] * np.linspace(0, 3, 22)[:, None]
    assert_refused(f"{drawn(tmp_path / 'b', {'x': [tilted]})}::x", [image], "not in the planes", "cross 1.2 slices")


def test_contours_of_thicker_slices_are_refused(tmp_path):
    thin = save(tmp_path / "thin", slices(np.zeros((16, ROWS, COLUMNS), np.int16)))
    path = drawn(tmp_path, {"x": [contour(star(9), k, (0, 0, 0)) for k in (0, 3, 6, 9)]})
    assert_refused(f"{path}::x", [thin], "skip slices", "contours on one slice of 3")


def test_contours_out_of_the_image(tmp_path, image):
    far = [contour(star(9), k) for k in (1, 2)] + [contour(star(9, (200, 200)), 3), contour(star(9), 30)]
    label = load_label(f"{drawn(tmp_path / 'a', {'x': far})}::x", [image])
    assert "2 of 4 contours" in label.meta["notes"][0]
    assert_refused(f"{drawn(tmp_path / 'b', {'x': far[3:]})}::x", [image], "fits none", "lies outside")


def test_a_region_larger_than_the_image_fills_it(tmp_path, image):
    """Every contour of the body reaches out of a small field of view."""
    label = load_label(f"{drawn(tmp_path, {'body': [contour(star(90), k) for k in (2, 3)]})}::body", [image])
    assert_array_equal(label[0, :, :, 2] > 0, filled(star(90)))
    assert "2 of 2 contours of ROI body lie outside of the image, whole or in part" in label.meta["notes"]


def test_a_contour_without_a_voxel_is_no_empty_mask(tmp_path, image):
    speck = np.array([[10.2, 10.2], [10.4, 10.2], [10.4, 10.4]])
    assert_refused(
        f"{drawn(tmp_path, {'x': [contour(speck, 1)]})}::x", [image], "holds no voxel's center", "smaller than"
    )


def test_lesions_of_one_slice_each_are_no_thick_slices(tmp_path):
    thin = save(tmp_path / "thin", slices(np.zeros((16, ROWS, COLUMNS), np.int16)))
    path = drawn(tmp_path, {"x": [contour(star(9), k, (0, 0, 0)) for k in (0, 3, 8)]})
    assert_array_equal(np.flatnonzero(load_label(f"{path}::x", [thin])[0].sum((0, 1))), [0, 3, 8])


def test_a_forgotten_slice_is_told(tmp_path, image):
    for number, (drawn_slices, notes) in enumerate((((0, 1, 3, 4), 1), ((0, 1, 4), 0), ((1, 2), 0))):
        path = drawn(tmp_path / f"{number}", {"x": [contour(star(9), k) for k in drawn_slices]})
        found = load_label(f"{path}::x", [image]).meta["notes"]
        assert found == ["1 single slices without a contour of ROI x between others"] * notes


def test_a_region_without_contours_among_others_is_named(tmp_path, image):
    path = drawn(tmp_path, {"GTV": [contour(star(9), 1)], "Node": []})
    label = load_label(f"{path}::GTV,Node", [image])
    assert_array_equal(label[0, :, :, 1] > 0, filled(star(9)))
    assert label.meta["notes"] == ["ROI Node has no contours: taken as empty"]


def test_an_umlaut_of_two_characters(tmp_path, image):
    path = drawn(tmp_path, {"K\u00f6rper ": [contour(star(9), 1)], "GTV": []})
    assert load_label(f"{path}::ko\u0308rper", [image]).any()


def test_the_named_series_counts_more_than_a_frame_of_reference(tmp_path, image):
    """Some versions of rt-utils make a frame of reference up."""
    path = drawn(tmp_path, {"x": [contour(star(9), 1)]}, frame=uid("made up"), referenced=uid("series", "series"))
    label = load_label(f"{path}::x", [image])
    assert_array_equal(label[0, :, :, 1] > 0, filled(star(9)))
    assert "names the series image, but another frame of reference" in label.meta["notes"][0]


def test_another_frame_of_reference_is_refused(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1)]}, frame=uid("elsewhere"))
    assert_refused(f"{path}::x", [image], "another frame of reference than the case's images")


def test_the_image_it_was_drawn_on_decides(tmp_path, image):
    """Planes that fit two images: the one that the RTSTRUCT refers to, else the first in the table."""
    fine = slices(angles=OBLIQUE, series="fine", spacing=(1.2, 0.6))
    other = save(tmp_path / "fine", fine)
    shape = (COLUMNS, ROWS, SLICES)
    plain = drawn(tmp_path / "a", {"x": [contour(star(9), 1)]})
    assert (
        load_label(f"{plain}::x", [image, other]).affine[0, 0] != load_label(f"{plain}::x", [other, image]).affine[0, 0]
    )
    named = drawn(tmp_path / "b", {"x": [contour(star(9), 1)]}, referenced=uid("series", "fine"))
    first, second = (load_label(f"{named}::x", cells) for cells in ([image, other], [other, image]))
    assert_array_equal(first.affine, second.affine)
    assert first.shape == (1, *shape)
    assert_allclose(np.linalg.norm(first.affine[:3, 0]), 0.6, rtol=1e-5)
    assert_refused(f"{plain}::x", [], "needs the image")


def test_withheld_images_keep_the_grid_of_the_label(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1)]})
    coarse = save(tmp_path / "pet", slices(angles=OBLIQUE, series="coarse", spacing=(4.0, 4.0)))
    table = tmp_path / "cohort.csv"
    rows = [f"c,{image.relative_to(tmp_path)},{coarse.relative_to(tmp_path)},{path.relative_to(tmp_path)}::x"]
    table.write_text("\n".join(["case_id,ct,pet,label", *rows]))
    cohort = read_cohort(table, ["ct", "pet"])
    sums = []
    for cases in (cohort, cohort.withhold(["ct"])):
        item = LoadVolumesd(["ct", "pet"])(cases.cases[0].as_item())
        label = LoadLabeld("label", ["ct", "pet"])(item)["label"]
        assert label.shape == (1, COLUMNS, ROWS, SLICES)
        sums.append(int(label.sum()))
    assert sums[0] == sums[1] == int(filled(star(9)).sum())
    write_cohort(tmp_path / "sub" / "again.csv", ["ct", "pet"], cohort.cases)
    again = (tmp_path / "sub" / "again.csv").read_text()
    assert f"../{path.relative_to(tmp_path)}::x" in again


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("omit", [True, False])
def test_seg_by_name_and_number_with_empty_slices_left_out(tmp_path, image, kind, omit):
    first, second = blob(0), blob(1) & ~blob(0)
    path = seg(tmp_path, kind, np.stack([first, second], -1).astype(np.uint8), omit_empty_frames=omit)
    for selector, mask in (("gtv", first), ("2", second), ("GTV,node", first | second)):
        label = load_label(f"{path}::{selector}", [image])
        assert_array_equal(label[0] > 0, mask.transpose(2, 1, 0))
        assert_allclose(label.affine, ras(affine_lps(OBLIQUE)), atol=1e-5)
    assert_refused(path, [image], "there are 2 segments here", "GTV (1), node (2)")


def test_a_seg_that_declares_more_than_it_holds(tmp_path, image):
    path = seg(tmp_path, "BINARY", blob().astype(np.uint8))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 99999999
    dataset.save_as(path)
    assert_refused(path, [image], "does not describe each of its frames")


def changed(path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("thickness", ["1.0", f"{STEP}", f"{0.8 * STEP}"])
def test_left_out_slices_whose_distance_is_not_stated(tmp_path, image, thickness):
    """Frames of slices 2 and 4: the image tells that one lies between, also where slices do not touch."""

    def change(dataset):
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = thickness
        del measures.SpacingBetweenSlices

    path = changed(seg(tmp_path, "BINARY", blob().astype(np.uint8)), change)
    label = load_label(path, [image])
    assert_array_equal(label[0] > 0, blob().transpose(2, 1, 0))


@pytest.mark.parametrize("stated", [True, False])
def test_a_seg_without_slice_thickness(tmp_path, image, stated):
    """Without its slices' distance it may have left some out, or have thicker ones: it stays on its own voxels."""

    def change(dataset):
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        del measures.SliceThickness
        if not stated:
            del measures.SpacingBetweenSlices

    label = load_label(changed(seg(tmp_path, "BINARY", blob().astype(np.uint8)), change), [image])
    expected = blob().transpose(2, 1, 0)
    assert_array_equal(label[0] > 0, expected if stated else expected[:, :, [2, 4]])
    assert bool(label.meta["notes"]) is not stated


def test_slices_twice_as_thick_are_not_stripes(tmp_path, image):
    def change(dataset):
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = f"{2 * STEP}"
        del measures.SpacingBetweenSlices

    label = load_label(changed(seg(tmp_path, "BINARY", blob().astype(np.uint8)), change), [image])
    assert label.shape == (1, COLUMNS, ROWS, 2)
    assert label.meta["notes"] == ["not on the voxels of image: 40 x 36 x 2 voxels of 0.75 x 1.50 x 5.00 mm, LPS"]


def test_numbers_of_segments_with_gaps(tmp_path, image):
    def change(dataset):
        for item in dataset.SegmentSequence:
            item.SegmentNumber = 4 * item.SegmentNumber - 1
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            number = frame.SegmentIdentificationSequence[0]
            number.ReferencedSegmentNumber = 4 * number.ReferencedSegmentNumber - 1

    first, second = blob(0), blob(1) & ~blob(0)
    path = changed(seg(tmp_path, "BINARY", np.stack([first, second], -1).astype(np.uint8)), change)
    for selector, mask in (("GTV", first), ("7", second)):
        assert_array_equal(load_label(f"{path}::{selector}", [image])[0] > 0, mask.transpose(2, 1, 0))


def test_a_seg_of_another_frame_of_reference(tmp_path, image):
    def moved(dataset):
        dataset.FrameOfReferenceUID = uid("elsewhere")

    path = changed(seg(tmp_path, "BINARY", blob().astype(np.uint8)), moved)
    assert "another frame of reference" in load_label(path, [image]).meta["notes"][0]

    def unnamed(dataset):
        del dataset.ReferencedSeriesSequence

    assert_refused(changed(path, unnamed), [image], "another frame of reference than the case's images (found image)")


def test_a_seg_outside_of_its_image_is_no_empty_mask(tmp_path, image):
    path = seg(tmp_path, "BINARY", blob().astype(np.uint8), axes(OBLIQUE)[0] * SPACING[1] * COLUMNS)
    assert_refused(path, [image], "lies outside of the image", f"none of its {blob().sum()} voxels inside")
    path = seg(tmp_path, "BINARY", blob().astype(np.uint8), axes(OBLIQUE)[0] * SPACING[1] * (COLUMNS + 0.5))
    assert_refused(path, [image], "lies outside of the image")


@pytest.mark.parametrize(("selector", "least"), [("GTV>=0.2", 0.2), (">=0.8", 0.8), ("1 >= 1", 1)])
def test_the_share_of_a_fractional_seg_that_is_enough(tmp_path, image, selector, least):
    share = np.random.default_rng(0).random((SLICES, ROWS, COLUMNS)).round(1).astype(np.float32)
    path = seg(tmp_path, "FRACTIONAL", share, fractional_type="OCCUPANCY", max_fractional_value=100)
    label = load_label(f"{path}::{selector}", [image])
    assert_array_equal(label[0] > 0, np.rint(share * 100).transpose(2, 1, 0) >= round(least * 100))
    assert label.meta["notes"] == []
    assert_refused(f"{path}::GTV>=0", [image], "no such share", "more than 0, at most 1")
    assert_refused(f"{path}::GTV>=50", [image], "no such share")


def test_a_seg_of_a_projection(tmp_path, image):
    """As dcmjs writes those of mammograms."""

    def flattened(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    path = changed(seg(tmp_path, "BINARY", blob().astype(np.uint8)), flattened)
    assert_refused(path, [image], "no place in the patient", "ImagePositionPatient of each frame")


def test_only_shares_have_a_least(tmp_path, image):
    assert_refused(f"{seg(tmp_path, 'BINARY', blob().astype(np.uint8))}::GTV>=0.3", [image], "no segment 'GTV>=0.3'")


def test_fractional_seg_is_cut_at_one_half(tmp_path, image):
    share = np.random.default_rng(0).random((SLICES, ROWS, COLUMNS)).astype(np.float32)
    path = seg(tmp_path, "FRACTIONAL", share, fractional_type="PROBABILITY")
    label = load_label(path, [image])
    stored = np.rint(share.transpose(2, 1, 0) * 255) / 255  # a byte per voxel
    assert_array_equal(label[0] > 0, stored >= 0.5)
    assert label.meta["notes"] == ["fractional segment, cut at 0.5"]


@pytest.mark.parametrize(
    ("axis", "mm"), [(0, "0.36 x 0.00 x 0.00"), (1, "0.00 x 0.72 x 0.00"), (2, "0.00 x 0.00 x 1.20")]
)
def test_half_a_pixel_off_stays_half_a_pixel_off(tmp_path, image, axis, mm):
    move = axes(OBLIQUE)[axis] * (SPACING[1], SPACING[0], STEP)[axis] * 0.48  # which voxel is nearest is clear
    label = load_label(seg(tmp_path, "BINARY", blob().astype(np.uint8), move), [image])
    shift = label.affine[:3, 3].numpy() - ras(affine_lps(OBLIQUE))[:3, 3]
    down = axes(OBLIQUE)[2] * STEP * 2  # the SEG begins with its first slice that is not empty
    assert_allclose(np.linalg.norm(shift - ras(move) - ras(down)), 0, atol=1e-4)
    assert label.shape == (1, COLUMNS, ROWS, 3)
    assert int(label.sum()) == int(blob().sum())
    assert (
        f"not on the voxels of image: 40 x 36 x 3 voxels of 0.75 x 1.50 x 2.50 mm, LPS, {mm} mm from the nearest"
        in (label.meta["notes"][0])
    )
    with pytest.raises(CaseError, match=f"the label is on another grid than ct .*{mm} mm from the nearest voxels"):
        check_label(label, grid_of(load_volume(image)), "ct", "ct")


def test_a_whole_pixel_off_moves_the_mask(tmp_path, image):
    move = axes(OBLIQUE)[0] * SPACING[1] * 2
    label = load_label(seg(tmp_path, "BINARY", blob().astype(np.uint8), move), [image])
    expected = np.zeros((COLUMNS, ROWS, SLICES), bool)
    expected[2:] = blob().transpose(2, 1, 0)[:-2]
    assert_array_equal(label[0] > 0, expected)
    assert "voxels of the label lie outside the image" in label.meta["notes"][0]


def nifti(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.uint8), np.diag([1.0, 2, 3, 1])), path)
    return path


def test_chosen_values_of_a_mask_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 5, (6, 5, 4))
    path = nifti(tmp_path / "m.nii.gz", values)
    assert_array_equal(load_label(f"{path}::1,3")[0] > 0, np.isin(values, (1, 3)))
    assert_refused(path, (), "the label has several values", "0, 1, 2, 3, 4", "m.nii.gz::1,2,3,4")
    assert_refused(f"{path}::tumour", (), "no numbers")
    assert_array_equal(load_label(nifti(tmp_path / "255.nii", (values > 2) * 255))[0] > 0, values > 2)
    assert_array_equal(load_label(f"{path}::>=2.5")[0] > 0, values >= 3)


@pytest.mark.parametrize("selector", ["9,7", ">=5"])
def test_a_class_that_a_patient_does_not_have(tmp_path, selector):
    values = np.random.default_rng(0).integers(0, 5, (6, 5, 4))
    label = load_label(f"{nifti(tmp_path / 'm.nii', values)}::{selector}")
    assert not label.any()
    assert label.meta["notes"] == [f"nothing in it is {selector}, only 0, 1, 2, 3, 4: taken as empty"]
    healthy = load_label(f"{nifti(tmp_path / 'healthy.nii', values * 0)}::{selector}")
    assert not healthy.any()
    assert "notes" not in healthy.meta


def test_an_image_is_no_label(image):
    assert_refused(image, [image], "this is no label", "one RTSTRUCT or DICOM SEG", "found CT")


def test_a_truncated_rtstruct(tmp_path, image):
    path = drawn(tmp_path, {"GTV": [contour(star(9), 1)]})
    dataset = pydicom.dcmread(path)
    del dataset.ROIContourSequence
    dataset.save_as(path)
    assert_refused(f"{path}::GTV", [image], "no closed contour")


def test_the_start_of_the_series(tmp_path, image):
    assert_allclose(
        load_label(f"{drawn(tmp_path, {'x': [contour(star(9), 0)]})}::x", [image]).affine[:3, 3], ras(ORIGIN)
    )


def test_a_contour_twice_cuts_no_hole(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1), contour(star(9), 1)]})
    label = load_label(f"{path}::x", [image])
    assert_array_equal(label[0, :, :, 1] > 0, filled(star(9)))
    assert label.meta["notes"] == ["1 contours of ROI x are copies of others and left out"]
