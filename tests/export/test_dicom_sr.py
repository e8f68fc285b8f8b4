"""Measurement reports: valid, with the figures and codes as dcmtk reads them, and tied to their segmentation."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes
from support.segmentations import LESION, validated
from support.series import AXIAL, COLUMNS, ROWS, SAGITTAL, SLICES, TURNED, write_series
from support.synthetic import BUNDLE

from differseg_med.errors import CaseError
from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.dicom_sr import save_dicom_sr
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Segmented
from differseg_med.export.source import read_source
from differseg_med.prediction.writers import export_mask, format_writers, write_format

MASK = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
MASK[1:5, 2, 1:4] = 1  # four columns of 0.7 mm, three slices of 3.3 mm
MASK[1, 2:6, 2] = 1  # and in the middle slice four rows of 1.1 mm
VOXELS = 4 * 3 + 3
VOLUME_ML = VOXELS * 1.1 * 0.7 * 3.3 / 1000
IN_PLANE_MM = np.hypot(3 * 0.7, 4 * 1.1)
"""By hand: in the middle slice from the upper face of the last voxel in the row to the lower face of the last below."""


def made(folder: Path, mask: np.ndarray, orientation=AXIAL, segment: SegmentInfo = LESION) -> tuple[Path, list[str]]:
    """A report with its SEG beside it, as a run writes them."""
    series = write_series(folder / "ct", orientation)
    segmented = Segmented(mask, read_source(series).grid, segment, {"ct": series}, "ct")
    write_format("dicom-seg", segmented, folder)
    file, notes = write_format("dicom-sr", segmented, folder)
    return folder / file, notes


def figures(program: Path, path: Path) -> dict[str, tuple[float, str]]:
    """Value and unit of each measurement by the name's code, as dcmtk reads them."""
    shown = subprocess.run([program, "+Pc", path], capture_output=True, text=True, check=True).stdout
    found = re.findall(r'NUM:\((\S+),\S+,"[^"]+"\)="([\d.eE+-]+)" \((\S+),UCUM', shown)
    return {code: (float(value), unit) for code, value, unit in found}


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, TURNED], ids=["axial", "sagittal", "oblique"])
def test_figures_codes_and_references(orientation, tmp_path, require_program):
    path, _ = made(tmp_path, MASK, orientation)
    assert validated(require_program("dciodvfy", "dicom3tools"), path, "ComprehensiveSR") == []
    found = figures(require_program("dsrdump", "dcmtk"), path)
    assert found["118565006"] == (pytest.approx(VOLUME_ML, rel=1e-5), "ml")
    assert found["103339001"] == (pytest.approx(IN_PLANE_MM, rel=1e-5), "mm")
    corners = marching_cubes(np.pad(MASK, 1).astype(float), 0.5)[0] * (0.7, 1.1, 3.3)
    assert found["L0JK"] == (pytest.approx(pdist(corners).max(), rel=1e-5), "mm")
    report, seg = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "mask.dcm")
    images = [pydicom.dcmread(file) for file in (tmp_path / "ct").iterdir()]
    assert report.StudyInstanceUID == images[0].StudyInstanceUID
    assert report.PatientID == "P1"
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        item.ReferencedSOPInstanceUID for one in study.ReferencedSeriesSequence for item in one.ReferencedSOPSequence
    }
    assert evidence == {seg.SOPInstanceUID, *(image.SOPInstanceUID for image in images)}
    group = contained(contained(report, "126010"), "125007")
    assert seg.SegmentSequence[0].TrackingUID == contained(group, "112040").UID
    assert contained(group, "121191").ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    assert contained(group, "121191").ReferencedSOPSequence[0].ReferencedSegmentNumber == 1
    assert images[0].SeriesInstanceUID == contained(group, "121232").UID
    assert contained(group, "276214006").ConceptCodeSequence[0].CodeValue == LESION.property_category.value
    assert contained(group, "121071").ConceptCodeSequence[0].CodeValue == LESION.property_type.value
    site = contained(group, "363698007")
    assert site.ConceptCodeSequence[0].CodeValue == LESION.anatomic_region.value
    assert contained(site, "272741003").ConceptCodeSequence[0].CodeMeaning == "Right"
    widest = contained(contained(group, "103339001"), "121112").ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    places = np.array([image.ImagePositionPatient for image in images], float)
    order = np.argsort(places @ np.cross(orientation[:3], orientation[3:]))
    assert widest == images[order[2]].SOPInstanceUID  # the middle slice


def contained(item: Dataset, code: str) -> Dataset:
    """The one item of this name below another."""
    (found,) = (one for one in item.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == code)
    return found


def test_an_empty_mask_has_a_volume_and_no_diameter(tmp_path, require_program):
    path, notes = made(tmp_path, np.zeros_like(MASK), TURNED)
    assert "the mask is empty: volume 0, and no diameters" in notes
    assert validated(require_program("dciodvfy", "dicom3tools"), path, "ComprehensiveSR") == []
    assert figures(require_program("dsrdump", "dcmtk"), path) == {"118565006": (0, "ml")}


def test_other_segments(tmp_path):
    """Drawn by hand, and a part of a region; no region."""
    manual = replace(LESION, algorithm_type="MANUAL", anatomic_region_modifier=Code("261183002", "SCT", "Upper"))
    path, _ = made(tmp_path / "manual", MASK, segment=manual)
    group = contained(contained(pydicom.dcmread(path), "126010"), "125007")
    assert contained(contained(group, "363698007"), "106233006").ConceptCodeSequence[0].CodeMeaning == "Upper"
    assert not [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "111001"]
    nowhere = replace(LESION, anatomic_region=None, anatomic_region_modifier=None)
    path, _ = made(tmp_path / "nowhere", MASK, segment=nowhere)
    group = contained(contained(pydicom.dcmread(path), "126010"), "125007")
    assert contained(group, "111001").TextValue == "model"


def test_without_the_segmentation_of_this_mask_nothing_is_written(tmp_path):
    source = read_source(write_series(tmp_path / "ct"))
    given = (source.grid.affine, source, tmp_path / "mask.dcm", tmp_path / "mask.sr.dcm", LESION)
    with pytest.raises(CaseError, match=r"mask\.dcm: the DICOM SEG that the measurements refer to is not there"):
        save_dicom_sr(MASK, *given)
    save_dicom_seg(MASK, *given[:3], LESION)
    with pytest.raises(CaseError, match="the DICOM SEG beside the measurements holds another mask"):
        save_dicom_sr(1 - MASK, *given)
    (tmp_path / "mask.dcm").write_bytes(b"junk")
    with pytest.raises(CaseError, match="holds another mask, or none"):
        save_dicom_sr(MASK, *given)
    assert not (tmp_path / "mask.sr.dcm").exists()


def test_what_is_damaged_on_the_way_to_the_disk_is_not_there(tmp_path, monkeypatch):
    source = read_source(write_series(tmp_path / "ct"))
    given = (source.grid.affine, source, tmp_path / "mask.dcm")
    save_dicom_seg(MASK, *given, LESION)
    saved = hd.sr.ComprehensiveSR.save_as

    def damaged(self, path, **options):
        saved(self, path, **options)
        path.write_bytes(path.read_bytes().replace(b"10.1203", b"10.1204"))

    monkeypatch.setattr(hd.sr.ComprehensiveSR, "save_as", damaged)
    with pytest.raises(CaseError, match="its measurements differ"):
        save_dicom_sr(MASK, *given, tmp_path / "mask.sr.dcm", LESION)
    assert not (tmp_path / "mask.sr.dcm").exists()


def test_the_segmentation_is_written_with_it_and_first(tmp_path):
    series = write_series(tmp_path / "ct")
    source = read_source(series)
    save_seg_nrrd(MASK, source.grid.affine, tmp_path / "mask.seg.nrrd", LESION)
    given = (str(tmp_path / "mask.seg.nrrd"), str(series))
    assert export_mask(*given, ["dicom-sr"], tmp_path / "alone", LESION) == []
    assert export_mask(*given, ["dicom-sr", "dicom-seg"], tmp_path / "both", LESION) == []
    for folder in (tmp_path / "alone", tmp_path / "both"):
        report, seg = pydicom.dcmread(folder / "mask.sr.dcm"), pydicom.dcmread(folder / "mask.dcm")
        group = contained(contained(report, "126010"), "125007")
        assert contained(group, "121191").ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    writers = format_writers(["dicom-sr", "nifti", "dicom-seg", "dicom-sr"], BUNDLE)
    assert [writer.name for writer in writers] == ["dicom-seg", "dicom-sr"]
