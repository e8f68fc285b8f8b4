"""Volumes and masks that are files of their own, beside DICOM series or without any: found by their names."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.scanning import reasons, scanned, series, structures
from support.synthetic import Volume, affine_of, write_nifti

from differseg_med.cohort.scan.scan import with_foreground
from differseg_med.errors import CaseError


def nifti(path, qform=None):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), affine_of())
    image.set_sform(affine_of(), 1)
    image.set_qform(affine_of() if qform is None else qform, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


@pytest.mark.parametrize(
    "names",
    [
        ("p1/t1.nii.gz", "p1/ct.nii.gz", "p1/mask.nii.gz", "p2/t1.nii.gz"),
        ("p1_t1.nii.gz", "p1_ct.nii.gz", "p1_mask.nii.gz", "p2_t1.nii.gz"),
        ("T1-p1.nii.gz", "ct-p1.nii.gz", "p1_t1_seg.nii.gz", "t1_p2.nii.gz"),
    ],
)
def test_volume_files_belong_together_by_name(tmp_path, names):
    for name in names:
        nifti(tmp_path / name)
    scan = scanned(tmp_path)
    first, second = scan.cases
    assert list(first.images) == ["t1", "ct"]
    assert first.label == tmp_path / names[2]
    assert list(second.images) == ["t1"]


def test_a_mask_file_among_dicom_series_belongs_to_the_examination(tmp_path):
    series(tmp_path / "p1" / "mr", "t1")
    series(tmp_path / "p2" / "mr", "t1", patient="P2", study="S2")
    nifti(tmp_path / "p2" / "mask.nii.gz")
    scan = scanned(tmp_path)
    assert [case.label for case in scan.cases] == [None, tmp_path / "p2" / "mask.nii.gz"]


def slicer_file(path, *names, layers=1):
    """A segmentation of 3D Slicer with named segments."""
    voxels = sitk.GetImageFromArray(np.ones((2, 2, 2, layers), np.uint8), isVector=True)
    for number, name in enumerate(names):
        voxels.SetMetaData(f"Segment{number}_Name", name)
        voxels.SetMetaData(f"Segment{number}_LabelValue", f"{number + 1}")
        voxels.SetMetaData(f"Segment{number}_Layer", f"{number % layers}")
    sitk.WriteImage(voxels, str(path))


@pytest.mark.parametrize("name", ["Segmentation.seg.nrrd", "tumour.seg.nrrd", "ct_seg.nrrd"])
@pytest.mark.parametrize("layers", [1, 2])
def test_segments_of_slicer_are_chosen_by_name(tmp_path, name, layers):
    for patient in ("p1", "p2"):
        nifti(tmp_path / patient / "ct.nii.gz")
        slicer_file(tmp_path / patient / name, "liver", "left tumour", layers=layers)
    scan = scanned(tmp_path, roi="tumour")
    assert [str(case.label) for case in scan.cases] == [f"{tmp_path}/{p}/{name}::left tumour" for p in ("p1", "p2")]


def test_a_label_without_an_image_is_told(tmp_path):
    nifti(tmp_path / "p1" / "ct.nii.gz")
    nifti(tmp_path / "p2" / "mask.nii.gz")
    scan = scanned(tmp_path)
    assert [case.label for case in scan.cases] == [None]
    level, words = reasons(scan)["mask.nii.gz"]
    assert level == "warning"
    assert "no image here that it could belong to" in words


def test_damaged_and_odd_volume_files_get_no_cell(tmp_path):
    nifti(tmp_path / "t1.nii.gz")
    (tmp_path / "ct.nii.gz").write_bytes(b"not a file")
    write_nifti(tmp_path / "pet.nii.gz", Volume(np.zeros((4, 4, 4, 2)), np.eye(4)))
    shifted = affine_of()
    shifted[0, 3] += 30
    nifti(tmp_path / "t2.nii.gz", qform=shifted)
    scan = scanned(tmp_path)
    assert list(scan.cases[0].images) == ["t1"]
    found = reasons(scan)
    assert "cannot be read" in found["ct.nii.gz"][1]
    assert "4 x 4 x 4 x 2 voxels" in found["pet.nii.gz"][1]
    assert "30.0 mm apart" in found["t2.nii.gz"][1]
    assert [found[name][0] for name in ("ct.nii.gz", "pet.nii.gz", "t2.nii.gz")] == ["error"] * 3


def test_values_of_mask_files_are_told_once(tmp_path):
    for name in ("t1", "mask"):
        write_nifti(tmp_path / "p1" / f"{name}.nii.gz", Volume(np.ones((4, 4, 4)), np.eye(4)))
    scan = with_foreground(scanned(tmp_path), "1,2")
    assert str(scan.cases[0].label).endswith("mask.nii.gz::1,2")
    ct = series(tmp_path / "dicom" / "ct", "WB", modality="CT")
    structures(tmp_path / "dicom" / "rs.dcm", "GTV", reference_series=ct)
    with pytest.raises(CaseError, match="no case has a mask file"):
        with_foreground(scanned(tmp_path / "dicom"), "1")
