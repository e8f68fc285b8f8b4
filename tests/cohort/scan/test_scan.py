"""From trees of files to tables: real DICOM made here, the sarcoma patients as the archive gave them, NIfTI trees."""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from support.making import stored, uid
from support.scanning import PIXELS, reasons, scanned, series, structures
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.cohort.scan.choose import Naming, Unit
from differseg_med.cohort.scan.rules import parse_rules
from differseg_med.cohort.scan.scan import scan_folder, write_scan
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume

STS_DICOM = Path(__file__).parents[3] / "../shared/data/sts_dicom"
needs_sts = pytest.mark.skipif(not STS_DICOM.is_dir(), reason="shared data are not there")


@needs_sts
def test_the_sarcoma_patients_are_found_whole(tmp_path):
    done = CliRunner().invoke(app, ["cohort", "scan", str(STS_DICOM), "--out", str(tmp_path / "cohort.csv")])
    assert done.exit_code == 0, done.output
    cohort = read_cohort(tmp_path / "cohort.csv", ("t1", "ct", "pet"))
    assert [case.case_id for case in cohort.cases] == ["case_001", "case_002", "case_003"]
    for case, name in zip(cohort.cases, ("STS_025", "STS_041", "STS_042")):
        assert {m: cell.parent.name for m, cell in case.images.items()} == {"t1": "MR_T1", "ct": "CT", "pet": "PET"}
        assert all(name in cell.parts for cell in case.images.values())
        assert str(case.label).endswith(f"{name}/MR_T1/mask/RS.dcm::GTV_Mass_MR_T1")
    rows = list(csv.DictReader((tmp_path / "audit.csv").open()))
    assert len(rows) == 18
    assert {row["level"] for row in rows} == {"ok"}
    assert sum(row["reason"].startswith("used as") for row in rows) == 12
    page = (tmp_path / "audit.html").read_text()
    assert "3 cases" in page
    assert "http" not in page.replace("http-equiv", "")


@needs_sts
def test_cells_of_a_scan_read_to_the_published_mask(tmp_path):
    scan = scanned(STS_DICOM / "STS_025", roi="mr_t1")
    write_scan(scan, tmp_path / "cohort.csv")
    case = read_cohort(tmp_path / "cohort.csv", scan.modalities).cases[0]
    mask = np.asarray(load_label(case.label, tuple(case.images.values()))[0])
    known = nib.load(STS_DICOM.parent / "sts/STS_025/mask.nii.gz")
    assert mask.sum() == np.asarray(known.dataobj).sum()
    assert load_volume(case.images["pet"]).shape[1:] == nib.load(STS_DICOM.parent / "sts/STS_025/pet.nii.gz").shape


def test_a_tilted_ct_is_taken_on_request(tmp_path):
    def tilt(folder):
        series(folder, "head", "CT")
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            x, y, z = map(float, dataset.ImagePositionPatient)
            dataset.ImagePositionPatient = [x, y + 0.2 * z, z]
            dataset.save_as(path)

    tilt(tmp_path / "p1" / "a")
    series(tmp_path / "p1" / "hole", "hole", "CT", drop=[2])
    scan = scanned(tmp_path)
    assert scan.cases == ()
    assert "PATH::+resample" in reasons(scan)["head"][1]
    (case,) = scanned(tmp_path, resample=True).cases
    assert case.images["ct"] == tmp_path / "p1" / "a::+resample"
    found = CliRunner().invoke(
        app, ["cohort", "scan", str(tmp_path), "--out", str(tmp_path / "out" / "cohort.csv"), "--resample"]
    )
    assert found.exit_code == 0, found.output
    rows = {row["series"][:4]: row for row in csv.DictReader((tmp_path / "out" / "audit.csv").open())}
    assert (rows["head"]["level"], rows["head"]["cell"]) == ("warning", "../p1/a::+resample")
    assert "will be interpolated: the slices are tilted" in rows["head"]["reason"]
    assert (rows["hole"]["level"], rows["hole"]["cell"]) == ("error", "")
    cell = read_cohort(tmp_path / "out" / "cohort.csv", ("ct",)).cases[0].images["ct"]
    assert load_volume(cell).shape[3] == len(PIXELS)


def test_a_regular_series_is_preferred_to_one_that_needs_interpolation(tmp_path):
    tilted, straight = tmp_path / "a", tmp_path / "b"
    series(tilted, "thin", "CT", pixels=stored((8, 12, 16)))
    for path in tilted.iterdir():
        dataset = pydicom.dcmread(path)
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + 0.2 * z, z]
        dataset.save_as(path)
    series(straight, "thick", "CT")
    (case,) = scanned(tmp_path, resample=True).cases
    assert case.images == {"ct": straight}


def test_what_nobody_wants_is_no_error(tmp_path):
    series(tmp_path / "a", "head", "CT")
    series(tmp_path / "b", "Exam Summary", "CT", ImagePositionPatient=None)
    assert reasons(scanned(tmp_path))["Exam Summary"] == ("ok", "ignored by a rule")


def test_phases_of_one_series_are_told_apart_by_rules(tmp_path):
    """Arterial, venous and delayed phase in one series: only those who know the protocol can say which is which."""
    folder = tmp_path / "a"
    for phase in range(3):
        series(folder, "liver 3 phases", "CT", pixels=PIXELS + phase)
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            if "AcquisitionNumber" not in dataset:
                dataset.AcquisitionNumber, dataset.SOPInstanceUID = phase + 1, uid(phase, dataset.SOPInstanceUID)
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.save_as(path)
    scan = scanned(tmp_path)
    assert [str(case.images["ct"])[-2:] for case in scan.cases] == ["#1"]
    level, reason = reasons(scan)["liver 3 phases, AcquisitionNumber 1"]
    assert level == "warning"
    assert "so could be liver 3 phases, AcquisitionNumber 2 (CT, 6 " in reason
    names = ("ct_arterial", "ct_venous", "ct_delayed")
    rules = [{"name": name, "modality": "CT", "where": {"PartNumber": n}} for n, name in enumerate(names, 1)]
    (case,) = scan_folder(tmp_path, parse_rules({"modalities": rules})).cases
    for phase, name in enumerate(names):
        assert load_volume(case.images[name])[0, 3, 4, 2] == PIXELS[2, 4, 3] + phase - 1024


def test_an_mr_study_is_sorted_into_modalities(tmp_path):
    series(tmp_path / "a", "t1_tse_tra", EchoTime="10", pixels=stored((5, 12, 16)))
    series(tmp_path / "b", "t1_tse_tra_KM", pixels=stored((7, 8, 8)))
    series(tmp_path / "c", "t2_tse_tra")
    series(tmp_path / "d", "localizer")
    series(tmp_path / "e", "vessel thing")
    scan = scanned(tmp_path)
    (case,) = scan.cases
    assert {m: cell.name for m, cell in case.images.items()} == {"t1c": "b", "t1": "a", "t2": "c"}
    assert case.label is None
    assert case.extra == {"scanner": "ACME Scanner 3"}
    found = reasons(scan)
    assert found["t1_tse_tra"] == ("ok", "used as t1")
    assert found["localizer"] == ("ok", "ignored by a rule")
    assert found["vessel thing"] == ("warning", "no rule fits")


def test_a_series_with_an_error_gets_no_cell(tmp_path):
    series(tmp_path / "a", "t1_tra")
    series(tmp_path / "b", "t2_tra", drop=[3])
    scan = scanned(tmp_path)
    assert list(scan.cases[0].images) == ["t1"]
    level, reason = reasons(scan)["t2_tra"]
    assert level == "error"
    assert "missing" in reason
    assert str(tmp_path) not in reason


def test_ties_take_the_larger_series_and_are_listed(tmp_path):
    series(tmp_path / "a", "t1 short", pixels=stored((4, 12, 16)))
    series(tmp_path / "b", "t1 long", pixels=stored((9, 12, 16)))
    scan = scanned(tmp_path)
    assert scan.cases[0].images["t1"].name == "b"
    found = reasons(scan)
    assert found["t1 long"][0] == found["t1 short"][0] == "warning"
    assert "but so could be t1 short" in found["t1 long"][1]
    assert "fits t1 equally" in found["t1 short"][1]


def test_an_earlier_rule_is_no_tie(tmp_path):
    series(tmp_path / "a", "t1 sag", SliceThickness="1")
    series(tmp_path / "b", "t1 tra", pixels=stored((9, 12, 16)))
    thin = {"name": "t1", "description": "t1", "where": {"SliceThickness": "< 2"}}
    rules = parse_rules({"modalities": [thin, {"name": "t1", "description": "t1"}]})
    scan = scanned(tmp_path, rules=rules)
    assert scan.cases[0].images["t1"].name == "a"
    assert {source.level for _, source in scan.audit} == {"ok"}


def test_ids_never_come_from_the_patient(tmp_path):
    series(tmp_path / "tree" / "z", "t1", patient="Smith123", study="S1")
    series(tmp_path / "tree" / "a", "t1", patient="Jones456", study="S2")
    write_scan(scanned(tmp_path / "tree"), tmp_path / "out" / "cohort.csv")
    table = {case.case_id: case for case in read_cohort(tmp_path / "out" / "cohort.csv", ("t1",)).cases}
    assert {name: case.images["t1"].name for name, case in table.items()} == {"case_001": "a", "case_002": "z"}
    for file in (tmp_path / "out").iterdir():
        text = file.read_text()
        assert not [word for word in ("Smith", "Jones", "Name^", "Hospital") if word in text]


def test_examinations_of_one_patient_share_a_subject(tmp_path):
    series(tmp_path / "p" / "2019", "t1", study="S1")
    series(tmp_path / "p" / "2020", "t1", study="S2")
    series(tmp_path / "q", "t1", patient="P2", study="S3")
    scan = scanned(tmp_path)
    assert [(c.case_id, c.subject_id) for c in scan.cases] == [
        ("case_001_1", "case_001"),
        ("case_001_2", "case_001"),
        ("case_002", "case_002"),
    ]


def test_a_patient_can_be_one_case(tmp_path):
    series(tmp_path / "mr", "t1", study="S1")
    series(tmp_path / "petct", "WB", modality="CT", study="S2")
    scan = scanned(tmp_path, unit=Unit.PATIENT)
    (case,) = scan.cases
    assert list(case.images) == ["t1", "ct"]
    assert reasons(scan)["WB"][1].startswith("used as ct; its frame of reference is not that of t1")
    assert len(scanned(tmp_path).cases) == 2


def test_folders_can_name_the_cases(tmp_path):
    series(tmp_path / "STS_007" / "MR", "t1")
    series(tmp_path / "STS_008" / "MR", "t1", patient="P2", study="S2")
    assert [case.case_id for case in scanned(tmp_path, naming=Naming.FOLDER).cases] == ["STS_007", "STS_008"]


def test_folders_that_hold_two_patients_cannot_name_them(tmp_path):
    series(tmp_path / "export" / "1", "t1")
    series(tmp_path / "export" / "2", "t1", patient="P2", study="S2")
    with pytest.raises(CaseError, match="do not tell the patients apart"):
        scanned(tmp_path, naming=Naming.FOLDER)


def test_of_several_structures_the_one_drawn_on_the_reference_is_taken(tmp_path):
    t1 = series(tmp_path / "mr", "t1")
    ct = series(tmp_path / "ct", "WB", modality="CT")
    structures(tmp_path / "1.dcm", "GTV", reference_series=ct)
    structures(tmp_path / "2.dcm", "GTV", reference_series=t1)
    scan = scanned(tmp_path)
    assert scan.cases[0].label == tmp_path / "2.dcm::GTV"


def test_two_regions_of_one_name_are_offered_by_number(tmp_path):
    reference_series = series(tmp_path / "t1", "t1 mprage")
    structures(tmp_path / "rs.dcm", "Lesion01", "Lesion01", "1", reference_series=reference_series)
    scan = scanned(tmp_path, roi="lesion")
    assert scan.cases[0].label is None
    cells = [source.cell for _, source in scan.audit if source.roi == "Lesion01"]
    assert cells == [f"{tmp_path / 'rs.dcm'}::{number}" for number in ("#1", "2")]
    assert "2 candidates for the label (Lesion01 (#1), Lesion01 (2))" in str(scan.audit)


def test_several_candidates_for_the_label_are_listed_not_guessed(tmp_path):
    t1 = series(tmp_path / "mr", "t1")
    structures(tmp_path / "rs.dcm", "GTV", "Bladder", "GTV_node", reference_series=t1)
    scan = scanned(tmp_path)
    assert scan.cases[0].label is None
    listed = [source.reason for _, source in scan.audit if source.role == "label"]
    assert len(listed) == 3
    assert "3 candidates for the label (Bladder, GTV, GTV_node). Choose one with --roi" in listed[0]
    assert scanned(tmp_path, roi="gtv$").cases[0].label == tmp_path / "rs.dcm::GTV"
    assert scanned(tmp_path, roi="gtv").cases[0].label is None


def test_the_label_cell_of_a_structure_can_be_read(tmp_path):
    t1 = series(tmp_path / "tree" / "mr", "t1")
    structures(tmp_path / "tree" / "rs.dcm", "GTV", "Bladder", reference_series=t1)
    write_scan(scanned(tmp_path / "tree", roi="GTV"), tmp_path / "cohort.csv")
    case = read_cohort(tmp_path / "cohort.csv", ("t1",)).cases[0]
    mask = np.asarray(load_label(case.label, tuple(case.images.values()))[0])
    assert mask.shape == load_volume(case.images["t1"]).shape[1:]
    # A square over columns 2 to 8, rows 2 to 7 of the third slice: at least the voxels inside it, none elsewhere.
    columns, rows, planes = np.nonzero(mask)
    assert set(planes) == {2}
    assert (columns.min() >= 2, columns.max() <= 8, rows.min() >= 2, rows.max() <= 7) == (True,) * 4
    assert 5 * 4 <= mask.sum() <= 7 * 6


def test_a_zip_archive_is_a_tree_too(tmp_path):
    series(tmp_path / "x" / "mr", "t1", pixels=stored((5, 12, 16)))
    series(tmp_path / "x" / "ct", "WB", modality="CT")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for file in (tmp_path / "x").rglob("IM*"):
            archive.write(file, file.relative_to(tmp_path / "x"))
    shutil.rmtree(tmp_path / "x")
    (case,) = scanned(tmp_path).cases
    assert load_volume(case.images["t1"]).shape == (1, 16, 12, 5)


def test_damaged_dicom_files_and_archives_are_named(tmp_path):
    series(tmp_path / "ct", "WB", modality="CT")
    whole = next((tmp_path / "ct").iterdir()).read_bytes()
    (tmp_path / "ct" / "IM_CUT").write_bytes(whole[:300])
    (tmp_path / "t1.zip").write_bytes(b"PK\3\4" + bytes(100))
    found = {source.series: source.reason for _, source in scanned(tmp_path).audit if source.level == "error"}
    assert found.keys() == {"IM_CUT", "t1.zip"}
    assert found["t1.zip"] == "the archive is damaged"


def test_columns_can_be_chosen_and_ordered(tmp_path):
    series(tmp_path / "mr", "t1")
    series(tmp_path / "ct", "WB", modality="CT")
    series(tmp_path / "other", "t2", patient="P2", study="S2")
    scan = scanned(tmp_path, modalities=["ct", "t1"])
    write_scan(scan, tmp_path / "out" / "cohort.csv")
    assert table_modalities(tmp_path / "out" / "cohort.csv") == ("ct", "t1")
    assert len(scan.cases) == 1
    with pytest.raises(CaseError, match="no case has 'flair'"):
        scanned(tmp_path, modalities=["flair"])


def test_chosen_modalities_decide_which_label_is_taken(tmp_path):
    """Of two RTSTRUCTs the one drawn on the CT, and the CT's scanner, once only the CT is asked for."""
    mr = series(tmp_path / "mr", "t1", Manufacturer="MR maker")
    ct = series(tmp_path / "ct", "WB", modality="CT", Manufacturer="CT maker")
    structures(tmp_path / "rs_mr.dcm", "GTV", reference_series=mr)
    structures(tmp_path / "rs_ct.dcm", "GTV", reference_series=ct)
    whole, only = scanned(tmp_path), scanned(tmp_path, modalities=["ct"])
    assert (whole.modalities[0], only.modalities) == ("t1", ("ct",))
    assert "rs_mr" in str(whole.cases[0].label)
    assert "rs_ct" in str(only.cases[0].label)
    assert only.cases[0].extra["scanner"].startswith("CT maker")
    assert reasons(only)["t1"] == ("ok", "not used: ct were asked for")


def test_an_empty_folder_and_one_without_images_are_told(tmp_path):
    with pytest.raises(CaseError, match="no DICOM, NIfTI"):
        scanned(tmp_path)
    series(tmp_path / "us", "thing", modality="CT", Modality="US")
    run = CliRunner().invoke(app, ["cohort", "scan", str(tmp_path), "--out", str(tmp_path / "out/cohort.csv")])
    assert run.exit_code == 1
    assert "no rule fits" in run.output
    assert (tmp_path / "out" / "audit.csv").is_file()
