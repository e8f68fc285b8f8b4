"""Tables as people save them: each is read as it is meant, or refused with the reason and a remedy."""

from __future__ import annotations

import logging
from pathlib import Path

import openpyxl
import pytest

from differseg_med.cohort.leaks import subject_leaks
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import CaseError

ODD = Path(__file__).parents[1] / "data" / "odd_tables"
NAMES = ("t1", "ct", "pet")
LINES = ("case_id,t1,ct,pet,label,split", "007,a.nii,b.nii,c.nii,l.nii,train")


def read(path: Path):
    return read_cohort(path, NAMES)


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("name", ["tab.csv", "tab_utf16.csv", "sep_line.csv", "blank_lines.csv"])
def test_one_case_however_it_was_saved(name):
    (case,) = read(ODD / name).cases
    assert (case.case_id, case.subject_id, case.split, case.fold, case.problem) == ("007", "007", "train", "0", None)
    assert case.images == {m: ODD / "c0" / f"{m}.nii.gz" for m in NAMES}
    assert case.label == ODD / "c0" / "gt.nii.gz"
    assert table_modalities(ODD / name) == NAMES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("top", ["", "# made by hand\n", "\n,,,\n", '"# a, remark; of two"\n\n', "sep={}\n"])
def test_encodings_separators_and_lines_on_top(tmp_path, encoding, separator, top):
    text = top.format(separator) + "\n".join(line.replace(",", separator) for line in LINES)
    (case,) = read(written(tmp_path, text, encoding)).cases
    assert (case.case_id, list(case.images), case.split, case.problem) == ("007", list(NAMES), "train", None)


def test_a_header_that_is_a_remark_and_an_id_that_looks_like_one(tmp_path):
    cases = read(written(tmp_path, "#" + "\n".join([*LINES, "#1,a.nii,,,l.nii,test"]))).cases
    assert [(case.case_id, case.problem) for case in cases] == [("007", None), ("#1", None)]


def test_rows_are_counted_as_the_spreadsheet_shows_them(tmp_path):
    case = read(written(tmp_path, "# remark\n\n" + "\n".join([*LINES, "", ",x.nii,,,,"]))).cases[1]
    assert "row 6 has no case_id" in str(case.problem)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cp1252.csv", ["not a UTF-8", "byte 0xfc in line 2", "CSV (UTF-8)"]),
        ("xlsx.csv", ["Excel workbook", "CSV (UTF-8)"]),
        ("nowhere.csv", ["there is no cohort table here"]),
    ],
)
def test_refused_with_a_remedy(name, words):
    with pytest.raises(CaseError) as caught:
        read(ODD / name)
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_old_workbook_and_a_folder_are_refused(tmp_path):
    (tmp_path / "old.csv").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    for path, words in ((tmp_path / "old.csv", r"\.xls"), (tmp_path, "cannot be read")):
        with pytest.raises(CaseError, match=words):
            read(path)


def test_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    for row in ([], ["# remark"], ["case_id", "t1", "ct", "pet", "label", "split", "fold", "age", None]):
        book.active.append(row)
    book.active.append(["007", "a.nii", None, "NA", "l.nii", "Train", 0, 63.0])
    book.active.append([7, "a.nii", None, "p.nii", "l.nii", "val", 1.0, 41.5])
    book.save(tmp_path / "cohort.xlsx")
    first, second = read(tmp_path / "cohort.xlsx").cases
    assert (first.case_id, second.case_id) == ("007", "7")
    assert (list(first.images), list(second.images)) == (["t1"], ["t1", "pet"])
    assert [(c.split, c.fold, c.extra, c.problem) for c in (first, second)] == [
        ("train", "0", {"age": "63"}, None),
        ("validation", "1", {"age": "41.5"}, None),
    ]


def test_splits_are_the_ones_that_are_meant_and_one_notice_says_so(tmp_path, caplog):
    path = written(tmp_path, (ODD / "split_var.csv").read_text())
    with caplog.at_level(logging.WARNING):
        cohorts = [read(path), read(path)]
    assert [c.split for c in cohorts[0].cases] == ["train"] * 4 + ["validation"] * 4 + ["test", ""]
    assert len(cohorts[0].select("training")) == len(cohorts[0].select("train")) == 4
    assert [c.case_id for c in cohorts[0].select(["Val", "TEST"])] == ["c4", "c5", "c6", "c7", "c8"]
    assert caplog.text.count("cohort.csv: read") == 1  # a run reads its table several times
    assert "'val' as 'validation' (1 entry)" in caplog.text


def test_a_split_of_the_users_own_stays(tmp_path):
    (case,) = read(written(tmp_path, "\n".join([LINES[0], LINES[1].replace("train", "Hospital B")]))).cases
    assert case.split == "Hospital B"


@pytest.mark.parametrize("blank", ["NA", "n/a", "NaN", "#N/A", "None", "-"])
def test_cells_that_hold_nothing(tmp_path, blank, caplog):
    path = written(
        tmp_path, f"case_id,subject_id,t1,ct,pet,label,split\nNA,{blank},a.nii,{blank},{blank},{blank},{blank}"
    )
    (case,) = read(path).cases
    assert (case.case_id, case.subject_id, list(case.images), case.label, case.split) == ("NA", "NA", ["t1"], None, "")
    assert "as blank (5 entries)" in caplog.text


def test_a_folder_that_is_called_na_is_an_image(tmp_path):
    (tmp_path / "NA").mkdir()
    (case,) = read(written(tmp_path, "case_id,t1,ct,pet\na,NA,,")).cases
    assert case.images == {"t1": tmp_path / "NA"}


def test_ids():
    problems = {c.written_id or c.case_id: str(c.problem or "") for c in read(ODD / "ids.csv").cases}
    good = ["007", "7", "metrics", "$HOME", "`id`", "%s%n", "{x}", "#1", "a'b", "1e5", "ok", "na1", "bs1", "empty1"]
    assert [name for name in good if problems[name]] == []
    bad = ["x" * 300, "x" * 200, "a\nb", "a\tb", "overlays", "cache", ".hidden", "CON", "~", "-v", "summary.CSV"]
    assert [name for name in bad if "cannot be a folder name" not in problems[name]] == []
    assert "\n" not in problems["a\nb"]
    assert all("stands in 2 rows" in problems[name] for name in ("case", "case."))  # one folder on some disks
    images = {c.case_id: c.images for c in read(ODD / "ids.csv").cases}
    assert images["bs1"]["t1"] == ODD / "c0" / "t1.nii.gz"
    assert list(images["na1"]) == ["t1", "pet"]


@pytest.mark.parametrize(
    ("one", "other"), [("7", "7.0"), ("p1", "P1"), ("M\u00fc", "Mu\u0308"), ("STRASSE", "stra\u00dfe")]
)
def test_ids_that_are_equal_after_all(tmp_path, one, other):
    cases = read(written(tmp_path, f"case_id,t1,ct,pet\n{one},a,,\n{other},b,,\nc,c,,")).cases
    assert [case.problem is not None for case in cases] == [True, True, False]


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("P1", "p1"), ("P1", "P1")])
def test_one_subject_on_both_sides(tmp_path, one, other):
    text = f"case_id,subject_id,t1,ct,pet,split\na,{one},a,,,Train\nb,{other},b,,,val\nc,8,c,,,val"
    (finding,) = subject_leaks(read(written(tmp_path, text)).cases)
    assert finding.level == "error"
    assert one in finding.text
    assert subject_leaks(read(ODD / "leak.csv").cases)[0].level == "error"


READ = {
    "bids.csv": ["S1_11", "S11_1"],
    "thin.csv": ["thin1", "thin2", "thin2v"],
    "leak.csv": None,
    "res.csv": None,
    "ids.csv": None,
    "split_var.csv": None,
    **{name: ["007"] for name in ("tab.csv", "tab_utf16.csv", "sep_line.csv", "blank_lines.csv")},
}
REFUSED = ("cp1252.csv", "xlsx.csv")


def test_every_table_is_read_right_or_refused_with_a_remedy():
    """The files are all there is in the folder; above stands what each of them is about."""
    assert {path.name for path in ODD.glob("*.csv")} == {*READ, *REFUSED}
    for name, ids in READ.items():
        cases = read(ODD / name).cases
        written_lines = len([line for line in (ODD / name).read_bytes().split(b"\n") if line.strip()])
        assert cases
        assert written_lines >= len(cases)
        assert ids is None or [case.case_id for case in cases][: len(ids)] == ids
        if name != "ids.csv":
            assert [case.problem for case in cases if case.problem is not None] == [], name
    for name in REFUSED:
        with pytest.raises(CaseError) as caught:
            read(ODD / name)
        assert caught.value.remedy
