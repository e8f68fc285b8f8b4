"""Files that promise more than they hold, and values whose meaning the header maps: bounded, applied or refused."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless
from support.making import affine_lps, assert_refused, enhanced, ras, save, slices, stored, uid

from differseg_med.io.dicom.reader import read_volume


def test_a_header_that_promises_more_than_its_file_holds(tmp_path):
    """Two frames of 16384 x 16384 in a few hundred bytes of JPEG 2000: refused before anything is decoded."""
    dataset = enhanced(stored((2, 4, 4)))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.Rows = dataset.Columns = 16384
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" * 40] * 2)
    dataset["PixelData"].is_undefined_length = True
    folder = save(tmp_path / "bomb", [dataset])
    assert_refused(folder, "promises more pixels than the file can hold", "found 1074 MB")
    dataset.Rows = dataset.Columns = 20000
    assert_refused(save(tmp_path / "larger", [dataset]), "the volume is too large")


def test_a_deflated_bomb(tmp_path):
    """300 MB of zeros in a deflated data set of 300 kB."""
    dataset = slices()[0]
    path = tmp_path / "bomb.dcm"
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new((0x0011, 0x1001), "OB", bytes(300_000_000))
    dataset.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 1_000_000
    assert_refused(path, "damaged DICOM file (ValueError)")


@pytest.mark.parametrize("whole", [True, False])
def test_a_parametric_map_in_the_units_that_it_maps_to(tmp_path, whole):
    """ADC in 1e-6 mm2/s as integers, or as floats: RealWorldValueMapping is applied; two mappings are refused."""
    datasets = slices(stored((4, 6, 7)))
    for image in datasets:
        image.PatientBirthDate = image.PatientSex = image.StudyID = image.StudyDate = image.StudyTime = ""
        image.AccessionNumber, image.SeriesNumber, image.ReferringPhysicianName = "", 1, ""
        image.PositionReferenceIndicator = ""
    values = stored((4, 6, 7), seed=1).astype(np.uint16 if whole else np.float32)
    unit = hd.sr.CodedConcept("um2/s", "UCUM", "um2/s")
    mapping = hd.pm.RealWorldValueMapping("ADC", "ADC", unit, (0, 4000) if whole else (0.0, 4000.0), 0.25, 5.0)
    settings = {"contains_recognizable_visual_features": False, "window_center": 0, "window_width": 1}
    made = hd.pm.ParametricMap(
        datasets, values, uid("pm"), 1, uid("pm1"), 1, "maker", "model", "1", "serial",
        real_world_value_mappings=[mapping], **settings,
    )  # fmt: skip
    (tmp_path / "map").mkdir()
    made.save_as(tmp_path / "map" / "1.dcm")
    volume = read_volume(tmp_path / "map")
    np.testing.assert_allclose(volume.data, values.transpose(2, 1, 0) * 0.25 + 5, rtol=1e-6)
    np.testing.assert_allclose(volume.grid.affine, ras(affine_lps()), atol=1e-6)
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.RealWorldValueMappingSequence.append(shared.RealWorldValueMappingSequence[0])
    made.save_as(tmp_path / "map" / "1.dcm")
    assert_refused(tmp_path / "map", "does not say with one slope", "found 2 items")
