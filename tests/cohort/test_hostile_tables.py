"""Tables whose ids, columns and cells are hostile: each bad row fails alone, and nothing is written outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hostile import CELLS, HOSTILE
from support.running import evaluator_of
from support.synthetic import COLUMNS, MODALITIES, read_rows, row_of, write_case, write_table
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.cohort.exporters import export_nnunet
from differseg_med.cohort.registration.register import correct_cohort, register_cohort
from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.paths import unsafe
from differseg_med.prediction.summary import read_finished

# A table's cells are UTF-8 without spaces at their ends, and a row may have no id.
IDS = tuple(
    text
    for text in HOSTILE
    if text and text == text.strip() and text.encode(errors="ignore") == text.encode(errors="replace")
)
ENDINGS = ("x.csv", "REPORT.HTML", "a.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return write_case(tmp_path_factory.mktemp("place") / "study" / "case")


def table_of(files, ids, **others) -> Path:
    table = files["t1"].parents[1] / "cohort.csv"
    return write_table(table, [row_of(case_id, files, table, **others) for case_id in ids])


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_each_hostile_id_fails_its_row_and_no_other(files, tmp_path):
    place = files["t1"].parents[2]
    table = table_of(files, ["good", *IDS, *ENDINGS, "row3"])
    before = tree(place)
    cohort = read_cohort(table, MODALITIES)
    bad = [case for case in cohort.cases if case.problem is not None]
    assert len(bad) == len(cohort.cases) - 2
    assert not [case for case in cohort.cases if unsafe(case.case_id)]
    assert len({case.case_id for case in cohort.cases}) == len(cohort.cases)
    evaluator_of(table).run()
    rows = read_rows(table.parent / "out" / "summary.csv")
    assert [case for case, row in rows.items() if row["status"] == "done"] == ["good", "row3"]
    assert all(
        "folder name" in row["reason"] or "stands in 2 rows" in row["reason"]
        for row in rows.values()
        if row["status"] == "failed"
    )
    made = tree(place) - before
    assert {name.split("/")[1] for name in made} == {"out"}
    out = table.parent / "out"
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"good", "row3", "overlays"}
    failed = export_nnunet(cohort, tmp_path / "Dataset001_X", missing="zeros")
    assert len(failed) == len(bad)
    evaluate_cohort(cohort.cases, table.parent / "out", tmp_path / "measured")
    assert all(case.error is not None for case in correct_cohort(cohort, tmp_path / "n4", ["t1"]) if case.case.problem)
    write_cohort(tmp_path / "again.csv", MODALITIES, cohort.cases)
    assert {case.case_id for case in read_cohort(tmp_path / "again.csv", MODALITIES).cases if case.problem is None} == {
        "good",
        "row3",
    }


def test_a_hostile_column_stops_the_table_in_words(files, tmp_path):
    table = files["t1"].parents[1] / "columns.csv"
    for name in (n for n in IDS if "\r" not in n):  # which ends a line
        row = row_of("a", files, table) | {name: files["ct"].name}
        write_table(table, [row], [*COLUMNS[:2], name, *COLUMNS[2:]])
        before = tree(table.parents[1])
        done = register_cohort(read_cohort(table, ("t1", name)), tmp_path / "out" / "deep")
        assert "cannot be part of a file name" in str(done[0].error)
        assert tree(table.parents[1]) == before
        assert tree(tmp_path) == {"out", "out/deep", "out/deep/cohort.csv", "out/deep/run.json"}


def test_columns_that_are_one_file_on_some_disks(files):
    table = files["t1"].parents[1] / "twice.csv"
    write_table(table, [row_of("a", files, table) | {"T1": "x"}], [*COLUMNS[:2], "T1", *COLUMNS[2:]])
    assert "is there twice" in str(read_cohort(table, ("t1", "T1")).problem)


def test_ids_that_are_one_folder_on_some_disks(files):
    table = table_of(files, ["Éa", "e\u0301a", "ok", "STRASSE", "straße"])
    problems = {case.case_id: case.problem for case in read_cohort(table, MODALITIES).cases}
    assert problems.pop("ok") is None
    assert len(problems) == 4
    assert all("stands in 2 rows" in str(problem) for problem in problems.values())


def test_a_hostile_cell_fails_its_case_in_words(files):
    table = files["t1"].parents[1] / "cells.csv"
    bad = [row_of(f"bad{n}", files, table) | dict.fromkeys(MODALITIES, cell) for n, cell in enumerate(CELLS)]
    write_table(table, [*bad, row_of("good", files, table)])
    evaluator_of(table).run()
    rows = read_rows(table.parent / "out" / "summary.csv")
    assert [case for case, row in rows.items() if row["status"] == "done"] == ["good"]
    reasons = [row["reason"] for row in rows.values() if row["status"] == "failed"]
    assert [text for text in reasons if "unforeseen" in text or "\x1b" in text] == []
    assert len(reasons) == len(CELLS)


def test_a_table_that_is_no_csv(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text('case_id,t1,label\n"' + "a" * 200_000)
    with pytest.raises(CaseError, match="not a CSV file"):
        read_cohort(path, ("t1",))


def test_a_hostile_summary_is_read_without_harm(tmp_path):
    rows = [{"case_id": text, "status": "done"} for text in IDS]
    write_table(tmp_path / "summary.csv", rows, ("case_id", "status"))
    assert read_finished(tmp_path) == {}


def test_folds_leave_out_the_bad_rows(files, tmp_path):
    table = table_of(files, ["a", "b", "../c"])
    result = CliRunner().invoke(app, ["cohort", "folds", str(table), "--k", "2", "--out", str(tmp_path / "out.csv")])
    assert result.exit_code == 1
    folds = {row["case_id"]: row["fold"] for row in read_rows(tmp_path / "out.csv").values()}
    assert {folds["a"], folds["b"]} == {"0", "1"}
    assert folds["../c"] == ""
