"""Runs that were interrupted: what is kept, what is done again."""

from __future__ import annotations

import pytest
from support.running import StopsAt, cohort, evaluator_of, masks, summary
from support.synthetic import (
    ThresholdCenter,
    read_rows,
)

from differseg_med.prediction.summary import COLUMNS, read_finished


def test_a_summary_with_other_columns_can_be_resumed(tmp_path):
    table = cohort(tmp_path, "a", "b")
    evaluator_of(table).run()
    path = tmp_path / "out" / "summary.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",remark", lines[1] + ",seen", lines[2] + ",,,"]))
    network = ThresholdCenter()
    evaluator_of(table, network, resume=True).run()
    assert network.calls == []
    assert list(summary(table)["a"]) == [*COLUMNS, "remark"]
    assert [summary(table)[c]["remark"] for c in "ab"] == ["seen", ""]


def test_an_interrupted_run_keeps_and_reports_what_it_has(tmp_path):
    table = cohort(tmp_path, "a", "b", "c")
    with pytest.raises(KeyboardInterrupt):
        evaluator_of(table, StopsAt(2, KeyboardInterrupt())).run()
    assert list(summary(table)) == ["a"]
    assert list(read_rows(tmp_path / "out" / "metrics.csv")) == ["a"]
    assert set(masks(table)) == {"a"}


def test_resuming_keeps_finished_masks_and_does_the_rest(tmp_path):
    table = cohort(tmp_path, "a", "b", "c", c={"t1": "nowhere.nii.gz"})
    with pytest.raises(KeyboardInterrupt):
        evaluator_of(table, StopsAt(2, KeyboardInterrupt())).run()
    before, seconds = masks(table), summary(table)["a"]["seconds"]
    network = ThresholdCenter()
    evaluator_of(table, network, resume=True).run()
    assert len(network.calls) == 1  # case b
    assert masks(table)["a"] == before["a"]
    assert [summary(table)[c]["status"] for c in "abc"] == ["done", "done", "failed"]
    assert summary(table)["a"]["seconds"] == seconds
    scores = read_rows(tmp_path / "out" / "metrics.csv")
    assert [scores[c]["dice"] for c in "ab"] == ["1", "1"]
    assert scores["c"]["status"] == "failed"


def test_resuming_does_not_keep_a_mask_that_was_made_from_other_modalities(tmp_path):
    table = cohort(tmp_path, "a", "b")
    evaluator_of(table).run()
    before = masks(table)
    table.write_text(table.read_text().replace("a/pet.nii.gz", ""))
    evaluator_of(table, resume=True).run()
    assert masks(table)["a"] > before["a"]
    assert masks(table)["b"] == before["b"]
    assert [summary(table)[c]["modalities"] for c in "ab"] == ["t1+ct", "t1+ct+pet"]


def test_resuming_tries_failed_cases_and_lost_masks_again(tmp_path):
    table = cohort(tmp_path, "a", "b")
    evaluator_of(table, StopsAt(1, RuntimeError())).run()
    (tmp_path / "out" / "b" / "mask.nii.gz").unlink()
    assert read_finished(tmp_path / "out") == {}
    evaluator_of(table, resume=True).run()
    assert [row["status"] for row in summary(table).values()] == ["done", "done"]


def test_a_resumed_run_that_is_interrupted_forgets_nothing(tmp_path):
    table = cohort(tmp_path, "a", "b", "c")
    evaluator_of(table, StopsAt(1, RuntimeError())).run()  # a fails, b and c are done
    with pytest.raises(KeyboardInterrupt):
        evaluator_of(table, StopsAt(1, KeyboardInterrupt()), resume=True).run()
    with pytest.raises(KeyboardInterrupt):  # interrupted at c, after a and b have been reported
        evaluator_of(cohort(tmp_path, "a", "b", "d", "c"), StopsAt(2, KeyboardInterrupt()), resume=True).run()
    assert {c: row["status"] for c, row in summary(table).items()} == {"a": "done", "b": "done", "c": "done"}
    assert set(read_finished(tmp_path / "out")) == {"a", "b", "c"}


def test_without_resume_everything_is_done_again(tmp_path):
    table = cohort(tmp_path, "a")
    evaluator_of(table).run()
    before = masks(table)
    network = ThresholdCenter()
    evaluator_of(table, network).run()
    assert len(network.calls) == 1
    assert masks(table)["a"] > before["a"]


def test_a_case_that_fails_now_says_so_beside_its_old_mask(tmp_path):
    table = cohort(tmp_path, "a")
    evaluator_of(table).run()
    (tmp_path / "a" / "t1.nii.gz").unlink()
    evaluator_of(table).run()
    assert summary(table)["a"]["status"] == "failed"
    assert summary(table)["a"]["notes"] == "the mask in the folder is of an earlier run"
    assert summary(table)["a"]["modalities"] == "t1+ct+pet"  # what the table says it has
