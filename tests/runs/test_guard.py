"""Data of a cohort are never written, and no case writes another's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from differseg_med.atomic import sweep, write_text
from differseg_med.errors import CaseError
from differseg_med.guard import holds_data, protecting, writing_for


def refused(path: Path) -> bool:
    before = path.read_bytes() if path.is_file() else None
    found = None
    try:
        write_text(path, "result")
    except CaseError as error:
        found = error
    if found is None:
        return False
    assert "never written" in str(found)
    assert (path.read_bytes() if path.is_file() else None) == before
    return True


@pytest.fixture
def data(tmp_path) -> Path:
    """A label, a series, and links to both."""
    folder = tmp_path / "data"
    (folder / "series").mkdir(parents=True)
    (folder / "label.nii.gz").write_text("label")
    (folder / "series" / "1.dcm").write_text("slice")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "soft.nii.gz").symlink_to(folder / "label.nii.gz")
    os.link(folder / "label.nii.gz", tmp_path / "hard.nii.gz")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "data/label.nii.gz",
        "data/../data/./label.nii.gz",
        "link/label.nii.gz",
        "soft.nii.gz",
        "hard.nii.gz",
        "data/series/1.dcm",
        "data/series/new.dcm",
        "link/series/new.dcm",
    ],
)
def test_inputs_are_not_written_by_any_name(data, tmp_path, name):
    with protecting(tmp_path, [data / "label.nii.gz", data / "series"]):
        assert refused(tmp_path / name)
        assert not refused(tmp_path / "data" / "result.txt")
    assert (data / "label.nii.gz").read_text() == "label"
    assert [path.name for path in (data / "series").iterdir()] == ["1.dcm"]
    assert not refused(tmp_path / name)  # the rule ends with the run


def test_a_name_that_is_itself_a_link_is_an_input_too(data, tmp_path):
    with protecting(tmp_path, [tmp_path / "soft.nii.gz"]):
        assert refused(tmp_path / "soft.nii.gz")
        assert refused(data / "label.nii.gz")


def test_relative_paths(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    with protecting(".", [Path("label.nii.gz")]):
        assert refused(data / "label.nii.gz")
        assert refused(Path("./label.nii.gz"))


def test_a_folder_of_results_inside_a_folder_of_data(data, tmp_path):
    out = data / "out"
    with protecting(out, [data]):
        assert not refused(out / "a" / "mask.nii.gz")
        assert refused(data / "mask.nii.gz")


def test_rules_of_nested_runs_add_up(data, tmp_path):
    with protecting(tmp_path, [data / "label.nii.gz"]), protecting(tmp_path, [data / "series"]):
        assert refused(data / "label.nii.gz")
        assert refused(data / "series" / "1.dcm")


def test_two_cases_and_one_name(tmp_path):
    with protecting(tmp_path, []):
        for _ in range(2):  # a case may write its own file again
            with writing_for("S1_11"):
                write_text(tmp_path / "S111.txt", "first")
        with writing_for("S11_1"), pytest.raises(CaseError, match="that of case S1_11"):
            write_text(tmp_path / "S111.txt", "second")
        write_text(tmp_path / "summary.csv", "of all")
    assert (tmp_path / "S111.txt").read_text() == "first"


def test_which_folders_hold_data(data, tmp_path):
    with protecting(tmp_path, [data / "label.nii.gz"]):
        assert holds_data(data)
        assert holds_data(tmp_path / "link")
        assert not holds_data(tmp_path / "dat")
        assert not holds_data(data / "series")


def test_leftovers_are_swept_and_nothing_else(tmp_path):
    left = [".last.pt.0123abcd.tmp", "a/.mask.nii.gz.ffffffff.tmp.nii.gz", "a/b/.x.png.00000000.tmp.png"]
    others = [".hidden", "x.tmp", ".notes.tmp", ".a.tmp.txt", ".last.pt.0123ABCD.tmp", "last.pt"]
    for name in (*left, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sweep(tmp_path, older_than=60) == 0
    assert sweep(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(others)
