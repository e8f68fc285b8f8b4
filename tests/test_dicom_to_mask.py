"""From the folder that the PACS exported to a mask, against the same patient in NIfTI."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from support.synthetic import read_rows, write_table
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.io.labels import load_label

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
PATIENT = "STS_042"
MODALITIES = ("t1", "ct", "pet")


def run(*arguments: object) -> str:
    """Run the command; what it printed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def segmented(table: Path, out: Path) -> nib.Nifti1Image:
    """The bundle's mask of the only case, on a coarse grid in one plane: it is compared with another one like it."""
    quick = ("--set", "pixdim=[3, 3, 3]", "--set", "planes=[axial]")
    run("predict", "--bundle", BUNDLE, "--cohort", table, "--out", out, *quick)
    (mask,) = out.glob("*/mask.nii.gz")
    return nib.load(mask)


@pytest.fixture(scope="module")
def slab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped slices of STS_041, as the PACS exported them: an archive in a folder."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copy(ROOT / "tests" / "data" / "sts_041_slab.zip", folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(slab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(slab / "sts_041_slab.zip") as archive:
        archive.extractall(folder)
    return folder


def by_simpleitk(folder: Path) -> sitk.Image:
    """A series as GDCM reads it."""
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)), sitk.sitkFloat32)


def test_shipped_slices_give_the_mask_of_what_simpleitk_reads(slab: Path, unpacked: Path, tmp_path: Path) -> None:
    """Three real series and their contours in 360 kB, so that the comparison runs wherever the tests do."""
    scanned = tmp_path / "dicom" / "cohort.csv"
    run("cohort", "scan", slab, "--out", scanned, "--modalities", ",".join(MODALITIES))
    (row,) = read_rows(scanned).values()
    assert row["label"].endswith("::GTV_Mass_MR_T1")
    cells = {"case_id": "a"}
    for name, folder in {"t1": "MR_T1", "ct": "CT", "pet": "PET"}.items():
        cells[name] = str(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(by_simpleitk(unpacked / folder), cells[name])
    plain = write_table(tmp_path / "nifti" / "cohort.csv", [cells], ("case_id", *MODALITIES))
    found, expected = segmented(scanned, tmp_path / "a"), segmented(plain, tmp_path / "b")
    assert np.asanyarray(expected.dataobj).sum() > 1000
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_shipped_contours_are_filled_as_matplotlib_fills_them(unpacked: Path) -> None:
    label = load_label(unpacked / "RS" / "rs.dcm", [unpacked / "MR_T1"])
    image = by_simpleitk(unpacked / "MR_T1")
    expected = np.zeros(image.GetSize(), bool)
    centers = np.stack(np.meshgrid(*map(np.arange, image.GetSize()[:2]), indexing="ij"), -1).reshape(-1, 2)
    (roi,) = pydicom.dcmread(unpacked / "RS" / "rs.dcm").ROIContourSequence
    for contour in roi.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3).tolist()
        indices = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
        inside = Polygon(indices[:, :2]).contains_points(centers).reshape(image.GetSize()[:2])
        expected[:, :, round(indices[0, 2])] ^= inside
    assert expected.sum() > 1000
    np.testing.assert_array_equal(label[0] > 0, expected)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, beside the project")
def test_scan_and_predict_give_the_mask_of_the_nifti_files(tmp_path: Path) -> None:
    scanned = tmp_path / "dicom" / "cohort.csv"
    run("cohort", "scan", DATA / "sts_dicom" / PATIENT, "--out", scanned, "--modalities", ",".join(MODALITIES))
    (row,) = read_rows(scanned).values()
    assert all(row[column] for column in (*MODALITIES, "label"))
    cells = {"case_id": "a", **{m: str(DATA / "sts" / PATIENT / f"{m}.nii.gz") for m in MODALITIES}}
    plain = write_table(tmp_path / "nifti" / "cohort.csv", [cells], ("case_id", *MODALITIES))
    found, expected = segmented(scanned, tmp_path / "a"), segmented(plain, tmp_path / "b")
    assert np.asanyarray(expected.dataobj).sum() > 1000
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
