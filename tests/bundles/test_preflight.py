"""What would stop a run is told before it begins, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.running import cohort
from support.synthetic import MODALITIES, read_rows, write_table

from differseg_med.bundles.preflight import RowPlan, preflight
from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError
from differseg_med.runs.lock import locked

BUNDLE = Path(__file__).parents[2] / "bundles" / "sts_petctmr_segmentation"

SPLITS = ("train", "trian", "", "Val", "test")


@pytest.fixture
def plan(tmp_path) -> RowPlan:
    """Five cases in as many splits, to be trained on."""
    table = cohort(tmp_path, *"abcde")
    rows = [{**row, "split": split} for row, split in zip(read_rows(table).values(), SPLITS)]
    return RowPlan(write_table(table, rows), tuple(MODALITIES), tmp_path / "out", ("train", "validation"), True, True)


def test_rows_that_are_used_and_those_that_are_not(plan, tmp_path):
    lines = preflight(plan)
    assert lines[0] == "split train and validation: 2 of 5 rows are used"
    for line in (
        "not used: 1 rows: their split is 'trian'; did you mean 'train'?",
        "not used: 1 rows: they have no split",
        "not used: 1 rows: their split is 'test'",
    ):
        assert line in lines
    assert any("out: can be written" in line for line in lines)
    assert any("all cases in memory need about" in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_rows_without_label_or_image(plan):
    rows = list(read_rows(plan.cohort).values())
    rows[0]["label"], rows[3] = "", {**rows[3], "t1": "", "ct": "", "pet": ""}
    write_table(plan.cohort, rows)
    lines = preflight(plan)
    assert "not used: 1 rows: no label: a" in lines
    assert "not used: 1 rows: no image: d" in lines
    assert "no row is for validation: best.pt will be the average of the last epoch" in lines
    assert (
        preflight(replace(plan, splits=None, training=False, needs_label=False))[0] == "all rows: 4 of 5 rows are used"
    )


def test_what_would_stop_it(plan, tmp_path):
    (tmp_path / "file").write_text("x")
    for out, words in ((tmp_path, "results and data"), (tmp_path / "file" / "out", "is a file")):
        with pytest.raises(CaseError, match=words):
            preflight(replace(plan, output_dir=out))
    with locked(tmp_path / "out"), pytest.raises(CaseError, match="another run"):
        preflight(plan)
    with pytest.raises(CaseError, match="no case to work on"):
        preflight(replace(plan, splits=("nowhere",)))
    rows = [{**row, "subject_id": "p"} for row in read_rows(plan.cohort).values()]
    write_table(plan.cohort, rows)
    with pytest.raises(CaseError, match="subject p is on both sides"):
        preflight(plan)


def test_unreadable_headers_and_thin_and_large_cases(plan, monkeypatch):
    (plan.cohort.parent / "a" / "ct.nii.gz").write_bytes(b"x")
    monkeypatch.setattr("differseg_med.bundles.preflight._free_memory", lambda: 1e-6)
    lines = preflight(replace(plan, pixdim=(2.0, 2.0, 16.0)))
    assert any(line.startswith("cannot be read: case a, file a/ct.nii.gz") for line in lines)
    assert "that is more than there is: close other programs, or choose a coarser pixdim" in lines
    assert "the thinnest case (d) has 1 slices along an axis" in lines  # 10 slices of 3.1 mm
    monkeypatch.setattr("differseg_med.bundles.preflight._free_memory", lambda: 0.0)
    assert not [line for line in preflight(plan) if "more than there is" in line]


def test_entries_of_a_configuration():
    entries = {"cohort": "c.csv", "modalities": {"t1": {}}, "output_dir": "out", "split": "test", "pixdim": [2, 2, 2]}
    found = RowPlan.of(entries, "inference")
    assert found == RowPlan(Path("c.csv"), ("t1",), Path("out"), ("test",), False, False, [2, 2, 2])
    assert RowPlan.of({**entries, "split": None}, "evaluate").needs_label
    assert RowPlan.of(entries, "train").splits == ("train", "validation")


def test_no_row_that_can_be_used(plan):
    rows = [{**row, "case_id": name} for row, name in zip(read_rows(plan.cohort).values(), ("7", "7.0") * 3)]
    write_table(plan.cohort, rows[:2])
    with pytest.raises(CaseError, match=r"no row of the table can be used \(found .*7, 7\.0"):
        preflight(replace(plan, splits=None, training=False))
    write_table(plan.cohort, [{**row, "split": ""} for row in rows[:1]])
    with pytest.raises(CaseError, match=r"split train or validation, found blank cells\)\. Write train into"):
        preflight(plan)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("threshold=35", r"entry threshold .*a probability between 0 and 1, found 35"),
        ("reference=flair", r"entry reference .*'t1', 'ct', 'pet'\], found 'flair'"),
        ("num_slices=2", r"entry num_slices .*odd"),
        ("in_channels=[3,3]", r"entry in_channels .*a number for each of t1, ct, pet"),
        ("pixdim=[2,2]", r"entry pixdim .*three positive numbers"),
        ("max_epochs=0", r"entry max_epochs .*1 or more"),
        ("batch_size=0", r"entry batch_size .*1 or more"),
        ("train::trainer::val_interval=0", r"entry train::trainer::val_interval .*1 or more"),
        ("learning_rate=-1", r"entry learning_rate .*more than 0"),
        ("train::samples::modality_dropout=3", r"modality_dropout .*between 0 and 1, found 3"),
        ("train::lr_scheduler::total_steps=0", r"entry train::lr_scheduler::total_steps"),
        ("inferer::overlap=1", r"entry inferer::overlap .*overlap < 1"),
        ("inferer::sw_batch_size=0", r"entry inferer::sw_batch_size .*sw_batch_size >= 1"),
        ("amp=fp8", r"entry amp .*bf16, fp16, found fp8"),
        ("dataset::withhold=[xyz]", r"cannot withhold \['xyz'\]"),
    ],
)
def test_a_value_that_would_stop_the_run_stops_the_dry_run(setting, words, plan):
    """Before: "dry run: nothing was written", and the refusal came after all cases had been read, or never."""
    run = BundleRun(BUNDLE, ["inference", "train"], plan.cohort, plan.output_dir, {}, [setting])
    with pytest.raises(CaseError, match=words):
        run.preflight()
    assert not plan.output_dir.exists()
