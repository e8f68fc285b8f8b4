"""The index of a tree: one entry per volume and label, with a cell that reads, and no patient in it."""

from __future__ import annotations

import gzip
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import MediaStorageDirectoryStorage
from support.making import ORIGIN, SLICES, STEP, blank, ds, enhanced, rtstruct, save, slices, stored, uid

from differseg_med.errors import CaseError
from differseg_med.io.dicom.index import index_folder, index_with_skipped
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label

SQUARE = np.array([[-35.0, 30, -305.25], [-25, 30, -305.25], [-25, 40, -305.25], [-35, 40, -305.25]])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """CT and T1 in one folder, two echoes, an RTSTRUCT, rubbish, and a zip with a PET-less copy of the T1."""
    root = tmp_path / "export"
    save(root / "A", [*slices(), *slices(stored(seed=1), modality="MR", series="t1")])
    echoes = []
    for echo in ("5", "80"):
        for dataset in slices(modality="MR", series="echoes"):
            dataset.EchoTime, dataset.SOPInstanceUID = echo, uid(echo, dataset.SOPInstanceUID)
            echoes.append(dataset)
    save(root / "B" / "C", echoes)
    save(root / "RT", [rtstruct({"GTV 1": [SQUARE], "Lung": [SQUARE]}, referenced=uid("series", "series"))])
    made = slices(series="with a hole")
    del made[2]
    save(root / "hole", made)
    (root / "A" / "report.txt").write_text("not DICOM")
    (root / "A" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        for path in sorted(save(tmp_path / "zipped", [*slices(series="z1"), *slices(series="z2")]).iterdir()):
            archive.write(path, f"x/{path.name}")
    return root


def test_entries_of_a_study(study):
    entries, skipped = index_with_skipped(study)
    found = {(e.kind, e.series_uid, e.tags.get("Part", "")): e for e in entries}
    assert [item.source.name for item in skipped] == ["report.txt"]
    ct = found["image", uid("series", "series"), ""]
    assert ct.cell == f"{study / 'A'}::{uid('series', 'series')}"
    assert (ct.files, ct.tags["Modality"], ct.tags["SeriesDescription"], ct.problem) == (6, "CT", "series", None)
    assert ct.tags["ImageOrientationPatient"] == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    first, second = (found["image", uid("series", "echoes"), f"EchoTime {echo}"] for echo in (5, 80))
    assert first.cell == f"{study / 'B' / 'C'}::{uid('series', 'echoes')}#1"
    assert (second.tags["EchoTime"], second.files) == (80.0, 6)
    structures = next(e for e in entries if e.kind == "rtstruct")
    assert structures.tags["ROINames"] == ("GTV 1", "Lung")
    assert structures.tags["ReferencedSeries"] == (ct.series_uid,)
    hole = found["image", uid("series", "with a hole"), ""]
    assert hole.cell == str(study / "hole")  # alone in its folder: no UID needed
    assert "slices are missing" in str(hole.problem)
    damaged = next(e for e in entries if e.kind == "other")
    assert damaged.cell.endswith("cut.dcm")
    assert "damaged DICOM file" in str(damaged.problem)
    assert {e.patient_key for e in entries if e.kind != "other"} == {ct.patient_key}
    assert len({e.frame_uid for e in entries if e.kind == "image"}) == 1


def test_every_cell_without_a_problem_reads(study):
    for entry in index_folder(study):
        if entry.kind == "image" and entry.problem is None:
            assert read_volume(entry.cell).data.shape[2] == 6
        elif entry.kind == "image":
            with pytest.raises(CaseError):
                read_volume(entry.cell)
        elif entry.kind == "rtstruct":
            assert load_label(f"{entry.cell}::GTV 1", [study / f"A::{uid('series', 'series')}"]).sum() > 0


def test_nothing_says_who_the_patient_is(study):
    text = " ".join(str(asdict(entry)) for entry in index_folder(study))
    assert "Doe" not in text
    assert "4711" not in text


def test_enhanced_images_and_progress(tmp_path):
    save(tmp_path, [enhanced(echo=[1, 2, 3, 4, 5, 6])])
    seen = []
    entries = index_folder(tmp_path, progress=lambda files: (seen.append(f) or f for f in files))
    assert len(seen) == 1
    assert [(e.kind, e.files, e.problem) for e in entries] == [("image", 1, None)]


def test_a_thousand_files_in_less_than_twenty_seconds(tmp_path):
    many = np.zeros((1000, 8, 8), np.int16)
    save(tmp_path, slices(many, np.array([[0, 0, 2.0 * k] for k in range(1000)])))
    start = time.process_time()  # other programs on the machine must not decide
    (entry,) = index_folder(tmp_path)
    assert time.process_time() - start < 20
    assert (entry.files, entry.problem) == (1000, None)


def test_a_directory_under_another_name_is_no_damaged_image(tmp_path):
    """Exports of Philips hold a DIRFILE in every folder."""
    folder = save(tmp_path, slices())
    directory = blank(MediaStorageDirectoryStorage, "directory", "CT")
    del directory.SOPClassUID
    directory.save_as(folder / "DIRFILE")
    entries, skipped = index_with_skipped(folder)
    assert [(entry.kind, entry.files) for entry in entries] == [("image", 6)]
    assert [item.reason for item in skipped] == ["a DICOM directory: the files themselves are read instead"]
    assert read_volume(folder).notes == ()


def test_damaged_file_meta_information_is_told(tmp_path):
    path = next(save(tmp_path, slices()[:1]).iterdir())
    path.write_bytes(path.read_bytes().replace(b"\2\0\2\0UI", b"\2\0\2\0U\t"))
    (entry,) = index_folder(tmp_path)
    assert "a damaged DICOM file (NotImplementedError)" in str(entry.problem)


@pytest.mark.parametrize("same_uid", [True, False])
def test_two_patients_are_never_one_volume(tmp_path, same_uid):
    """A tool that gave UIDs anew gave both series one, or none; the slices of one lie right above the others."""

    def above(dataset, number):
        dataset.PatientID, dataset.SOPInstanceUID = "another", uid("another", number)
        dataset.ImagePositionPatient = ds(ORIGIN + np.array([0, 0, STEP * (number + 6)]))

    made = [*slices(), *slices(stored(seed=1), change=above)]
    for dataset in made:
        if not same_uid:
            del dataset.SeriesInstanceUID
    save(tmp_path / "apart" / "a", made[:6])
    save(tmp_path / "apart" / "b", made[6:])
    entries = index_folder(tmp_path / "apart")
    assert [(Path(entry.cell).name, entry.files, entry.problem) for entry in entries] == [
        ("a", 6, None),
        ("b", 6, None),
    ]
    assert (read_volume(entries[1].cell).data == stored(seed=1).transpose(2, 1, 0) - 1024).all()
    folder = save(tmp_path / "together", made)
    assert {"several patients" in str(entry.problem) for entry in index_folder(folder)} == {True}
    for cell in (folder, f"{folder}::{uid('series', 'series')}" if same_uid else folder):
        with pytest.raises(CaseError, match=r"several patients .* a folder of its own"):
            read_volume(cell)


def test_a_label_for_an_image_is_called_by_its_name(tmp_path):
    save(tmp_path, [rtstruct({"GTV": [SQUARE]})])
    with pytest.raises(CaseError, match=r"no DICOM image here \(found an RTSTRUCT, which can be a label\)"):
        read_volume(tmp_path)


def test_nowhere(tmp_path):
    with pytest.raises(CaseError, match="no such file or folder"):
        index_folder(tmp_path / "none")


def test_a_file_packed_with_gzip_is_named(tmp_path):
    folder = save(tmp_path / "a", slices())
    (folder / "one.dcm.gz").write_bytes(gzip.compress(b"x"))
    packed, image = sorted(index_folder(tmp_path), key=lambda entry: entry.kind, reverse=True)
    assert (packed.kind, image.files) == ("other", SLICES)
    assert "one.dcm.gz: packed with gzip: unpack it" in str(packed.problem)


def test_links_that_go_in_circles(tmp_path):
    folder = save(tmp_path / "a", slices())
    (folder / "loop").symlink_to(tmp_path)
    np.testing.assert_array_equal(read_volume(folder).data, stored().transpose(2, 1, 0) - 1024.0)


def test_what_reading_refuses_gets_no_cell(tmp_path):
    """A decimal comma, which is no DICOM, in one slice only."""
    folder = save(tmp_path, slices())
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes().replace(b"\x28\0\x53\x10DS\2\x001 ", b"\x28\0\x53\x10DS\4\x000,5 "))
    (entry,) = index_folder(folder)
    assert f"cannot be right in {path.name} (found ('0,5', -1024.0))" in str(entry.problem)
    with pytest.raises(CaseError, match="0,5"):
        read_volume(folder)


def test_an_instance_number_that_is_text(tmp_path):
    folder = save(tmp_path, slices())
    plain = read_volume(folder)
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes().replace(b"\x20\0\x13\0IS", b"\x20\0\x13\0LO"))
    assert [entry.problem for entry in index_folder(folder)] == [None]
    np.testing.assert_array_equal(read_volume(folder).data, plain.data)


def test_the_slice_without_a_position_is_named(tmp_path):
    made = slices()
    del made[4].ImagePositionPatient
    (entry,) = index_folder(save(tmp_path, made))
    assert "ImagePositionPatient is missing in IM" in str(entry.problem)


def test_an_archive_cut_short_is_told(tmp_path):
    """As an interrupted download leaves it: without the directory at the end, nothing shows that it is an archive."""
    folder = save(tmp_path / "in", slices())
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    (folder / "study.zip").write_bytes(whole.read_bytes()[:2000])
    entries = index_folder(folder)
    assert [(entry.kind, entry.files) for entry in entries if entry.problem is None] == [("image", 6)]
    (problem,) = (entry.problem for entry in entries if entry.problem is not None)
    assert "study.zip: the archive is damaged" in str(problem)
    with pytest.raises(CaseError, match="the archive is damaged"):
        read_volume(folder / "study.zip")
