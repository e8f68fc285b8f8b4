"""Flags and the report of real runs: what is unlike training is said, and an interruption loses neither."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from support.running import StopsAt, cohort, evaluator_of, summary
from support.synthetic import MODALITIES, ThresholdCenter, tumour_images

from differseg_med.bundles.factories import preprocessing
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.prediction.quality import fingerprint_of
from differseg_med.training.data import cached_items

PREPROCESSING = preprocessing(MODALITIES, "t1", pixdim=None)


def run(table: Path, network: torch.nn.Module | None = None, **settings: object) -> dict[str, dict[str, str]]:
    """Segment the cohort; returns the summary."""
    evaluator_of(table, network, evaluate=False, **settings).run()
    return summary(table)


def shown(table: Path) -> list[str]:
    """Cases that the report has a picture of."""
    text = (table.parent / "out" / "report.html").read_text(encoding="utf-8")
    return re.findall(r'<img [^>]*alt="([^":]*):', text)


@pytest.fixture
def fingerprint(tmp_path: Path) -> Path:
    table = cohort(tmp_path / "training", "x", "y", "z")
    cases = read_cohort(table, MODALITIES).cases
    found = fingerprint_of(cases, cached_items(cases, PREPROCESSING, tmp_path / "cache"))
    assert found.cases == 3
    ml = tumour_images()["label"].data.sum() * 1.5 * 1.7 * 3.1 / 1000
    assert found.ranges["volume_ml"] == pytest.approx((ml, ml))
    assert found.ranges["spacing_coarsest_mm"] == pytest.approx((3.1, 3.1), abs=1e-5)
    found.write(tmp_path / "fingerprint.json")
    return tmp_path / "fingerprint.json"


def test_a_case_like_training_has_no_flag_and_one_in_other_units_has(tmp_path: Path, fingerprint: Path):
    table = cohort(tmp_path, "a", "b")
    pet = nib.load(tmp_path / "b" / "pet.nii.gz")
    nib.save(nib.Nifti1Image(pet.get_fdata() * 5000, pet.affine), tmp_path / "b" / "pet.nii.gz")  # Bq/ml, not SUV
    rows = run(table, fingerprint=fingerprint)
    assert rows["a"]["flags"] == ""
    assert rows["b"]["flags"].startswith("intensities of pet unlike training: ")
    assert float(rows["a"]["boundary_entropy"]) == pytest.approx(0, abs=0.2)  # the test's network is always sure
    assert shown(table) == ["b", "a"]  # flagged first
    assert "intensities of pet unlike training" in (tmp_path / "out" / "report.html").read_text()


def test_without_a_fingerprint_the_mask_alone_is_judged(tmp_path: Path):
    table = cohort(tmp_path, "a")
    assert run(table)["a"]["flags"] == ""
    row = run(table, ThresholdCenter(threshold=99))["a"]
    assert (row["flags"], row["boundary_entropy"], row["status"]) == ("the mask is empty", "", "done")
    assert run(table, ThresholdCenter(threshold=-9))["a"]["flags"].count("cm2") == 6  # everything: all six sides


def test_an_interrupted_run_has_a_report_and_resuming_completes_it(tmp_path: Path):
    table = cohort(tmp_path, "a", "b")
    with pytest.raises(KeyboardInterrupt):
        run(table, StopsAt(2, KeyboardInterrupt()))
    assert shown(table) == ["a"]
    rows = run(table, resume=True)
    assert shown(table) == ["a", "b"]
    assert [rows[c]["boundary_entropy"] != "" for c in "ab"] == [True, True]


def test_a_fingerprint_that_is_none_stops_the_run_in_one_line(tmp_path: Path):
    table = cohort(tmp_path, "a")
    with pytest.raises(CaseError, match=r"cohort.csv: this is not a fingerprint .*make_fingerprint.py"):
        run(table, fingerprint=table)


def test_report_says_why_a_case_failed(tmp_path: Path):
    table = cohort(tmp_path, "a", "b")
    (tmp_path / "b" / "t1.nii.gz").write_bytes(b"no image")
    run(table)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "2 cases: 1 done, 1 failed" in text
    assert "the file cannot be read" in text
    assert shown(table) == ["a"]
    assert np.all([str(tmp_path) not in text, "base64" in text])
