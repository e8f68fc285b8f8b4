"""The cohort table as spreadsheets write it, as people mistype it, and there and back again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from differseg_med.case import Case, Cohort
from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import CaseError

HEADER = "case_id,subject_id,t1,ct,label,split,fold,site"
ROW = "a,p1,img/a_t1.nii.gz,,lab/a.nii.gz,train,0,Lyon"


def table(folder: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


def read(folder: Path, *lines: str, **how):
    return read_cohort(table(folder, *lines, **how), ("t1", "ct"))


def problems(cohort) -> list[str]:
    return [str(case.problem) for case in cohort.cases if case.problem]


def test_a_row(tmp_path):
    (case,) = read(tmp_path, HEADER, ROW).cases
    assert (case.case_id, case.subject_id, case.split, case.fold) == ("a", "p1", "train", "0")
    assert case.images == {"t1": tmp_path / "img/a_t1.nii.gz"}  # a blank cell is an absent modality
    assert case.label == tmp_path / "lab/a.nii.gz"
    assert case.extra == {"site": "Lyon"}
    assert case.problem is None
    assert case.as_item() == {"case_id": "a", "t1": str(case.images["t1"]), "label": str(case.label)}


@pytest.mark.parametrize("how", [{"encoding": "utf-8-sig"}, {"end": "\r\n"}, {"encoding": "utf-8-sig", "end": "\r\n"}])
def test_what_spreadsheets_write(tmp_path, how):
    plain = read(tmp_path, HEADER, ROW).cases
    assert read(tmp_path, HEADER, ROW, **how).cases == plain
    assert read(tmp_path, HEADER.replace(",", ";"), ROW.replace(",", ";"), **how).cases == plain


def test_semicolons_leave_commas_in_cells_alone(tmp_path):
    (case,) = read(tmp_path, "case_id;t1;ct", "a;one, two.nii;").cases
    assert case.images == {"t1": tmp_path / "one, two.nii"}


def test_quoted_cells_may_hold_separators_and_line_breaks(tmp_path):
    first, second = read(tmp_path, "case_id,t1,ct,remark", 'a,"x,y.nii",,"two\nlines"', "b,,b.nii,").cases
    assert first.images == {"t1": tmp_path / "x,y.nii"}
    assert first.extra == {"remark": "two\nlines"}
    assert second.images == {"ct": tmp_path / "b.nii"}


def test_spaces_around_names_and_cells_and_blank_lines_do_not_count(tmp_path):
    (case,) = read(tmp_path, " case_id , t1,ct ", "", " a , x.nii ,  ", ",,").cases
    assert (case.case_id, case.images) == ("a", {"t1": tmp_path / "x.nii"})


def test_modalities_come_in_declared_order_not_in_that_of_the_columns(tmp_path):
    (case,) = read(tmp_path, "ct,t1,case_id", "c.nii,t.nii,a").cases
    assert list(case.images) == ["t1", "ct"]


def test_an_absolute_path_stays(tmp_path):
    (case,) = read(tmp_path, "case_id,t1,ct", f"a,{tmp_path / 'else' / 'x.nii'},").cases
    assert case.images["t1"] == tmp_path / "else" / "x.nii"


def test_a_subject_is_the_case_if_nothing_else_is_said(tmp_path):
    (case,) = read(tmp_path, "case_id,t1,ct", "a,x.nii,").cases
    assert case.subject_id == "a"


def test_duplicate_ids_concern_their_rows_only(tmp_path):
    cohort = read(tmp_path, "case_id,t1,ct", "a,x.nii,", "b,y.nii,", "a,z.nii,")
    assert [case.problem is not None for case in cohort.cases] == [True, False, True]
    assert "case a, file" in problems(cohort)[0]
    assert "stands in 2 rows" in problems(cohort)[0]


def test_ids_that_one_disk_in_two_takes_for_the_same(tmp_path):
    assert len(problems(read(tmp_path, "case_id,t1,ct", "Case1,x.nii,", "case1,y.nii,", "case2,z.nii,"))) == 2


def test_a_row_without_an_id_gets_the_number_that_the_spreadsheet_shows(tmp_path):
    cohort = read(tmp_path, "case_id,t1,ct", "a,x.nii,", ",y.nii,")
    assert cohort.cases[1].case_id == "row3"
    assert "row 3 has no case_id" in str(cohort.cases[1].problem)


@pytest.mark.parametrize("case_id", ["../a", "a/b", "a\\b", "..", "a:b", "summary.csv", "metrics.json"])
def test_ids_cannot_leave_the_output_folder(tmp_path, case_id):
    (case,) = read(tmp_path, "case_id,t1,ct", f"{case_id},x.nii,").cases
    assert "folder name" in str(case.problem)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "case_id,t1c,ct,label",
            r"column 't1' is missing \(expected t1, ct, found columns t1c, ct\)\. Add column 't1', and leave its "
            "entries blank where the modality is absent\\.$",  # t1c is another sequence: renaming it is no remedy
        ),
        ("case_id,t1,cts,label", r"column 'ct' is missing .*columns t1, cts\)\. Add column 'ct'"),
        ("case_id,T1,ct,label", "column 't1' is missing .*Rename column 'T1' to 't1': capital letters count"),
        ("case_id,mri,ct,label", "column 't1' is missing .*Add column 't1'"),
        ("case_id,t1,ct,lable", "'lable' looks like a misspelt 'label'"),
        ("case_id,t1,ct,Label", "'Label' looks like a misspelt 'label'"),
        ("case_id,t1,ct,t1", "'t1' is there twice"),
    ],
)
def test_a_wrong_column_concerns_every_row_by_name(tmp_path, header, message):
    cohort = read(tmp_path, header, "a,x.nii,y.nii,z.nii", "b,x.nii,y.nii,z.nii")
    for case in cohort.cases:
        with pytest.raises(CaseError, match=f"^case {case.case_id}, file .*/cohort.csv: .*{message}"):
            raise case.problem.for_case(case.case_id)


@pytest.mark.parametrize("name", ["site", "bold", "age", "gold", "scanner"])
def test_own_columns_are_not_taken_for_misspelt_ones(tmp_path, name):
    assert problems(read(tmp_path, f"case_id,t1,ct,{name}", "a,x.nii,,1")) == []


def test_a_misspelt_split_is_named_when_a_split_is_asked_for(tmp_path):
    with pytest.raises(CaseError, match="'splt' looks like a misspelt 'split'"):
        read(tmp_path, "case_id,t1,ct,splt", "a,x.nii,,train").select("train")


def test_more_cells_than_columns_are_not_shifted_into_others(tmp_path):
    cohort = read(tmp_path, "case_id,t1,ct,label", "a,one, two.nii,c.nii,l.nii", "b,x.nii,,")
    assert len(problems(cohort)) == 1
    assert "case a" in problems(cohort)[0]
    assert "row 2 has more entries than the header" in problems(cohort)[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["t1,ct", "x.nii,"], "column 'case_id' is missing"),
        (["case,t1,ct", "a,x.nii,"], "Rename column 'case' to 'case_id'"),
        (["case_id,t1,ct"], "has no rows"),
        ([""], "has no rows"),
    ],
)
def test_tables_that_cannot_be_read_at_all(tmp_path, lines, message):
    with pytest.raises(CaseError, match=message):
        read(tmp_path, *lines)


def test_no_table_and_no_text(tmp_path):
    with pytest.raises(CaseError, match="no cohort table here"):
        read_cohort(tmp_path / "none.csv", ("t1",))
    with pytest.raises(CaseError, match="not a UTF-8 text file"):
        read(tmp_path, "case_id,t1,ct", "Müller,x.nii,", encoding="latin-1")


def test_selection_by_split(tmp_path):
    cohort = read(tmp_path, "case_id,t1,ct,split", "a,x,,train", "b,x,,test", "c,x,,train", "d,x,,")
    assert [c.case_id for c in cohort.select("train")] == ["a", "c"]
    assert [c.case_id for c in cohort.select(["train", "test"])] == ["a", "b", "c"]
    assert len(cohort.select(None)) == 4
    with pytest.raises(CaseError, match=r"expected rows with split validation, found blank cells and test and train"):
        cohort.select("val")


def test_a_case_remembers_what_of_its_images_is_withheld():
    cohort = Cohort(
        Path("t.csv"), ("t1", "pet"), (Case("a", "a", {"t1": Path("1")}), Case("b", "b", {"pet": Path("2")}))
    )
    assert [case.withheld for case in cohort.withhold(["pet"]).cases] == [(), ("pet",)]


def test_withheld_modalities_are_absent_and_nothing_else_changes(tmp_path):
    cohort = read(tmp_path, HEADER, ROW.replace(",,", ",c.nii,"))
    (case,) = cohort.withhold(["t1"]).cases
    assert list(case.images) == ["ct"]
    assert (case.label, case.extra) == (cohort.cases[0].label, cohort.cases[0].extra)
    assert list(cohort.cases[0].images) == ["t1", "ct"]
    with pytest.raises(CaseError, match=r"cannot withhold \['pet'\]"):
        cohort.withhold(["pet"])


def test_round_trip_into_another_folder(tmp_path):
    cohort = read(tmp_path, HEADER, ROW, "b,p2,,img/b.nii,,test,1,Metz")
    target = tmp_path / "deep" / "er" / "copy.csv"
    write_cohort(target, ("t1", "ct"), cohort.cases)
    assert "../../img/a_t1.nii.gz" in target.read_text()
    again = read_cohort(target, ("t1", "ct"))
    assert [(c.case_id, c.subject_id, c.split, c.fold, c.extra) for c in again.cases] == [
        (c.case_id, c.subject_id, c.split, c.fold, c.extra) for c in cohort.cases
    ]
    for ours, theirs in zip(again.cases, cohort.cases):
        assert {m: p.resolve() for m, p in ours.images.items()} == {m: p.resolve() for m, p in theirs.images.items()}


def test_a_linked_file_keeps_its_own_name(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "MD5E-s1.nii.gz").write_bytes(b"x")
    (tmp_path / "a.nii.gz").symlink_to("store/MD5E-s1.nii.gz")
    cohort = read(tmp_path, "case_id,t1,ct", "a,a.nii.gz,")
    write_cohort(tmp_path / "copy.csv", ("t1", "ct"), cohort.cases)
    assert read_cohort(tmp_path / "copy.csv", ("t1", "ct")).cases == cohort.cases


def test_an_empty_cohort_still_has_its_columns(tmp_path):
    write_cohort(tmp_path / "empty.csv", ("t1", "ct"), [])
    assert (tmp_path / "empty.csv").read_text().strip() == "case_id,subject_id,t1,ct,label,split,fold"


def test_half_a_character_does_not_keep_a_table_from_being_written_whole(tmp_path):
    path = table(tmp_path, HEADER, ROW)
    case = read_cohort(path, ("t1", "ct")).cases[0]
    odd = replace(case, case_id="b", extra={"site": "\ud800"})  # half of a character: no UTF-8
    write_cohort(path, ("t1", "ct"), [case] * 2000 + [odd])
    lines = path.read_text().splitlines()
    assert len(lines) == 2002
    assert lines[-1].endswith(r"\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.csv"]
