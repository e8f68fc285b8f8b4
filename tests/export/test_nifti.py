"""Masks on disk: exact in every orientation, verified, anonymous, and never half-written."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from differseg_med.errors import CaseError
from differseg_med.export import nifti
from differseg_med.export.nifti import save_nifti
from differseg_med.io.headers import read_header

ORIENTATIONS = [
    "".join(signs) for order in itertools.permutations(("RL", "AP", "SI")) for signs in itertools.product(*order)
]
MASK = (np.random.default_rng(0).random((7, 6, 5)) > 0.6).astype(np.uint8)


def affine_of(codes, spacing=(0.7, 1.1, 3.3)):
    turn = inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)), MASK.shape)
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, :3] = turn[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = (-123.4, 56.7, -890.1)
    return affine


def rotated(angles):
    affine = affine_of("LPS")
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    return affine


def positions(mask, affine):
    return apply_affine(affine, np.argwhere(mask))


def read_by_itk(path):
    """World positions (RAS) of the foreground as ITK-based programs (3D Slicer) see them."""
    image = sitk.ReadImage(str(path))
    points = [image.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in np.argwhere(sitk.GetArrayFromImage(image))]
    return np.array(points) * (-1, -1, 1)


def by_row(points):
    return points[np.lexsort(points.round(2).T)]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_orientations_in_nibabel_and_itk(codes, tmp_path):
    affine = affine_of(codes)
    assert nib.aff2axcodes(affine) == tuple(codes)
    path = save_nifti(MASK, affine, tmp_path / "mask.nii.gz")
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), MASK)
    for found in (image.affine, image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(found, affine, atol=1e-4)
    np.testing.assert_allclose(by_row(read_by_itk(path)), by_row(positions(MASK, affine)), atol=1e-3)


@pytest.mark.parametrize("angles", [(12, 0, 0), (5, -8, 20), (0.02, 0.01, 0.03), (90, 45, 30)])
def test_oblique_grids(angles, tmp_path):
    """Near half a turn (here 0.02 degrees from LPS) a qform is too coarse: it must agree or not be there."""
    affine = rotated(angles)
    image = nib.load(save_nifti(MASK, affine, tmp_path / "mask.nii"))
    corners = np.array(list(itertools.product(*((0, n - 1) for n in MASK.shape))))
    np.testing.assert_allclose(apply_affine(image.affine, corners), apply_affine(affine, corners), atol=1e-3)
    if image.header["qform_code"]:
        np.testing.assert_allclose(apply_affine(image.get_qform(), corners), apply_affine(affine, corners), atol=0.04)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice(axis, tmp_path):
    mask, affine = MASK.take([2], axis=axis), rotated((5, -8, 20))
    path = save_nifti(mask, affine, tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(by_row(read_by_itk(path)), by_row(positions(mask, affine)), atol=1e-3)


def test_a_qform_that_contradicts_is_left_out(tmp_path):
    wide = np.zeros((400, 400, 2), np.uint8)
    affine = rotated((0.05, 0.02, 0.04))
    image = nib.load(save_nifti(wide, affine, tmp_path / "mask.nii.gz"))
    coarse = nib.Nifti1Image(wide, affine)
    coarse.set_qform(affine, 1)
    error = np.abs(apply_affine(coarse.get_qform(), [399, 399, 1]) - apply_affine(affine, [399, 399, 1])).max()
    assert error > 0.05  # why: nibabel writes this without a word
    assert image.header["qform_code"] == 0
    assert image.header["sform_code"] == 1


def test_the_header(tmp_path):
    reference = nib.Nifti1Image(np.zeros(MASK.shape, np.int16), affine_of("LPS"))
    reference.set_sform(affine_of("LPS"), 4)
    reference.header["descrip"] = b"Jane Doe 1970"
    reference.header["aux_file"] = b"jane"
    reference.header["db_name"] = b"hospital"
    reference.header["intent_name"] = b"jane"
    reference.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(reference, tmp_path / "t1.nii")
    like = read_header(tmp_path / "t1.nii").nifti
    path = save_nifti(MASK, affine_of("LPS"), tmp_path / "mask.nii", reference_header=like)
    header = nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (4, 0)
    assert header.get_data_dtype() == np.uint8
    assert header.get_xyzt_units() == reference.header.get_xyzt_units()
    assert bytes(header["descrip"].item()) == b"differseg_med"
    assert header["scl_slope"] in (0, 1) or np.isnan(header["scl_slope"])
    content = path.read_bytes().lower()
    assert b"jane" not in content
    assert b"hospital" not in content


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    paths = [save_nifti(MASK, affine_of("RAS"), tmp_path / name / "mask.nii.gz") for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_empty_and_bool_masks(tmp_path):
    path = save_nifti(np.zeros(MASK.shape, bool), affine_of("RAS"), tmp_path / "mask.nii.gz")
    assert nib.load(path).get_data_dtype() == np.uint8
    assert not np.asarray(nib.load(path).dataobj).any()


@pytest.mark.parametrize(
    ("mask", "affine", "name", "words"),
    [
        (MASK * 2, affine_of("RAS"), "m.nii.gz", r"not binary \(expected 0 and 1, found \[0, 2\]\)"),
        (MASK[0], affine_of("RAS"), "m.nii.gz", "not a volume"),
        (MASK[None], affine_of("RAS"), "m.nii.gz", "not a volume"),
        (MASK, affine_of("RAS") * np.nan, "m.nii.gz", "not finite"),
        (
            MASK,
            affine_of("RAS") @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
            "m.nii",
            "degrees",
        ),
        (MASK, np.diag([1.0, 1, 0, 1]), "m.nii.gz", "no length"),
        (MASK, affine_of("RAS"), "m.mha", "another file name"),
    ],
)
def test_what_cannot_be_stored_is_refused(mask, affine, name, words, tmp_path):
    with pytest.raises(CaseError, match=words):
        save_nifti(mask, affine, tmp_path / name)
    assert not list(tmp_path.iterdir())


def spoil_voxels(image, path):
    voxels = np.asarray(image.dataobj).copy()
    voxels[3, 3, 3] ^= 1
    write(nib.Nifti1Image(voxels, image.affine, image.header), path)


def spoil_affine(image, path):
    moved = image.affine.copy()
    moved[0, 3] += 0.01
    write(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)


def spoil_qform(image, path):
    other = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    moved = image.affine.copy()
    moved[0, 3] += 0.5
    other.set_qform(moved, 1)
    write(other, path)


def spoil_dtype(image, path):
    write(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), path)


write = nib.save


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_voxels, "voxels differ"),
        (spoil_affine, "affine differs"),
        (spoil_qform, "qform and its sform differ"),
        (spoil_dtype, "int16 instead of uint8"),
    ],
)
def test_a_file_that_differs_from_the_mask_never_gets_the_name(spoil, words, tmp_path, monkeypatch):
    path = save_nifti(MASK, affine_of("RAS"), tmp_path / "mask.nii.gz")
    before = path.read_bytes()
    monkeypatch.setattr(nifti.nib, "save", spoil)
    with pytest.raises(CaseError, match=words):
        save_nifti(1 - MASK, affine_of("RAS"), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti.nib, "save", full)
    with pytest.raises(CaseError, match="could not be written: No space left on device") as error:
        save_nifti(MASK, affine_of("RAS"), tmp_path / "case" / "mask.nii.gz")
    assert "case/mask.nii.gz" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert not list((tmp_path / "case").iterdir())
