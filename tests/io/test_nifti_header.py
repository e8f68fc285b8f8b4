"""The two transforms of NIfTI: where each program puts the voxels, and that a mask lies on its image in all of them."""

from __future__ import annotations

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.synthetic import affine_of

from differseg_med.errors import CaseError
from differseg_med.export.nifti import save_nifti
from differseg_med.geometry import Grid, affine_from_itk, check_affine, grid_distance_mm, same_grid
from differseg_med.io.headers import read_header, verdict
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import original_grid

SHAPE = (8, 7, 6)
SPACING = (1.5, 1.7, 3.1)
QFORM = affine_of(SPACING, (-20.0, 30.0, -10.0), (20, -10, 5))
CODES = list(itertools.product(range(5), range(5)))


def changed(how: str) -> np.ndarray:
    """The sform."""
    affine = QFORM.copy()
    if how == "shifted":
        affine[0, 3] += 12.4
    elif how == "scaled":
        affine[:3, 0] *= 1.05
    elif how == "sheared":
        affine[:3, 1] += 0.3 * affine[:3, 0]
    return affine


def stated(path, sform=QFORM, codes=(1, 1), *, qform=QFORM, pixdim=SPACING, units=2, **fields):
    """A NIfTI file with just this header: nothing is checked or mended."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_zooms(SPACING)
    header.set_qform(qform, 1)
    header["qform_code"], header["sform_code"] = codes
    header["srow_x"], header["srow_y"], header["srow_z"] = sform[:3]
    header["pixdim"][1:4], header["xyzt_units"] = pixdim, units
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    voxels = np.arange(np.prod(SHAPE), dtype="<i2")
    path.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes())
    return path


def by_itk(path):
    """Where SimpleITK, which is 3D Slicer's reader too, puts the voxels, RAS; None if it refuses the file."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    return affine_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@pytest.mark.parametrize("how", ["agree", "shifted", "scaled", "sheared"])
def test_all_codes_against_simpleitk_and_nibabel(tmp_path, how):
    """25 pairs of codes: voxels are where nibabel puts them, where ITK puts them is known, and a difference is told."""
    for qform, sform in CODES:
        path = stated(tmp_path / "t1.nii", changed(how), (qform, sform))
        expected, elsewhere = nib.load(path).affine, by_itk(path)
        levels = [finding.level for finding in verdict(path)]
        clash = how == "shifted" and qform == sform != 0  # 12.4 mm apart, and said to be the same space
        if clash or check_affine(expected):
            assert levels == ["error"], (qform, sform)
            with pytest.raises(CaseError):
                load_volume(path)
            continue
        differ = grid_distance_mm(Grid(SHAPE, expected), Grid(SHAPE, elsewhere)) > 0.1
        differ |= how in ("shifted", "scaled") and bool(qform and sform)
        assert levels == ["warning"] * differ, (qform, sform)
        header = read_header(path)
        assert header.nifti is not None
        np.testing.assert_allclose(header.grid.affine, expected, atol=1e-5)
        np.testing.assert_allclose(header.nifti.itk_affine, elsewhere, atol=1e-3, err_msg=f"{qform} {sform}")
        assert same_grid(original_grid(load_volume(path)), header.grid), (qform, sform)
        mask = save_nifti(
            np.ones(SHAPE, np.uint8), header.grid.affine, tmp_path / "m.nii", reference_header=header.nifti
        )
        np.testing.assert_array_equal(nib.load(mask).affine, expected)
        np.testing.assert_array_equal(by_itk(mask), elsewhere, err_msg=f"{qform} {sform}")


def test_which_program_puts_the_voxels_where_is_told(tmp_path):
    (found,) = verdict(stated(tmp_path / "a.nii", changed("shifted"), (1, 2)))
    assert found.text == (
        "sform (code 2) and qform (code 1) put voxels up to 12.4 mm apart; the sform is taken; 3D Slicer and other "
        "programs on ITK put the voxels up to 12.4 mm elsewhere"
    )
    (found,) = verdict(stated(tmp_path / "a.nii", changed("scaled"), (0, 2)))
    assert "the voxels of the sform are 1.575 x 1.700 x 3.100 mm, pixdim says 1.500" in found.text


@pytest.mark.parametrize(("unit", "scale"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (10, 1.0), (11, 0.001)])
def test_units_of_length_become_millimetres(tmp_path, unit, scale):
    path = stated(tmp_path / "a.nii", units=unit)
    header = read_header(path)
    np.testing.assert_allclose(header.grid.affine, by_itk(path), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(header.grid.spacing_mm, np.array(SPACING) * scale, rtol=1e-5)
    assert len(header.findings) == (scale != 1)
    mask = save_nifti(np.ones(SHAPE, np.uint8), header.grid.affine, tmp_path / "m.nii", reference_header=header.nifti)
    np.testing.assert_array_equal(by_itk(mask), by_itk(path))
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(path).affine)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"units": 5}, "unit of length is unknown"),
        ({"pixdim": (0, 1.7, 3.1)}, "no distance between voxels .* found 0 x 1.7 x 3.1"),
        ({"pixdim": (1.5, float("nan"), 3.1)}, "no distance between voxels"),
        ({"pixdim": (1.5, 1.7, -3.1)}, "no distance between voxels"),
        ({"codes": (1, 6)}, "codes of sform and qform are unknown"),
        ({"codes": (1, 0), "quatern_b": 0.9, "quatern_c": 0.9}, "quaternion"),
        ({"sform": np.full((4, 4), np.nan)}, "not finite"),
        ({"datatype": 32}, "complex numbers .* found complex64"),
        ({"datatype": 128}, "colours, not one number each .* found RGB"),
        ({"datatype": 1}, "no known type of voxels"),
        ({"datatype": 999}, "no known type of voxels"),
        ({"dim": [3, 8, 0, 6, 1, 1, 1, 1]}, "an axis without voxels"),
        ({"dim": [3, 8, -7, 6, 1, 1, 1, 1]}, "an axis without voxels"),
        ({"dim": [4, 8, 7, 3, 2, 1, 1, 1]}, "not one 3-D volume .* found 8 x 7 x 3 x 2 voxels"),
        ({"dim": [3, 8, 7, 7, 1, 1, 1, 1]}, "smaller than its header says"),
        ({"dim": [0, 8, 7, 6, 1, 1, 1, 1]}, "not an image"),
        ({"vox_offset": 100}, "not an image"),
        ({"magic": b"no"}, "not an image"),
        ({"magic": b"n+1@"}, "not an image"),
    ],
)
def test_headers_that_other_readers_mend_in_silence(tmp_path, fields, words):
    with pytest.raises(CaseError, match=words):
        read_header(stated(tmp_path / "a.nii", **fields))


@pytest.mark.parametrize("offset", [2.0**24, 2.0**34])
def test_an_offset_behind_the_end_of_what_is_packed(tmp_path, offset):
    """Of a file of hundreds of bytes, which asked for as much memory as it said."""
    plain = stated(tmp_path / "a.nii", vox_offset=offset)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path, kind in ((plain, ""), (packed, " compressed")):
        with pytest.raises(CaseError, match=rf"smaller than its header says.*found \d+{kind} bytes"):
            read_header(path)


def test_pairs_and_analyze(tmp_path):
    image = nib.Nifti1Pair(np.arange(336, dtype=np.int16).reshape(SHAPE), QFORM)
    nib.save(image, tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        volume = load_volume(tmp_path / name)
        np.testing.assert_array_equal(volume[0], image.get_fdata())
        np.testing.assert_allclose(volume.affine, QFORM, atol=1e-5)
    nib.save(nib.AnalyzeImage(np.zeros(SHAPE, np.int16), QFORM), tmp_path / "old.img")
    with pytest.raises(CaseError, match=r"Analyze 7\.5"):
        load_volume(tmp_path / "old.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(CaseError, match=r"the other file of the pair \(a.img\) is missing"):
        load_volume(tmp_path / "a.hdr")


def test_nifti_2_and_the_other_byte_order(tmp_path):
    voxels = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(">i2")
    nib.save(nib.Nifti2Image(voxels, QFORM), tmp_path / "two.nii.gz")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(voxels, QFORM, header), tmp_path / "big.nii")
    for name in ("two.nii.gz", "big.nii"):
        volume = load_volume(tmp_path / name)
        np.testing.assert_array_equal(volume[0], voxels)
        np.testing.assert_allclose(volume.affine, nib.load(tmp_path / name).affine)
