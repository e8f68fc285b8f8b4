"""Tables without optional columns, through a prediction, an evaluation of its masks, and what a training reads."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from support.running import evaluator_of
from support.synthetic import MODALITIES, read_rows, row_of, write_case

from differseg_med.bundles.factories import cohort_dataset, labelled_cases, preprocessing
from differseg_med.case import Cohort
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.transforms.pipelines import training_samples

OPTIONAL = ("subject_id", "label", "split", "fold")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number, case in enumerate("ab"):
        write_case(folder / case, seed=number)
    return folder


def table_without(data: Path, columns: tuple[str, ...]) -> Path:
    table = data / "cohort.csv"
    rows = []
    for case, split in (("a", "train"), ("b", "validation")):
        files = {name: data / case / f"{name}.nii.gz" for name in (*MODALITIES, "label")}
        rows.append(row_of(case, files, table, subject_id=case, split=split, fold="0"))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.mark.parametrize("columns", [(), *((name,) for name in OPTIONAL), OPTIONAL], ids=str)
def test_predict_evaluate_and_train(data, columns, tmp_path):
    table = table_without(data, columns)
    shutil.rmtree(data / "out", ignore_errors=True)
    evaluator_of(table, evaluate=False).run()
    assert [row["status"] for row in read_rows(data / "out" / "summary.csv").values()] == ["done", "done"]

    cohort: Cohort = read_cohort(table, tuple(MODALITIES))
    done = evaluate_cohort(cohort.cases, data / "out", tmp_path / "evaluated")
    assert [row["status"] for row in done.rows] == ["failed" if "label" in columns else "done"] * 2
    if "label" in columns:
        assert "no label to compare with" in (tmp_path / "evaluated" / "evaluation.html").read_text(encoding="utf-8")

    dataset = cohort_dataset(table, MODALITIES, preprocessing(MODALITIES, "t1", None), output_dir=tmp_path)
    samples = training_samples([3, 3, 3], (16, 16))
    if {"label", "split"} & {*columns}:  # a training needs both, and says which rows it looked for
        with pytest.raises(CaseError, match=r"no case (can be used|to work on)"):
            labelled_cases(dataset, samples=samples)
    else:
        assert [item["case_id"] for item in labelled_cases(dataset, samples=samples)] == ["a"]
