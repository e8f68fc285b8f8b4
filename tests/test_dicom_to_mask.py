"""From the folder that the PACS exported to a mask, against the same patient in NIfTI."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.synthetic import read_rows, write_table
from typer.testing import CliRunner

from differseg_med.cli import app

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
    """The bundle's mask of the only case."""
    run("predict", "--bundle", BUNDLE, "--cohort", table, "--out", out)
    (mask,) = out.glob("*/mask.nii.gz")
    return nib.load(mask)


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
