"""Registration and bias correction against motions and shadings that are known because they were put in."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.eulerangles import euler2mat
from support.bodies import AFFINE, SHAPE, STS, body, needs_sts
from support.synthetic import Volume, read_nifti, read_rows, row_of, write_nifti, write_table
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.cohort.registration.rigid import Method, correct_bias, moved_affine, register
from differseg_med.cohort.table import read_cohort
from differseg_med.geometry import Grid, ras_to_lps
from differseg_med.io.itk import as_image, as_voxels

CENTER = Grid(SHAPE, AFFINE).world((np.array(SHAPE) - 1) / 2)


def motion(degrees, millimetres):
    """A RAS matrix that turns about the center of the body about z, then shifts."""
    matrix = np.eye(4)
    matrix[:3, :3] = euler2mat(np.radians(degrees))
    matrix[:3, 3] = CENTER - matrix[:3, :3] @ CENTER + millimetres
    return matrix


def error_mm(affine):
    """How far the voxels are from where they belong (`AFFINE`), in mm, at worst."""
    return np.linalg.norm(Grid(SHAPE, affine).corners() - Grid(SHAPE, AFFINE).corners(), axis=1).max()


@pytest.mark.parametrize(
    ("degrees", "millimetres", "method"), [(5, (8, -4, 5), Method.RIGID), (0, (8, -4, 5), Method.TRANSLATION)]
)
def test_a_known_motion_is_undone(degrees, millimetres, method):
    wrong = motion(degrees, millimetres) @ AFFINE
    voxels = as_voxels(body(other=True))[0]
    moving = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = ras_to_lps(wrong)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    moving.SetSpacing(spacing.tolist())
    moving.SetOrigin(lps[:3, 3].tolist())
    moving.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    found = register(body(), moving, wrong, method)
    assert error_mm(wrong) > 9
    assert error_mm(found.affine) < 1
    assert found.metric_after > found.metric_before
    assert found.moved_mm == pytest.approx(np.linalg.norm(millimetres), abs=0.5)
    assert found.turned_degrees == pytest.approx(degrees, abs=0.5)
    assert found.refined or not degrees  # a shift alone may be found as well without
    assert found.before.off
    assert not found.after.off


def test_the_new_affine_is_where_itk_would_resample():
    transform = sitk.Euler3DTransform((3.0, -2.0, 10.0), 0.1, -0.2, 0.3, (5.0, -6.0, 7.0))
    affine = moved_affine(transform, AFFINE)
    # Resampling looks the value of a fixed point up at transform(point): a voxel there must now lie at the point.
    index = np.array([4.0, 7.0, 11.0])
    point_lps = Grid(SHAPE, affine).world(index) * [-1, -1, 1]
    old_lps = Grid(SHAPE, AFFINE).world(index) * [-1, -1, 1]
    np.testing.assert_allclose(transform.TransformPoint(point_lps.tolist()), old_lps, atol=1e-9)


def test_a_bias_field_is_taken_out_and_background_stays():
    rng = np.random.default_rng(0)
    voxels = np.zeros(SHAPE, np.float32)
    voxels[5:-5, 5:-5, 5:-5] = rng.normal(400, 15, tuple(n - 10 for n in SHAPE))
    ramp = np.linspace(0.7, 1.4, SHAPE[0])[:, None, None]
    shaded = sitk.GetImageFromArray(np.ascontiguousarray((voxels * ramp).T.astype(np.float32)))
    corrected = as_voxels(correct_bias(shaded))[0]
    inside = corrected[8:-8, 8:-8, 8:-8]
    before = (voxels * ramp)[8:-8, 8:-8, 8:-8]
    assert before.std() / before.mean() > 0.14
    assert inside.std() / inside.mean() < 0.06
    assert not corrected[voxels == 0].any()


@pytest.fixture
def table(tmp_path):
    """Two cases: one whose PET lies 9 mm off, one without the reference."""
    fixed, moving = (as_voxels(image)[0] for image in (body(), body(other=True)))
    shifted = AFFINE.copy()
    shifted[0, 3] += 9
    files = {
        "ct": write_nifti(tmp_path / "a" / "ct.nii.gz", Volume(fixed, AFFINE)),
        "pet": write_nifti(tmp_path / "a" / "pet.nii.gz", Volume(moving, shifted)),
        "label": write_nifti(tmp_path / "a" / "label.nii.gz", Volume(fixed > 700, AFFINE), np.uint8),
    }
    other = {"pet": write_nifti(tmp_path / "b" / "pet.nii.gz", Volume(moving, AFFINE))}
    rows = [row_of("a", files, tmp_path / "cohort.csv"), row_of("b", other, tmp_path / "cohort.csv")]
    columns = ("case_id", "subject_id", "ct", "pet", "label", "split", "fold")
    return write_table(tmp_path / "cohort.csv", rows, columns)


def test_the_command_writes_volumes_transforms_pictures_and_notes(table, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["cohort", "register", str(table), "--out", str(out), "--register", "translation"])
    assert done.exit_code == 0, done.output
    assert "a: pet moved by 9" in done.output
    assert "b: not registered" in done.output
    rows = read_rows(out / "cohort.csv")
    assert rows["a"]["registration"].startswith("pet moved by 9")
    cases = read_cohort(out / "cohort.csv", ("ct", "pet")).cases
    assert cases[0].images["ct"].samefile(tmp_path / "a" / "ct.nii.gz")
    assert cases[0].label.samefile(tmp_path / "a" / "label.nii.gz")
    assert cases[1].images["pet"].samefile(tmp_path / "b" / "pet.nii.gz")
    moved = read_nifti(cases[0].images["pet"])
    np.testing.assert_array_equal(moved.data, read_nifti(tmp_path / "a" / "pet.nii.gz").data)  # no interpolation
    assert error_mm(moved.affine) < 1
    transform = sitk.ReadTransform(str(out / "a" / "pet.tfm"))
    np.testing.assert_allclose(transform.TransformPoint((0.0, 0.0, 0.0)), (-9, 0, 0), atol=0.7)
    assert nib.load(cases[0].images["pet"]).header["qform_code"] == 1
    assert (out / "a" / "pet_registration.png").stat().st_size > 10_000


def test_a_case_that_fails_keeps_its_row_and_is_told(table, tmp_path):
    (tmp_path / "a" / "pet.nii.gz").write_bytes(b"damaged")
    done = CliRunner().invoke(app, ["cohort", "register", str(table), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "1 of 2 cases done" in done.output
    rows = read_rows(tmp_path / "out" / "cohort.csv")
    assert rows["a"]["pet"] == "../a/pet.nii.gz"


def test_n4_writes_new_volumes_on_the_same_grid(table, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["cohort", "n4", str(table), "--out", str(out), "--modalities", "ct"])
    assert done.exit_code == 0, done.output
    case = read_cohort(out / "cohort.csv", ("ct", "pet")).cases[0]
    np.testing.assert_allclose(read_nifti(case.images["ct"]).affine, AFFINE, atol=1e-5)
    assert read_rows(out / "cohort.csv")["a"]["bias_field"].startswith("ct: bias field")
    unknown = CliRunner().invoke(app, ["cohort", "n4", str(table), "--out", str(out), "--modalities", "t3"])
    assert unknown.exit_code == 1


@needs_sts
@pytest.mark.parametrize("patient", ["STS_029", "STS_041"])
def test_a_lost_descent_is_not_taken(patient):
    """Mattes mutual information alone moves these two CTs, cut to a few centimetres, by 1 to 8 cm too far."""
    pet, ct = (sitk.ReadImage(str(STS / patient / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("pet", "ct"))
    voxels, grid = as_voxels(ct)
    wrong = grid.affine.copy()
    wrong[:3, 3] += (10, -6, 8)
    found = register(pet, as_image(voxels, wrong), wrong, Method.RIGID)
    assert not found.refined
    assert "found nothing better" in found.describe()
    assert found.turned_degrees == 0
    np.testing.assert_allclose(found.affine[:3, 3], grid.affine[:3, 3], atol=5)
    assert found.before.off
    assert not found.after.off
