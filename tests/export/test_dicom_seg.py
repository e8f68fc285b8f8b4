"""DICOM SEG: on its source slices in every orientation, valid, coded, and the same voxels to foreign readers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support import series
from support.segmentations import LESION, MASK, read_by_dcmqi, validated
from support.series import (
    AXIAL,
    COLUMNS,
    CORONAL,
    ROWS,
    SAGITTAL,
    SLICES,
    TURNED,
    positions,
    positions_in_seg,
    sources_by_position,
    write_series,
)
from support.synthetic import BUNDLE, ORIENTATIONS, Volume, stored_as

from differseg_med.errors import CaseError
from differseg_med.export import dicom_seg
from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.segment import read_segment
from differseg_med.export.segmented import Segmented
from differseg_med.export.source import read_source
from differseg_med.io.labels import load_label
from differseg_med.prediction.writers import write_format

DATA = Path(__file__).parents[3] / "shared" / "data"
STS = DATA / "sts_dicom" / "STS_041"
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": TURNED}
SEGMENTATION, EXPLICIT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
FRACTIONAL = "FRACTIONAL with 0 and 1, as viewers on cornerstone misread single bits of these frames"


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_mask_in_any_order_of_axes_lands_on_its_slices(codes, tmp_path):
    source = read_source(write_series(tmp_path / "ct", TURNED))
    stored = stored_as(Volume(MASK, source.grid.affine), codes)
    save_dicom_seg(stored.data, stored.affine, source, tmp_path / "mask.dcm", LESION)
    found, expected = positions_in_seg(tmp_path / "mask.dcm"), positions(MASK, source.grid.affine)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("along", [1, -1])
@pytest.mark.parametrize(
    "orientation", [AXIAL, SAGITTAL, CORONAL, TURNED], ids=["axial", "sagittal", "coronal", "oblique"]
)
def test_series_of_any_plane(orientation, along, tmp_path, require_program):
    """With and without empty slices that can be left out, so that it is BINARY and FRACTIONAL."""
    folder = write_series(tmp_path / "ct", orientation, along=along)
    source = read_source(folder)
    path = tmp_path / "mask.dcm"
    mask = MASK.copy()
    if along > 0:
        mask[..., [1, 3]] = 0
    notes = save_dicom_seg(mask, source.grid.affine, source, path, LESION)
    assert notes == ([] if along > 0 else [FRACTIONAL])
    expected = positions(mask, source.grid.affine)
    np.testing.assert_allclose(positions_in_seg(path), expected, atol=2e-3)
    np.testing.assert_allclose(read_by_dcmqi(path, tmp_path / "dcmqi")[0], expected, atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), path) == []
    # Every frame refers to the image at its place.
    seg, images = pydicom.dcmread(path), sources_by_position(folder)
    assert seg.SegmentationType == ("BINARY" if along > 0 else "FRACTIONAL")
    assert len(seg.PerFrameFunctionalGroupsSequence) == (SLICES - 2 if along > 0 else SLICES)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = tuple(np.round(np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), 3))
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert images[position] == image.ReferencedSOPInstanceUID


@pytest.mark.skipif(not STS.is_dir(), reason="needs ../shared/data/sts_dicom, beside the project")
@pytest.mark.parametrize("kind", ["MR_T1", "CT"])
def test_a_real_patient_in_dcmqi_highdicom_and_dciodvfy(kind, tmp_path, require_program):
    """The published mask of STS_041 on the original series, read back by others; CT is a larger box than the mask."""
    image = nib.load(DATA / "sts" / "STS_041" / "mask.nii.gz")
    source = read_source(STS / kind / "image")
    mask, affine = np.asarray(image.dataobj), image.affine
    if kind == "CT":
        with pytest.raises(CaseError, match="not on the voxels of the DICOM series"):
            save_dicom_seg(mask, affine, source, tmp_path / "mask.dcm", LESION)
        mask, affine = np.zeros(source.grid.shape, np.uint8), source.grid.affine
        mask[40:90, 50:80, 20:30] = 1
    path = tmp_path / "mask.dcm"
    notes = save_dicom_seg(mask, affine, source, path, read_segment(BUNDLE))
    expected = positions(mask, affine)
    assert len(expected) > 10_000
    np.testing.assert_allclose(positions_in_seg(path), expected, atol=2e-3)
    voxels, description = read_by_dcmqi(path, tmp_path / "dcmqi")
    np.testing.assert_allclose(voxels, expected, atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), path) == []
    # The Study ID of this collection is longer than DICOM allows.
    assert notes == ["StudyID of the source breaks DICOM's rules and was left empty"]
    (attributes,) = description["segmentAttributes"][0]
    block = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["segment"]
    assert {key: attributes[key] for key in block} == block  # dcmqi reads the bundle's own block back
    seg, first = pydicom.dcmread(path), pydicom.dcmread(next((STS / kind / "image").iterdir()))
    for keyword in ("PatientID", "PatientName", "PatientSex", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert seg[keyword].value == first[keyword].value, keyword
    assert seg.AccessionNumber == first.AccessionNumber


def test_the_object(tmp_path):
    folder = write_series(tmp_path / "ct")
    source = read_source(folder)
    paths = [tmp_path / name for name in ("a.dcm", "b.dcm")]
    mask = MASK.copy()
    mask[..., [0, 4]] = 0
    for path in paths:
        save_dicom_seg(mask, source.grid.affine, source, path, LESION)
    a, b = map(pydicom.dcmread, paths)
    image = pydicom.dcmread(next(folder.iterdir()))
    assert (a.SOPClassUID, a.file_meta.TransferSyntaxUID, a.SegmentationType) == (SEGMENTATION, EXPLICIT, "BINARY")
    uids = ("SOPInstanceUID", "SeriesInstanceUID")
    assert all(a[uid].value != b[uid].value != image[uid].value for uid in uids)
    assert a.StudyInstanceUID == image.StudyInstanceUID
    assert str(a.PatientName) == "Doe^Jane"
    assert (a.PatientID, a.StudyID, a.AccessionNumber, a.PatientBirthDate) == ("P1", "S1", "A1", "19700101")
    assert (a.Modality, a.SeriesNumber, a.SeriesDescription) == ("SEG", 1004, "differseg_med: Lesion")
    assert a.ContentCreatorName == ""
    (segment,) = a.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == (
        "Lesion",
        "AUTOMATIC",
        "model",
    )
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue) == ("4147007", "7771000")
    (region,) = segment.AnatomicRegionSequence
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == ("68367000", "24028007")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("model", "1.2.3")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert segment.TrackingID == "differseg_med lesion"
    assert segment.TrackingUID != b.SegmentSequence[0].TrackingUID
    # highdicom's published conversion gives back the colour that went in.
    lab = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
    assert np.abs(np.subtract(lab.to_rgb(), LESION.color)).max() <= 1


@pytest.mark.parametrize(
    "mask",
    # The one slice is wide: of 42 pixels in one frame GDCM, and so SimpleITK, can read no RLE, of 64 it can.
    [MASK, np.zeros_like(MASK), np.tile(MASK[..., :1], (3, 1, 1)), np.pad(MASK, ((0, 3), (0, 0), (0, 0)))],
    ids=["all slices", "empty", "one slice", "odd width"],  # of which GDCM's encoder, if it is installed, dies
)
def test_compressed_frames_are_the_same_voxels_to_every_reader(mask, tmp_path, monkeypatch, require_program):
    """``dicom-seg-rle``: bytes of 0 and 1, as DICOM has no RLE of bits. OHIF reads them in tests_foreign."""
    monkeypatch.setattr(series, "COLUMNS", mask.shape[0])
    folder = write_series(tmp_path / "ct", TURNED, slices=mask.shape[2])
    source = read_source(folder)
    segmented = Segmented(mask, source.grid, LESION, {"ct": folder}, "ct")
    file, notes = write_format("dicom-seg-rle", segmented, tmp_path / "out")
    path = tmp_path / "out" / file
    assert (file, notes) == ("mask.rle.dcm", [])
    seg = pydicom.dcmread(path)
    assert (seg.file_meta.TransferSyntaxUID, seg.BitsAllocated, seg.NumberOfFrames) == (RLE, 8, mask.shape[2])
    assert (seg.SegmentationType, seg.SegmentationFractionalType, seg.MaximumFractionalValue) == (
        "FRACTIONAL",
        "OCCUPANCY",
        1,
    )
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # GDCM
    assert frames.sum() == mask.sum()
    np.testing.assert_array_equal(frames, seg.pixel_array.reshape(frames.shape))
    expected = positions(mask, source.grid.affine).reshape(-1, 3)
    np.testing.assert_allclose(positions_in_seg(path).reshape(-1, 3), expected, atol=2e-3)
    np.testing.assert_allclose(read_by_dcmqi(path, tmp_path / "dcmqi")[0].reshape(-1, 3), expected, atol=2e-3)
    label = load_label(str(path), [str(folder)])
    np.testing.assert_allclose(
        positions(label[0].numpy(), np.asarray(label.affine)).reshape(-1, 3), expected, atol=2e-3
    )
    assert validated(require_program("dciodvfy", "dicom3tools"), path) == []


def test_tracking_and_algorithm_are_taken_from_the_description(tmp_path):
    source = read_source(write_series(tmp_path / "ct"))
    drawn = replace(LESION, algorithm_type="MANUAL", algorithm_name="", algorithm_version="")
    drawn = replace(drawn, tracking_id="lesion 7", tracking_uid="1.2.3.4")
    save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", drawn)
    (segment,) = pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence
    assert (segment.TrackingID, segment.TrackingUID) == ("lesion 7", "1.2.3.4")
    assert segment.SegmentAlgorithmType == "MANUAL"
    assert "SegmentationAlgorithmIdentificationSequence" not in segment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"property_type": None}, "codes of category and type"),
        ({"property_category": None}, "codes of category and type"),
        ({"algorithm_type": ""}, "SegmentAlgorithmType"),
        ({"algorithm_version": ""}, "AlgorithmVersion"),
        ({"algorithm_name": ""}, "SegmentAlgorithmName"),
    ],
)
def test_nothing_is_coded_that_nobody_said(change, words, tmp_path):
    source = read_source(write_series(tmp_path / "ct"))
    with pytest.raises(CaseError, match=words) as error:
        save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "out" / "mask.dcm", replace(LESION, **change))
    assert "metadata.json" in error.value.remedy
    assert not (tmp_path / "out").exists()


def test_an_empty_mask_is_a_valid_object(tmp_path, require_program):
    source = read_source(write_series(tmp_path / "ct"))
    save_dicom_seg(np.zeros_like(MASK), source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    assert validated(require_program("dciodvfy", "dicom3tools"), tmp_path / "mask.dcm") == []
    seg = hd.seg.segread(tmp_path / "mask.dcm")
    # Empty frames are left out until the packed bits fill an even number of bytes: 3 x 42 bits are 16, 5 x 42 were 27.
    assert seg.get_volume(combine_segments=True).shape == (SLICES - 2, ROWS, COLUMNS)
    assert not seg.pixel_array.any()


def test_a_single_slice(tmp_path, require_program):
    source = read_source(write_series(tmp_path / "ct", TURNED, slices=1))
    mask = MASK[:, :, :1]
    save_dicom_seg(mask, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    assert validated(require_program("dciodvfy", "dicom3tools"), tmp_path / "mask.dcm") == []
    expected = positions(mask, source.grid.affine)
    np.testing.assert_allclose(read_by_dcmqi(tmp_path / "mask.dcm", tmp_path / "dcmqi")[0], expected, atol=2e-3)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, beside the project")
def test_a_multi_frame_source(tmp_path, require_program):
    """An enhanced CT of two frames that are stored from the feet up."""
    cell = DATA / "dicom_samples" / "enhanced_and_seg" / "eCT_Supplemental.dcm"
    source = read_source(cell)
    mask = np.zeros(source.grid.shape, np.uint8)
    mask[30:50, 10:20, 0] = mask[100:120, 200:240, 1] = 1
    save_dicom_seg(mask, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    np.testing.assert_allclose(positions_in_seg(tmp_path / "mask.dcm"), positions(mask, source.grid.affine), atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), tmp_path / "mask.dcm") == []
    image = pydicom.dcmread(cell)
    for frame in pydicom.dcmread(tmp_path / "mask.dcm").PerFrameFunctionalGroupsSequence:
        (used,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert used.ReferencedSOPInstanceUID == image.SOPInstanceUID
        theirs = image.PerFrameFunctionalGroupsSequence[int(used.ReferencedFrameNumber) - 1]
        assert (
            theirs.PlanePositionSequence[0].ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
        )


def test_a_tilted_series_that_was_resampled_gets_the_mask_on_its_own_slices(tmp_path, require_program):
    """A gantry tilt of 16 degrees: the mask is drawn on the resampled volume, the frames are the tilted slices."""
    folder = write_series(tmp_path / "ct", shift=(0, 0.95, 0))
    with pytest.raises(CaseError, match="tilt"):
        read_source(folder)
    source = read_source(f"{folder}::+resample")
    center = np.mean([piece.plane.position for piece in source.slices], axis=0) + np.array([2, 3, 0])
    spacing = np.diag([-0.2, -0.2, 0.2, 1])  # RAS: a fine grid in which a ball is easy to draw
    affine = spacing.copy()
    affine[:3, 3] = center * (-1, -1, 1) - spacing[:3, :3] @ [40, 40, 40]
    fine = np.stack(np.meshgrid(*[np.arange(81)] * 3, indexing="ij"), axis=-1) - 40
    ball = (np.linalg.norm(fine * 0.2, axis=-1) <= 5).astype(np.uint8)
    (note,) = save_dicom_seg(ball, affine, source, tmp_path / "mask.dcm", LESION)
    assert "nearest" in note
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert validated(require_program("dciodvfy", "dicom3tools"), tmp_path / "mask.dcm") == []
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.mgrid[:ROWS, :COLUMNS]
        world = corner + np.stack([columns * 0.7, rows * 1.1, 0 * rows], axis=-1)  # axial: x with columns, y with rows
        distance = np.linalg.norm(world - center, axis=-1)
        clear = np.abs(distance - 5) > 0.2
        np.testing.assert_array_equal(pixels[clear] > 0, distance[clear] < 5)
    assert seg.pixel_array.any()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient"),
        ({"PatientID": None}, "have no PatientID"),
        ({"StudyInstanceUID": None}, "StudyInstanceUID"),
        ({"FrameOfReferenceUID": None}, "no Frame Of Reference UID"),
    ],
)
def test_what_the_source_lacks_is_named(attributes, words, tmp_path):
    folder = write_series(tmp_path / "ct", **attributes)

    def export():
        source = read_source(folder)
        save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", LESION)

    with pytest.raises(CaseError, match=words):
        export()
    assert not (tmp_path / "mask.dcm").exists()


def test_empty_and_foreign_patient_attributes_are_kept(tmp_path):
    folder = write_series(
        tmp_path / "ct", PatientName="Müller^Änne", PatientSex="", StudyDate="", SpecificCharacterSet="ISO_IR 100"
    )
    source = read_source(folder)
    save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert (str(seg.PatientName), seg.PatientSex, seg.StudyDate) == ("Müller^Änne", "", "")


def test_a_missing_slice_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct")
    places = {float(pydicom.dcmread(path).ImagePositionPatient[2]): path for path in folder.iterdir()}
    places[sorted(places)[2]].unlink()
    with pytest.raises(CaseError, match="missing"):
        read_source(folder)


def test_a_source_that_is_not_dicom_says_what_is_needed(tmp_path):
    nib.save(nib.Nifti1Image(MASK, np.eye(4)), tmp_path / "t1.nii.gz")
    with pytest.raises(CaseError, match="refers to the DICOM images under it") as error:
        read_source(tmp_path / "t1.nii.gz")
    assert "folder of the DICOM series" in error.value.remedy


def moved(seg):
    position = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
    position[0] = float(position[0]) + 0.01


def flipped(seg):
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def bit(seg):
    pixels = bytearray(seg.PixelData)
    pixels[3] ^= 4
    seg.PixelData = bytes(pixels)


def swapped(seg):
    a, b = (
        frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence[:2]
    )
    a.ReferencedSOPInstanceUID, b.ReferencedSOPInstanceUID = b.ReferencedSOPInstanceUID, a.ReferencedSOPInstanceUID


def stranger(seg):
    seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[
        0
    ].ReferencedSOPInstanceUID = "1.2"


def patient(seg):
    seg.PatientID = "P2"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (moved, "elsewhere"),
        (flipped, "elsewhere"),
        (bit, "voxels differ"),
        (swapped, "elsewhere"),
        (stranger, "other images"),
        (patient, "PatientID differs"),
    ],
)
def test_a_file_that_differs_never_gets_the_name(spoil, words, tmp_path, monkeypatch):
    source = read_source(write_series(tmp_path / "ct"))
    path = tmp_path / "out" / "mask.dcm"
    save_dicom_seg(MASK, source.grid.affine, source, path, LESION)
    before = path.read_bytes()
    write = hd.seg.Segmentation.save_as

    def spoiled(seg, file, **kwargs):
        write(seg, file)
        read = pydicom.dcmread(file)
        spoil(read)
        read.save_as(file)

    monkeypatch.setattr(dicom_seg.hd.seg.Segmentation, "save_as", spoiled)
    with pytest.raises(CaseError, match=words):
        save_dicom_seg(1 - MASK, source.grid.affine, source, path, LESION)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["mask.dcm"]
