"""What headers say: grids as loading has them, and sform against qform."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.eulerangles import euler2mat
from support.synthetic import affine_of

from differseg_med.errors import CaseError
from differseg_med.geometry import same_grid
from differseg_med.io.headers import header_grid, read_header, stem, verdict
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import grid_of

AFFINE = affine_of(angles=(20, -10, 5))


def saved(path, sform=AFFINE, qform=AFFINE, codes=(1, 1)):
    image = nib.Nifti1Image(np.zeros((8, 7, 6), np.int16), None)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return path


def moved(mm, degrees=0.0):
    turn = np.eye(4)
    turn[:3, :3] = euler2mat(np.radians(degrees))
    affine = turn @ AFFINE
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_the_grid_is_that_of_the_loaded_volume(tmp_path, name):
    path = saved(tmp_path / "source.nii.gz")
    if name.startswith("a.n") and not name.endswith("nrrd"):
        nib.save(nib.load(path), tmp_path / name)
    else:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / name))
    assert same_grid(header_grid(tmp_path / name), grid_of(load_volume(tmp_path / name)))


@pytest.mark.parametrize(
    ("qform", "codes", "level"),
    [
        (moved(0), (1, 1), "ok"),
        (moved(0.05), (1, 1), "ok"),  # 0.05 voxels of 1.5 mm are 0.075 mm
        (moved(0.3), (1, 1), "warning"),
        (moved(1.4), (1, 1), "warning"),
        (moved(1.7), (1, 1), "error"),
        (moved(0, degrees=15), (1, 1), "error"),
        (moved(200), (4, 1), "warning"),
        (moved(200), (1, 0), "ok"),
        (moved(200), (0, 1), "ok"),
        (moved(0), (0, 0), "warning"),
    ],
)
def test_transforms_that_disagree(tmp_path, qform, codes, level):
    found = verdict(saved(tmp_path / "a.nii.gz", qform=qform, codes=codes))
    assert [finding.level for finding in found] == ([] if level == "ok" else [level])


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ("space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n", "ok"),
        ("spacings: 1 1 2\n", "warning"),
    ],
)
def test_an_nrrd_without_a_space(tmp_path, fields, level):
    """3D Slicer before version 3, and programs that know only spacings."""
    header = f"NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 2 2 2\n{fields}encoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(8))
    found = [(finding.level, finding.text) for finding in verdict(tmp_path / "a.nrrd")]
    assert [level for level, _ in found] == ([] if level == "ok" else [level])
    assert all("states no space" in message for _, message in found)


def test_the_distance_is_told_in_mm(tmp_path):
    (finding,) = verdict(saved(tmp_path / "a.nii.gz", qform=moved(12.34)))
    assert "up to 12.3 mm apart" in finding.text


@pytest.mark.parametrize(
    ("name", "expected"), [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("S.seg.nrrd", "S"), ("x.MHA", "x"), ("n", "n")]
)
def test_stems(name, expected):
    assert stem(name) == expected


def test_axes_of_one_voxel_at_the_end_are_left_out(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 1, 1), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz").grid.shape == (4, 3, 2)


def test_what_is_no_volume_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 5), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(CaseError, match="4 x 3 x 2 x 5"):
        header_grid(tmp_path / "a.nii.gz")
    for name in ("b.nii.gz", "b.nrrd"):
        (tmp_path / name).write_bytes(b"\x1f\x8bno")
        with pytest.raises(CaseError, match="cannot be read; it is damaged"):
            header_grid(tmp_path / name)
