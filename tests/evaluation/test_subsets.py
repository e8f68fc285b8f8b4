"""The table of missing modalities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from differseg_med.evaluation.subsets import all_subsets, subset_name, write_subsets
from differseg_med.metrics.case import case_metrics

FULL = np.pad(np.ones((3, 3, 3), np.uint8), 2)


def rows(shift, cases=("a", "b")):
    return [{"case_id": c, **case_metrics(np.roll(FULL, shift, 0), FULL, (1.0, 1.0, 2.0))} for c in cases]


def test_all_subsets_largest_first():
    assert all_subsets(["t1", "ct", "pet"]) == [
        ("t1", "ct", "pet"),
        ("t1", "ct"),
        ("t1", "pet"),
        ("ct", "pet"),
        ("t1",),
        ("ct",),
        ("pet",),
    ]
    assert len(all_subsets("abcd")) == 15
    assert subset_name(("t1", "pet")) == "t1+pet"


def test_table_and_figure(tmp_path):
    failed = [*rows(2, ("a",)), {"case_id": "b", "status": "failed", "reason": "no image"}]
    had = [{**row, "modalities": m} for row, m in zip(rows(0), ("t1+ct", "t1"))]  # the table has no CT of b
    results = {("t1", "ct"): had, ("t1",): [{**row, "modalities": "t1"} for row in rows(1)], ("ct",): failed}
    lines = write_subsets(results, ["t1", "ct"], tmp_path)
    table = pd.read_csv(tmp_path / "subsets.csv")
    assert table["given"].tolist() == ["t1+ct", "t1", "ct"]
    assert table[["t1", "ct"]].to_numpy().tolist() == [[1, 1], [1, 0], [0, 1]]
    assert table["dice_mean"].tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert table["hd95_mm_mean"].tolist() == pytest.approx([0, 1, 2])
    assert table["failed"].tolist() == [0, 0, 1]
    assert table["with_all_given"].tolist() == [1, 2, 0]
    assert np.isnan(table["dice_low"][2])  # one subject: no interval
    assert len(lines) == 3
    assert (tmp_path / "subsets.png").read_bytes().startswith(b"\x89PNG")
    assert "t1+ct" in (tmp_path / "subsets.html").read_text()


def test_nothing_measured_with_one_subset(tmp_path):
    failed = [{"case_id": c, "status": "failed"} for c in "ab"]
    write_subsets({("t1",): rows(0), ("ct",): failed}, ["t1", "ct"], tmp_path)
    table = pd.read_csv(tmp_path / "subsets.csv")
    assert table["failed"].tolist() == [0, 2]
    assert np.isnan(table["dice_mean"][1])
    with pytest.raises(ValueError, match="no case was measured"):
        write_subsets({("ct",): failed}, ["ct"], tmp_path)


def test_other_cases_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same cases"):
        write_subsets({("t1",): rows(0), ("ct",): rows(0, ("a", "c"))}, ["t1", "ct"], tmp_path)
