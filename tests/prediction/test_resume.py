"""Runs that were interrupted: what is kept, what is done again."""

from __future__ import annotations

import pytest
from support.running import StopsAt, cohort, evaluator_of, masks, summary
from support.synthetic import (
    ThresholdCenter,
    read_rows,
    write_table,
)

from differseg_med.prediction.summary import COLUMNS, Summary, read_finished, read_summary


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
    table = cohort(tmp_path, "a", "b", "d", "c")
    rows = list(read_rows(table).values())
    write_table(table, [row for row in rows if row["case_id"] != "d"])
    evaluator_of(table, StopsAt(1, RuntimeError())).run()  # a fails, b and c are done
    with pytest.raises(KeyboardInterrupt):
        evaluator_of(table, StopsAt(1, KeyboardInterrupt()), resume=True).run()
    with pytest.raises(KeyboardInterrupt):  # interrupted at c, after a and b have been reported
        evaluator_of(write_table(table, rows), StopsAt(2, KeyboardInterrupt()), resume=True).run()
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


@pytest.mark.parametrize("resume", [True, False])
def test_a_case_that_fails_now_does_not_keep_its_old_mask(tmp_path, resume):
    table = cohort(tmp_path, "a")
    evaluator_of(table).run()
    (tmp_path / "a" / "t1.nii.gz").unlink()
    evaluator_of(table, resume=resume).run()
    assert summary(table)["a"]["status"] == "failed"
    assert summary(table)["a"]["modalities"] == "t1+ct+pet"  # what the table says it has
    assert masks(table) == {}
    assert len(list((tmp_path / "out").glob("earlier_runs/*/a/mask.nii.gz"))) == 1


def rows_of(number):
    return [{"case_id": f"c{i}", "status": "done", "reason": 'a "b",\nc', "notes": f"note {i}"} for i in range(number)]


def test_a_summary_cut_anywhere_gives_whole_rows_only(tmp_path):
    """A kill may leave any part of the row that was being appended: it is read as whole or not at all."""
    made = Summary(tmp_path)
    for row in rows_of(2):
        made.add(row)
    path = tmp_path / "summary.csv"
    before, whole = path.stat().st_size, read_summary(path)
    assert [row["case_id"] for row in whole] == ["c0", "c1"]
    made.add(rows_of(3)[2])
    content = path.read_bytes()
    for end in range(before, len(content)):
        path.write_bytes(content[:end])
        assert read_summary(path) == whole, content[before:end]
    path.write_bytes(content)
    last = read_summary(path)[2]
    assert {name: last[name] for name in ("case_id", "reason", "notes")} == {
        "case_id": "c2",
        "reason": 'a "b",\nc',
        "notes": "note 2",
    }


def test_rows_are_appended_and_put_in_order_at_the_end(tmp_path):
    path, first = tmp_path / "summary.csv", Summary(tmp_path)
    for row in rows_of(3):
        first.add(row)
    old = {str(row["case_id"]): row for row in read_summary(path)}
    resumed = Summary(tmp_path, old)
    written = []
    resumed.write = lambda real=resumed.write: written.append(1) or real()
    resumed.add({**old["c1"], "status": "failed"})
    resumed.add(old["c0"])  # as it was
    resumed.add({**dict.fromkeys(COLUMNS, ""), "case_id": "new", "status": "done"})
    assert len(written) == 1
    assert [(row["case_id"], row["status"]) for row in read_summary(path)] == [
        ("c1", "failed"),
        ("c0", "done"),
        ("c2", "done"),
        ("new", "done"),
    ]
    resumed.add({"case_id": "wide", "status": "done", "area_percent": "3"})  # another column: all is written again
    assert len(written) == 2
    assert [row["case_id"] for row in read_summary(path)] == ["c1", "c0", "new", "wide", "c2"]
    path.unlink()
    resumed.add({"case_id": "last", "status": "done"})  # somebody took the file away
    assert len(read_summary(path)) == 6


def test_a_disk_that_is_full_leaves_no_half_row(tmp_path, monkeypatch):
    made = Summary(tmp_path)
    made.add(rows_of(1)[0])
    content = (tmp_path / "summary.csv").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("differseg_med.prediction.summary.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        made.add(rows_of(2)[1])
    assert (tmp_path / "summary.csv").read_bytes() == content
