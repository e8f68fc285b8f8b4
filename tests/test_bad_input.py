"""Every bad input of the contract at once, through the bundle's own configuration: one message each, the rest done."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.forking import run_program
from support.synthetic import (
    BUNDLE,
    SMALL,
    Volume,
    bundle_workflow,
    read_nifti,
    read_rows,
    row_of,
    stored_as,
    tiny_network,
    tumour_images,
    write_case,
    write_nifti,
    write_table,
)

from differseg_med.errors import CaseError

Row = dict[str, str]


def rewritten(path: Path, change: Callable[[Volume], Volume]) -> None:
    write_nifti(path, change(read_nifti(path)))


def with_infinity(volume: Volume) -> Volume:
    data = volume.data.astype(np.float32)
    data[3, 3, 3] = np.inf
    return Volume(data, volume.affine)


def far_away(volume: Volume) -> Volume:
    return Volume(volume.data, np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ volume.affine)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


#: What is done to the folder of a case, or to its row.
SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: (folder / "ct.nii.gz").unlink(),
    "truncated": lambda folder: cut_short(folder / "pet.nii.gz"),
    "fourd": lambda folder: rewritten(
        folder / "t1.nii.gz", lambda v: Volume(np.stack([v.data, v.data], axis=-1), v.affine)
    ),
    "infinite": lambda folder: rewritten(folder / "ct.nii.gz", with_infinity),
    "elsewhere": lambda folder: rewritten(folder / "pet.nii.gz", far_away),
    "label": lambda folder: write_nifti(folder / "label.nii.gz", stored_as(tumour_images()["label"], "PIR"), np.uint8),
}
ROWS: dict[str, Row] = {"nothing": {"t1": "", "ct": "", "pet": ""}, "not1": {"t1": ""}, "folder": {"ct": "good1"}}
#: How the message of each case that must fail begins, and what it says on.
MESSAGES = {
    "missing": ("case missing, file missing/ct.nii.gz: there is no such file", "Check the path"),
    "truncated": ("case truncated, file truncated/pet.nii.gz: the file cannot be read", "cut short"),
    "fourd": ("case fourd, file fourd/t1.nii.gz: not one 3-D volume", "found 24 x 20 x 10 x 2 voxels"),
    "infinite": ("case infinite, file infinite/ct.nii.gz: voxels without a number", "1 of 4800 voxels"),
    "elsewhere": ("case elsewhere, file elsewhere/pet.nii.gz: pet: does not overlap t1", "mm apart"),
    "label": ("case label, file label/label.nii.gz: the label is on another grid than t1", "Resample the label"),
    "nothing": ("case nothing: the case has no image", "at least one of t1, ct, pet"),
    "folder": ("case folder, file ", "there is no DICOM image here"),
    "twice": ("case twice, file ", "the case id stands in 2 rows"),
    "row12": ("case row12, file ", "row 12 has no case_id"),
}
GOOD = ("good1", "not1", "good2")


def write_bad_cohort(folder: Path) -> Path:
    table, rows = folder / "cohort.csv", []
    for case in ("good1", *SPOIL, *ROWS, "row12"):
        files = write_case(folder / case)
        rows.append(row_of(case, files, table) | ROWS.get(case, {}))
        if case in SPOIL:
            SPOIL[case](folder / case)
    rows[-1]["case_id"] = ""  # the eleventh row of cases stands in the twelfth line
    for case in ("twice", "twice", "good2"):
        rows.append(row_of(case, write_case(folder / case), table))
    return write_table(table, rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_network().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory, checkpoint) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output folder of ``monai.bundle run`` over the bad cohort, and how the process ended."""
    folder = tmp_path_factory.mktemp("bad")
    table = write_bad_cohort(folder)
    configs = [str(BUNDLE / "configs" / name) for name in ("inference.yaml", "evaluate.yaml")]
    options = {"bundle_root": BUNDLE, "cohort": table, "output_dir": folder / "out", "checkpoint": checkpoint}
    options |= {name: str(value) for name, value in SMALL.items()}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # From another folder, as the contract allows.
    process = run_program("monai.bundle", "run", "--config_file", str(configs), *arguments, cwd=folder)
    return folder / "out", process


def test_the_exit_code_says_that_something_failed(done):
    _, process = done
    assert process.returncode == 1, process.stderr[-2000:]
    assert "11 of 14 cases failed or are incomplete, the others are done" in process.stderr
    assert "Traceback" not in process.stderr


def test_every_bad_case_has_one_message_with_case_and_file(done):
    out, process = done
    rows = read_rows(out / "summary.csv")
    assert {case for case, row in rows.items() if row["status"] == "failed"} == set(MESSAGES)
    for case, (start, more) in MESSAGES.items():
        reason = rows[case]["reason"]
        assert reason.startswith(start)
        assert more in reason
        assert "\n" not in reason
        assert process.stdout.count(reason) == (2 if case == "twice" else 1)  # two rows, two failures; see logging.conf


def test_every_good_case_is_done(done):
    out, _ = done
    rows = read_rows(out / "summary.csv")
    assert {case: rows[case]["status"] for case in GOOD} == dict.fromkeys(GOOD, "done")
    for case in GOOD:
        assert set(np.unique(read_nifti(out / case / "mask.nii.gz").data)) <= {0, 1}


def test_bad_input_never_makes_a_mask(done):
    out, _ = done
    assert {path.parent.name for path in out.glob("**/mask.nii.gz")} == set(GOOD)
    assert not list(out.glob("**/.*"))  # no temporary files are left


def test_rows_stand_in_the_order_of_the_table(done):
    out, _ = done
    with (out / "summary.csv").open(newline="") as file:
        cases = [row["case_id"] for row in csv.DictReader(file)]
    assert cases == ["good1", *SPOIL, *ROWS, "row12", "twice", "twice", "good2"]


def test_an_absent_reference_is_replaced_and_it_is_said(done):
    out, _ = done
    row = read_rows(out / "summary.csv")["not1"]
    assert (row["reference"], row["modalities"]) == ("ct", "ct+pet")
    assert row["notes"].startswith("t1 is absent: the mask is on the grid of ct")
    mask, ct = read_nifti(out / "not1" / "mask.nii.gz"), read_nifti(out.parent / "not1" / "ct.nii.gz")
    assert mask.data.shape == ct.data.shape
    np.testing.assert_array_equal(mask.affine, ct.affine)


def test_the_metrics_list_who_failed(done):
    out, _ = done
    rows = read_rows(out / "metrics.csv")
    assert {case for case, row in rows.items() if row["status"] == "failed"} == set(MESSAGES)
    assert {case for case, row in rows.items() if row["dice"]} == set(GOOD)
    reasons = read_rows(out / "summary.csv")
    assert {case: rows[case]["reason"] for case in MESSAGES} == {case: reasons[case]["reason"] for case in MESSAGES}


@pytest.mark.parametrize(
    ("column", "written", "message"),
    [("ct", "CT scan", "column 'ct' is missing"), ("label", "lable", "column 'lable' looks like a misspelt 'label'")],
)
def test_a_misspelt_column_fails_every_case_and_none_is_guessed(tmp_path, checkpoint, column, written, message):
    table = tmp_path / "cohort.csv"
    rows = [row_of(case, write_case(tmp_path / case), table) for case in ("a", "b")]
    write_table(table, rows)
    table.write_text(table.read_text().replace(f",{column},", f",{written},", 1))
    out = tmp_path / "out"
    workflow = bundle_workflow("inference.yaml", cohort=str(table), output_dir=str(out), checkpoint=str(checkpoint))
    workflow.run()
    with pytest.raises(SystemExit, match="2 of 2 cases failed"):
        workflow.finalize()
    for case, row in read_rows(out / "summary.csv").items():
        assert row["status"] == "failed"
        assert row["reason"].startswith(f"case {case}, file ")
        assert message in row["reason"]
    assert not list(out.glob("**/mask.nii.gz"))


def test_a_table_that_is_not_there_ends_the_run_in_one_line(tmp_path, checkpoint):
    workflow = bundle_workflow("inference.yaml", cohort=str(tmp_path / "no.csv"), checkpoint=str(checkpoint))
    with pytest.raises(CaseError, match=r"no.csv: there is no cohort table here\. Check the path given as cohort\."):
        workflow.run()


@pytest.mark.parametrize("content", [None, b"no checkpoint", {"weight": torch.zeros(1)}])
def test_a_checkpoint_that_does_not_fit_ends_the_run_in_one_line(tmp_path, content):
    table = tmp_path / "cohort.csv"
    write_table(table, [row_of("a", write_case(tmp_path / "a"), table)])
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    workflow = bundle_workflow(
        "inference.yaml", cohort=str(table), output_dir=str(tmp_path / "out"), checkpoint=str(path)
    )
    with pytest.raises(CaseError, match=r"other\.pt") as stop:
        workflow.run()
    assert "\n" not in str(stop.value)
