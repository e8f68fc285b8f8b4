"""Labels of one slice: a single frame of a SEG says nothing about the distance of slices, whatever stands there."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest
from pydicom.sr.codedict import codes
from support.making import COLUMNS, ROWS, save, slices, uid
from support.synthetic import write_table

from differseg_med.cohort.check.check import check_cohort
from differseg_med.cohort.table import read_cohort
from differseg_med.io.dicom.files import quiet
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label

OBLIQUE = (20, -10, 5)


def series(count: int, stated_mm: str, thickness_mm: str):
    """An MR series; SpacingBetweenSlices is optional in it (PS3.3 C.8.3.1)."""

    def change(dataset, number):
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber, dataset.SliceThickness = "", 1, thickness_mm
        if stated_mm:
            dataset.SpacingBetweenSlices = stated_mm

    pixels = np.random.default_rng(0).integers(0, 900, (count, ROWS, COLUMNS)).astype(np.int16)
    return slices(pixels, modality="MR", series="t1", angles=OBLIQUE, change=change)


def segmentation(source, mask: np.ndarray, **settings):
    manual = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    described = hd.seg.SegmentDescription(1, "GTV", codes.SCT.Organ, codes.SCT.Liver, manual)
    with quiet():
        return hd.seg.Segmentation(
            source, mask, "BINARY", [described], uid("s"), 1, uid("i"), 1, "a", "b", "c", "d", **settings
        )


@pytest.mark.parametrize(("count", "drawn"), [(1, 0), (4, 2)])
@pytest.mark.parametrize(("stated_mm", "thickness_mm"), [("", "2.5"), ("", "0.4"), ("3", "2.5"), ("3", "6")])
@pytest.mark.parametrize("claimed_mm", [None, 0.5, 1.0])
def test_one_frame_lies_on_its_image(tmp_path, count, drawn, stated_mm, thickness_mm, claimed_mm):
    """highdicom writes 1 mm where one image gives no distance; other programs write other things, or nothing."""
    source = series(count, stated_mm, thickness_mm)
    image = save(tmp_path / "image", source)
    mask = np.zeros((count, ROWS, COLUMNS), np.uint8)
    mask[drawn, 5:10, 4:12] = 1
    made = segmentation(source, mask, omit_empty_frames=True)
    assert made.NumberOfFrames == 1
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if claimed_mm is None:
        measures.pop("SpacingBetweenSlices", None)
    else:
        measures.SpacingBetweenSlices = claimed_mm
    made.save_as(tmp_path / "seg.dcm")
    label = load_label(tmp_path / "seg.dcm", [image])
    np.testing.assert_array_equal(label[0].numpy() > 0, mask.transpose(2, 1, 0) > 0)
    np.testing.assert_allclose(label.affine, read_volume(image).grid.affine, atol=1e-6)
    assert label.meta["notes"] == []


def test_a_frame_between_two_slices_is_on_none_of_them(tmp_path):
    image = save(tmp_path / "image", series(4, "", "2.5"))
    moved = series(1, "", "2.5")
    normal = read_volume(image).grid.affine[:3, 2] * [-1, -1, 1]  # LPS
    place = np.array(moved[0].ImagePositionPatient, float) + normal / 2
    moved[0].ImagePositionPatient = [f"{v:.9g}" for v in place]
    mask = np.zeros((1, ROWS, COLUMNS), np.uint8)
    mask[0, 5:10, 4:12] = 1
    segmentation(moved, mask).save_as(tmp_path / "seg.dcm")
    assert "not on the voxels of" in load_label(tmp_path / "seg.dcm", [image]).meta["notes"][0]


def test_check_has_nothing_to_say_of_one_slice_with_its_label(tmp_path):
    source = series(1, "", "2.5")
    save(tmp_path / "image", source)
    mask = np.zeros((1, ROWS, COLUMNS), np.uint8)
    mask[0, 5:10, 4:12] = 1
    segmentation(source, mask).save_as(tmp_path / "seg.dcm")
    table = write_table(tmp_path / "cohort.csv", [{"case_id": "a", "t1": "image", "label": "seg.dcm"}])
    check = check_cohort(read_cohort(table, ("t1",)), alignment=False)
    assert check.worse_than_ok() == []
    assert check.label_ml["a"] == pytest.approx(40 * 1.5 * 0.75 * 2.5 / 1000)
