"""Every format gives the voxels and world positions that its own library gives; bad files say what is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.synthetic import OBLIQUE, Volume, affine_of, stored_as, write_nifti

from differseg_med.errors import CaseError
from differseg_med.geometry import affine_to_itk
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import original_grid
from differseg_med.transforms.loading import LoadVolumesd

SHAPE = (7, 6, 5)


@pytest.fixture
def volume() -> Volume:
    data = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.float32)
    return stored_as(Volume(data, affine_of((0.7, 1.3, 4.0), (-90.5, 126.25, -72.0), OBLIQUE)), "PIR")


def save_itk(path: Path, volume: Volume) -> Path:
    image = sitk.GetImageFromArray(volume.data.T)
    spacing, origin, direction = affine_to_itk(volume.affine)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_as_nibabel_reads_it(tmp_path, volume, name):
    path = write_nifti(tmp_path / name, volume)
    loaded, expected = load_volume(path), nib.load(path)
    assert loaded.shape == (1, *expected.shape)
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(loaded[0], expected.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(loaded.affine, expected.affine)


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
def test_itk_formats_as_simpleitk_reads_them(tmp_path, volume, ending):
    path = save_itk(tmp_path / f"a.{ending}", volume)
    loaded, expected = load_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(loaded[0], sitk.GetArrayFromImage(expected).T)
    np.testing.assert_allclose(loaded.affine, volume.affine, atol=1e-5)
    for index in [(0, 0, 0), (1, 2, 3), (4, 0, 2)]:
        lps = np.array(expected.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(loaded.affine.numpy() @ [*index, 1], [*(lps * [-1, -1, 1]), 1], atol=1e-5)


@pytest.mark.parametrize("ending", ["nii.gz", "mha"])
def test_the_original_grid_is_that_of_the_file(tmp_path, volume, ending):
    path = tmp_path / f"a.{ending}"
    (write_nifti if ending == "nii.gz" else save_itk)(path, volume)
    grid = original_grid(load_volume(path))
    assert grid.shape == volume.data.shape
    np.testing.assert_allclose(grid.affine, volume.affine, atol=1e-5)


def test_scaled_integers_come_in_their_unit(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    raw = nib.load(tmp_path / "a.nii").dataobj.get_unscaled()
    np.testing.assert_array_equal(load_volume(tmp_path / "a.nii")[0], raw * 0.5 - 3)


def test_one_time_point_is_a_volume(tmp_path, volume):
    path = write_nifti(tmp_path / "a.nii.gz", Volume(volume.data[..., None], volume.affine))
    loaded = load_volume(path)
    np.testing.assert_array_equal(loaded[0], volume.data)
    assert original_grid(loaded).shape == volume.data.shape


def test_one_slice_is_a_volume(tmp_path, volume):
    path = write_nifti(tmp_path / "a.nii.gz", Volume(volume.data[..., :1], volume.affine))
    assert load_volume(path).shape == (1, *volume.data.shape[:2], 1)


def test_only_the_present_keys_are_loaded(tmp_path, volume):
    path = write_nifti(tmp_path / "a.nii.gz", volume)
    loaded = LoadVolumesd(("t1", "ct", "label"))({"ct": str(path), "case_id": "x"})
    assert set(loaded) == {"ct", "case_id"}
    assert loaded["case_id"] == "x"


def assert_refused(path: Path, message: str) -> CaseError:
    with pytest.raises(CaseError, match=message) as caught:
        load_volume(path)
    assert f"file {path.parent.name}/{path.name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_file_and_a_folder(tmp_path):
    assert_refused(tmp_path / "none.nii.gz", "there is no such file")
    assert_refused(tmp_path, "there is no DICOM image here")


@pytest.mark.parametrize("name", ["a.nii.zap", "a", "a.gif", "a.npy"])
def test_an_unknown_ending(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 400)
    assert_refused(tmp_path / name, r"unknown kind of file \(expected one of .nii, .nii.gz, .img")


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short(tmp_path, volume, ending, share):
    data = np.random.default_rng(1).normal(size=(20, 18, 16)).astype(np.float32)
    path = tmp_path / f"a.{ending}"
    (write_nifti if "nii" in ending else save_itk)(path, Volume(data, volume.affine))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path, "it is damaged, cut short or not an image|is damaged or cut short")


def test_metaio_has_nothing_to_say_of_a_file_cut_short(tmp_path, volume, capfd):
    image = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(20, 18, 16)).astype(np.float32))
    path = tmp_path / "a.mha"
    sitk.WriteImage(image, str(path), useCompression=True)
    path.write_bytes(path.read_bytes()[:-500])
    assert_refused(path, r"the file is damaged or cut short \(expected \d+ bytes of compressed voxels")
    assert capfd.readouterr().err == ""


def test_a_damaged_archive(tmp_path, volume):
    path = write_nifti(tmp_path / "a.nii.gz", volume)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    assert_refused(path, "cannot be read")


def test_a_text_file_under_the_name_of_an_image(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"<html>404 Not Found</html>" * 50))
    assert_refused(path, "cannot be read")


@pytest.mark.parametrize("shape", [(5, 5, 4, 2), (5, 5, 4, 1, 3), (6, 5)])
def test_other_numbers_of_axes(tmp_path, shape):
    path = write_nifti(tmp_path / "a.nii.gz", Volume(np.ones(shape), np.eye(4)))
    error = assert_refused(path, "not one 3-D volume")
    assert f"found {' x '.join(map(str, shape))} voxels" in str(error)


def test_a_picture_stored_as_a_volume(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5), np.float32)), str(tmp_path / "a.nrrd"))
    assert "expected one volume of three axes, found 2 axes" in str(
        assert_refused(tmp_path / "a.nrrd", "not one 3-D volume")
    )


def test_the_last_line_of_itk_says_what_is_wrong(tmp_path, volume):
    path = save_itk(tmp_path / "a.nrrd", volume)
    path.write_bytes(
        path.read_bytes().replace(b"encoding: gzip", b"encoding: bzip2").replace(b"encoding: raw", b"encoding: bzip2")
    )
    assert_refused(path, "found RuntimeError: .*bzip2 encoding not available")


def test_more_than_one_number_per_voxel(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert_refused(tmp_path / "a.nrrd", "not one 3-D volume")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_voxels_without_a_number(tmp_path, volume, value):
    data = volume.data.copy()
    data[2, 3, 1:4] = value
    path = write_nifti(tmp_path / "a.nii.gz", Volume(data, volume.affine))
    assert_refused(path, f"voxels without a number .*found 3 of {data.size} voxels")


def test_numbers_too_large_for_32_bits_are_not_read_as_infinite_in_silence(tmp_path):
    path = write_nifti(tmp_path / "a.nii", Volume(np.full((3, 3, 3), 1e300), np.eye(4)), np.float64)
    assert_refused(path, "voxels without a number")


def test_messages_name_no_folder_above_the_files_own(tmp_path):
    path = tmp_path / "Anna Muster" / "case 1" / "t 1.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no image at all")
    text = str(assert_refused(path, "cannot be read"))
    assert "Muster" not in text
    assert "Anna" not in text
