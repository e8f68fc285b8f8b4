"""metrics.csv and metrics.json: every case in them, the empty and the failed ones by name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from support.masks import blob

from differseg_med.evaluation.tables import summarize_rows, write_metrics
from differseg_med.metrics.case import MatchRule, Settings, case_metrics
from differseg_med.metrics.policy import MEASURES, POLICY
from differseg_med.metrics.rows import worst_first

FULL, NONE = blob((8, 8, 8), (4, 4, 4), (2, 2, 2)), np.zeros((8, 8, 8), np.uint8)


def row(case, prediction, reference, **more):
    return {"case_id": case, **more, **case_metrics(prediction, reference, (1.0, 1.0, 2.0))}


ROWS = [
    row("perfect", FULL, FULL, subject_id="s1"),
    row("missed", NONE, FULL, subject_id="s2"),
    row("healthy", NONE, NONE, subject_id="s2"),
    row("invented", FULL, NONE),
    {"case_id": "broken", "status": "failed", "reason": "the file cannot be read"},
]


def test_every_case_counts(tmp_path):
    summary = write_metrics(ROWS, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == summary
    assert summary["counts"] == {
        "cases": 5,
        "evaluated": 4,
        "failed": 1,
        "subjects": 3,
        "empty_prediction": 1,
        "empty_reference": 1,
        "empty_both": 1,
    }
    assert summary["empty_cases"] == {"prediction": ["missed"], "reference": ["invented"], "both": ["healthy"]}
    assert summary["failed_cases"] == [{"case_id": "broken", "reason": "the file cannot be read"}]
    assert summary["policy"] == POLICY
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.5)
    assert summary["metrics"]["hd95_mm"]["mean"] == pytest.approx(np.sqrt(64 + 64 + 256) / 2)
    assert all(figures["n"] == 4 for figures in summary["metrics"].values())
    assert list(summary["metrics"]) == list(MEASURES)


def test_the_table_has_a_line_per_case_in_order(tmp_path):
    write_metrics(ROWS, tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv", keep_default_na=False)
    assert table["case_id"].tolist() == ["perfect", "missed", "healthy", "invented", "broken"]
    assert table["status"].tolist() == ["done"] * 4 + ["failed"]
    assert list(table.columns[:6]) == ["case_id", "subject_id", "status", "reason", "dice", "hd95_mm"]
    assert table["dice"].tolist() == ["1", "0", "1", "0", ""] or table["dice"].astype(str).tolist()[4] == ""


def test_failed_cases_without_a_row_are_listed(tmp_path):
    summary = write_metrics(ROWS[:1], tmp_path, failed=["a", "b"])
    assert [f["case_id"] for f in summary["failed_cases"]] == ["a", "b"]
    assert (summary["counts"]["cases"], summary["counts"]["evaluated"]) == (3, 1)
    assert write_metrics(ROWS[:1], tmp_path, failed={"a": "why"})["failed_cases"] == [{"case_id": "a", "reason": "why"}]


def test_nothing_measured_is_a_report_too(tmp_path):
    summary = write_metrics(ROWS[-1:], tmp_path)
    assert summary["metrics"] == {}
    assert summary["counts"]["failed"] == 1
    assert "broken,failed,the file cannot be read" in (tmp_path / "metrics.csv").read_text()


def test_settings_and_notices_stand_in_the_report(tmp_path):
    settings = Settings(tolerance_mm=5, match=MatchRule("any"))
    rows = [{**ROWS[0], "notice": "resampled"}]
    summary = write_metrics(rows, tmp_path, settings=settings, notices=["two more"])
    assert summary["notices"] == ["two more", "perfect: resampled"]
    assert summary["settings"] == settings.describe()
    assert summary["settings"]["surface_dice_tolerance_mm"] == 5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"dice": 1.0, "empty": "none"}], "no case_id"),
        ([ROWS[0], ROWS[0]], "perfect occurs twice"),
        ([{"case_id": "a"}], "a has no scores"),
    ],
)
def test_rows_that_make_no_sense_are_refused(rows, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_metrics(rows, tmp_path)
    assert not list(tmp_path.iterdir())


def test_worst_first():
    rows = [{"case_id": c, "dice": d, "hd95_mm": h} for c, d, h in (("a", 0.9, 1), ("b", 0.0, 50), ("c", 0.0, 90))]
    assert [r["case_id"] for r in worst_first([*rows, ROWS[-1]])] == ["c", "b", "a"]


def test_a_subject_is_not_two():
    twice = [{**ROWS[0], "case_id": name, "subject_id": "s"} for name in ("scan1", "scan2")]
    assert summarize_rows(twice)["counts"]["subjects"] == 1
    assert summarize_rows([{**r, "subject_id": ""} for r in twice])["counts"]["subjects"] == 2
