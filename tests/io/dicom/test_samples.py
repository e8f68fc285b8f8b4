"""Real files: three sarcoma studies against their NIfTI, DICOM's odd samples against pydicom and dcm2niix."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.testing import assert_allclose, assert_array_equal
from support.making import save, slices

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.pipelines import preprocessing

SHARED = Path(__file__).parents[4] / "shared" / "data"
STS, SAMPLES = SHARED / "sts_dicom", SHARED / "dicom_samples"
PATIENTS = ("STS_025", "STS_041", "STS_042")
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, beside the project")


@pytest.mark.parametrize("patient", PATIENTS)
@pytest.mark.parametrize(("series", "name"), [("MR_T1", "t1"), ("PET", "pet")])
def test_series_equal_their_nifti(patient, series, name):
    read, expected = (
        load_volume(STS / patient / series / "image"),
        nib.load(SHARED / "sts" / patient / f"{name}.nii.gz"),
    )
    assert_array_equal(read[0], expected.get_fdata(dtype=np.float32))
    assert_allclose(read.affine, expected.affine, atol=1e-4)  # float32 in NIfTI headers


@pytest.mark.parametrize("patient", PATIENTS)
def test_ct_equals_its_nifti_on_the_shared_box(patient):
    """The NIfTI is cut to the box of the T1 and carries its affine, 0.006 mm aside."""
    read, expected = read_volume(STS / patient / "CT" / "image"), nib.load(SHARED / "sts" / patient / "ct.nii.gz")
    start = read.grid.indices(expected.affine[:3, 3])
    assert np.abs(start - start.round()).max() < 0.003
    box = tuple(slice(int(a), int(a) + n) for a, n in zip(start.round(), expected.shape))
    assert_array_equal(read.data[box], expected.get_fdata(dtype=np.float32))
    assert_allclose(read.grid.spacing_mm, expected.header.get_zooms(), rtol=1e-4)


@pytest.mark.parametrize("patient", PATIENTS)
def test_rtstruct_equals_the_mask(patient):
    """Contours refer to images that are not there; drawn on T1 and CT, both fill the same voxels."""
    expected = nib.load(SHARED / "sts" / patient / "mask.nii.gz")
    mask = np.asarray(expected.dataobj) > 0
    label = load_label(f"{STS / patient}/MR_T1/mask/RS.dcm::gtv_mass_mr_t1", [STS / patient / "MR_T1" / "image"])
    assert_array_equal(label[0] > 0, mask)  # Dice 1.000
    assert_allclose(label.affine, expected.affine, atol=1e-4)
    ct = load_label(f"{STS / patient}/CT/mask/RS.dcm::GTV_Mass_CT", [STS / patient / "CT" / "image"])
    world = nib.affines.apply_affine(expected.affine, np.argwhere(mask))
    found = nib.affines.apply_affine(np.linalg.inv(ct.affine), world)
    assert_allclose(found, found.round(), atol=0.003)
    assert (ct[0].numpy()[tuple(found.round().astype(int).T)] > 0).all()
    assert int(ct.sum()) == int(mask.sum())


def test_the_scan_finds_three_patients_with_three_series_and_their_contours():
    entries = index_folder(STS)
    kinds = sorted((e.patient_key, e.kind, str(e.tags["Modality"])) for e in entries)
    assert len({key for key, _, _ in kinds}) == 3
    assert [kind[1:] for kind in kinds] == 3 * [
        *(("image", modality) for modality in ("CT", "MR", "PT")),
        *[("rtstruct", "RTSTRUCT")] * 3,
    ]
    assert [e.problem for e in entries] == [None] * 18


def test_the_network_gets_the_same_from_dicom_as_from_nifti():
    """The whole preprocessing of the sarcoma bundle; with it, masks of the bundle are the same voxel for voxel."""
    modalities = {"t1": {"kind": "mr", "percentile": 99}, "ct": {"kind": "ct", "smooth": 0.75}, "pet": {"kind": "pet"}}
    steps = preprocessing(modalities, "t1", (2.0, 2.0, 2.0))
    folder, nifti = STS / "STS_042", SHARED / "sts" / "STS_042"
    places = {"t1": "MR_T1", "ct": "CT", "pet": "PET"}
    images = {name: folder / place / "image" for name, place in places.items()}
    label = Path(f"{folder / 'MR_T1' / 'mask' / 'RS.dcm'}::GTV_Mass_MR_T1")
    ours = steps(Case("a", "a", images, label).as_item())
    theirs = steps(Case("a", "a", {n: nifti / f"{n}.nii.gz" for n in images}, nifti / "mask.nii.gz").as_item())
    assert_array_equal(ours["label"], theirs["label"])
    assert_array_equal(ours["image"][:2], theirs["image"][:2])
    assert_allclose(ours["image"][2], theirs["image"][2], atol=1e-5)  # affines of float32 and of text


def converted(program: Path, source: Path, folder: Path) -> list[nib.Nifti1Image]:
    """What dcm2niix makes of a folder of DICOM."""
    folder.mkdir()
    command = [str(program), "-z", "n", "-f", "%s_%p", "-o", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return [nib.load(path) for path in sorted(folder.glob("*.nii"))]


def assert_same_world(volume, image: nib.Nifti1Image, atol: float = 1e-3) -> None:
    """Same voxels at the same world positions, however stored."""
    turn = io_orientation(np.linalg.inv(volume.grid.affine) @ image.affine)
    assert_allclose(image.affine @ inv_ornt_aff(turn, image.shape), volume.grid.affine, atol=atol)
    assert_allclose(apply_orientation(image.get_fdata(), turn), volume.data, rtol=1e-6, atol=1e-6 * volume.data.max())


@pytest.mark.parametrize("series", ["MR_T1", "CT", "PET"])
def test_sarcoma_series_as_dcm2niix(series, tmp_path, require_program):
    source = STS / "STS_042" / series / "image"
    (image,) = converted(require_program("dcm2niix"), source, tmp_path / "out")
    assert_same_world(read_volume(source), image)


@pytest.mark.parametrize("angles", [(20, -10, 5), (0, 0, 90), (0, 90, 0), (-130, 70, 200)])
def test_oblique_series_as_dcm2niix(angles, tmp_path, require_program):
    folder = save(tmp_path / "in", slices(angles=angles))
    (image,) = converted(require_program("dcm2niix"), folder, tmp_path / "out")
    assert_same_world(read_volume(folder), image)


@pytest.mark.parametrize("number", range(1, 10))
def test_nine_transfer_syntaxes_of_one_mosaic(number, tmp_path, require_program):
    """dcm2niix reads the uncompressed one; the others hold the same image."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "1.dcm").symlink_to(SAMPLES / "transfer_syntaxes" / "1.dcm")
    (image,) = converted(require_program("dcm2niix"), source, tmp_path / "out")
    volume = read_volume(SAMPLES / "transfer_syntaxes" / f"{number}.dcm")
    assert volume.grid.shape == (64, 64, 35)
    assert_same_world(volume, image)


def test_nine_copies_of_one_series_in_a_folder_are_a_choice():
    with pytest.raises(CaseError, match="the series holds 9 volumes"):
        read_volume(SAMPLES / "transfer_syntaxes")


def test_enhanced_ct_as_pydicom_and_dcm2niix(tmp_path, require_program):
    path = SAMPLES / "enhanced_and_seg" / "eCT_Supplemental.dcm"
    volume, dataset = read_volume(path), pydicom.dcmread(path)
    # Frames lie at -159 and -149 mm, the normal points down.
    assert_array_equal(volume.data, dataset.pixel_array[[1, 0]].transpose(2, 1, 0) - 1024.0)
    source = tmp_path / "in"
    source.mkdir()
    (source / path.name).symlink_to(path)
    (image,) = converted(require_program("dcm2niix"), source, tmp_path / "out")
    assert_same_world(volume, image)


@pytest.mark.parametrize("path", sorted((SAMPLES / "enhanced_and_seg").glob("emri_small*.dcm")), ids=lambda p: p.stem)
def test_enhanced_mr_without_positions_is_refused(path):
    with pytest.raises(CaseError, match="does not say where its frames are in the patient"):
        read_volume(path)


LIVERS = [*sorted((SAMPLES / "enhanced_and_seg").glob("liver*.dcm")), SAMPLES / "dcmqi_ct3slice_seg" / "liver.dcm"]


@pytest.mark.parametrize("path", LIVERS, ids=lambda p: p.stem)
def test_seg_encodings(path):
    """One liver in ten encodings, on the slices of its CT; what pydicom reads of the plain one is the measure."""
    plain = pydicom.dcmread(SAMPLES / "enhanced_and_seg" / "liver.dcm")
    frames = plain.pixel_array > 0
    depth = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in plain.PerFrameFunctionalGroupsSequence]
    expected = frames[np.argsort(depth)].transpose(2, 1, 0)
    image = SAMPLES / "dcmqi_ct3slice_seg" / "ct-3slice"
    label = load_label(f"{path}::liver", [image])
    assert_array_equal(label[0] > 0, expected)
    assert_allclose(label.affine, read_volume(image).grid.affine, atol=1e-5)


def test_overlapping_segments():
    path = SAMPLES / "dcmqi_ct3slice_seg" / "partial_overlaps.dcm"
    dataset = pydicom.dcmread(path)
    numbers = [
        f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in dataset.PerFrameFunctionalGroupsSequence
    ]
    for segment in dataset.SegmentSequence:
        voxels = dataset.pixel_array[[n == segment.SegmentNumber for n in numbers]].sum()
        assert int(load_label(f"{path}::{segment.SegmentLabel}").sum()) == voxels > 0
