"""Planted names of a patient: in no message, table, page or log of successes and failures, unless asked for."""

from __future__ import annotations

import csv
import errno
import hashlib
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.hostile import FORMULAS
from support.making import rtstruct, save, slices, stored, uid
from support.markers import Markers, planted_png
from typer.testing import CliRunner

from differseg_med.case import Case, run_for_case
from differseg_med.cli import app
from differseg_med.cohort.scan.choose import SALT
from differseg_med.errors import VERBOSE, CaseError
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.prediction.summary import Summary, read_finished
from differseg_med.tables import guarded, unguarded, write_frame
from differseg_med.tables import write_table as write_csv


@pytest.fixture(autouse=True)
def _as_users_see_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv(VERBOSE, raising=False)
    caplog.set_level(logging.INFO)


def message(job, case: Case | None = None) -> str:
    with pytest.raises(CaseError) as caught:
        job() if case is None else run_for_case(lambda _: job(), None, case)
    return str(caught.value)


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ESTALE, errno.ENOSPC])
def test_what_a_disk_refuses_is_no_unforeseen_problem_of_a_case(number):
    """Of "Input/output error" only "output error" was left, as of a path."""

    def fail():
        raise OSError(number, os.strerror(number))

    words = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your share of the disk is used up"}
    expected = words.get(number, f"the system says: {os.strerror(number)}")
    assert message(fail, Case("c1", "c1", {})).startswith(f"case c1: {expected}")


def test_messages_name_case_and_column(tmp_path, monkeypatch):
    marker = Markers()
    folder = tmp_path / marker() / marker()
    folder.mkdir(parents=True)
    (folder / f"{marker()}.nii.gz").write_bytes(b"x")
    case = Case("c1", "c1", {"t1": folder, "ct": next(folder.iterdir())})
    text = message(lambda: load_volume(case.images["ct"]), case)
    assert text.startswith("case c1, column ct: the file cannot be read")
    assert marker.found_in(text) == []
    text = message(lambda: read_volume(case.images["t1"]), case)
    assert text.startswith("case c1, column t1: there is no DICOM image here")
    assert marker.found_in(message(lambda: read_volume(folder))) == []
    monkeypatch.setenv(VERBOSE, "1")
    assert len(marker.found_in(message(lambda: load_volume(case.images["ct"]), case))) == 2


def test_series_and_regions_are_counted_and_listed_only_when_asked(tmp_path, monkeypatch):
    marker = Markers()
    folder = save(tmp_path / "x", [*slices(series=marker()), *slices(stored(seed=1), series=marker())])
    drawn = save(tmp_path / "y", [rtstruct({marker(): [np.zeros((3, 3))], marker(): [np.zeros((3, 3))]})])
    jobs = (
        (lambda: read_volume(folder), "2 series, which --verbose-paths lists"),
        (lambda: read_volume(f"{folder}::{uid('nothing')}"), "there is no such series"),
        (lambda: load_label(drawn, [folder]), "2 names, which --verbose-paths lists"),
        (lambda: load_label(f"{drawn}::{marker()}", [folder]), "there is no ROI of this name"),
    )
    for job, words in jobs:
        text = message(job)
        assert words in text
        assert marker.found_in(text) == []
        assert uid("series", marker.given[0]) not in text
    monkeypatch.setenv(VERBOSE, "1")
    for job, _ in jobs[::2]:
        assert len(marker.found_in(message(job))) == 2


def test_pictures_tell_nothing_of_their_texts(tmp_path):
    marker = Markers()
    path = planted_png(tmp_path / "rgb.png", marker)
    assert marker.found_in(str(load_volume(path).meta)) == []
    path.write_bytes(path.read_bytes()[:-40])
    assert marker.found_in(str(message_or_volume(path))) == []


def message_or_volume(path: Path) -> object:
    try:
        return load_volume(path).meta
    except CaseError as error:
        return error


NUMBERS = ("-1.5", "+3", "-1e-3", "-inf", "1", ".5", "-.5", "text", "")


def test_no_cell_is_a_formula(tmp_path):
    write_csv(tmp_path / "a.csv", ("=head", "b"), [{"=head": text, "b": 1.5} for text in FORMULAS])
    write_frame(tmp_path / "b.csv", pd.DataFrame({"case_id": FORMULAS, "b": -1.25}))
    for name in ("a.csv", "b.csv"):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.reader(file))
        assert [row[0] for row in rows[1:]] == [f"'{text}" for text in FORMULAS]
    assert rows[1][1] == "-1.25"
    for text in (*FORMULAS, *NUMBERS, "'quoted'", "'"):
        assert unguarded(guarded(text)) == text
    assert [guarded(text) for text in NUMBERS] == list(NUMBERS)


def test_a_summary_with_formulas_resumes(tmp_path):
    (tmp_path / "=1+1").mkdir()
    (tmp_path / "=1+1" / "mask.nii.gz").write_bytes(b"x")
    Summary(tmp_path).add({"case_id": "=1+1", "status": "done", "modalities": "t1"})
    assert list(read_finished(tmp_path)) == ["=1+1"]
    assert "'=1+1,done" in (tmp_path / "summary.csv").read_text()


def test_ids_from_a_flat_folder_cannot_be_tried_out(tmp_path):
    """PatientIDs are few: an unsalted hash of one is found by hashing all."""
    folder = save(tmp_path / "in", slices())
    options = ["cohort", "scan", str(folder), "--case-id", "folder", "--out"]
    ids = []
    for out in ("a", "a", "b"):
        result = CliRunner().invoke(app, [*options, str(tmp_path / out / "cohort.csv")])
        assert result.exit_code == 0, result.output
        assert "series (" not in result.output
        ids += list(pd.read_csv(tmp_path / out / "cohort.csv", dtype=str).case_id)
    assert ids[0] == ids[1] != ids[2]  # the same beside one table, another beside another
    plain = hashlib.sha256(b"ID-4711").hexdigest()
    assert plain[:12] not in ids
    assert stat.S_IMODE((tmp_path / "a" / SALT).stat().st_mode) == 0o600
