"""MR examinations of several sequences as scanners send them, from a tree of DICOM to cells of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.making import enhanced, save, slices, stored, uid

from differseg_med.cohort.scan.choose import Scan
from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.scan.scan import scan_folder, write_scan
from differseg_med.io.dicom.reader import read_volume


def sequence(folder: Path, name: str, number: int, pixels: np.ndarray, change=None) -> None:
    def each(dataset, index):
        dataset.SeriesNumber = number
        if change is not None:
            change(dataset, index)

    save(folder / f"{number}", slices(pixels, modality="MR", series=name, change=each))


def scanned(folder: Path) -> Scan:
    return scan_folder(folder, load_rules())


def reasons(scan: Scan) -> dict[str, str]:
    return {source.series: f"{source.level}: {source.reason}" for _, source in scan.audit}


def test_the_sequences_of_an_examination(tmp_path):
    sequence(tmp_path, "t1_mprage_sag_KM", 4, stored((6, 12, 10)))
    sequence(tmp_path, "t2_flair_tra", 3, stored((4, 20, 16)))
    sequence(tmp_path, "localizer", 1, stored((3, 8, 8)), lambda dataset, _: dataset.__delattr__("PixelSpacing"))
    scan = scanned(tmp_path)
    assert scan.modalities == ("t1c", "flair")
    assert reasons(scan) == {
        "t1_mprage_sag_KM (MR, series 4, 6 slices)": "ok: used as t1c",
        "t2_flair_tra (MR, series 3, 4 slices)": "ok: used as flair",
        "localizer (MR, series 1)": "ok: ignored by a rule",
    }


def test_of_two_series_the_one_with_more_slices_however_many_files(tmp_path):
    dataset = enhanced(stored((6, 12, 10)))
    dataset.SeriesDescription = "t1_mprage"
    save(tmp_path / "a", [dataset])
    sequence(tmp_path, "t1_se", 2, stored((4, 12, 10)))
    assert reasons(scanned(tmp_path))["t1_mprage (MR, 6 slices)"].startswith("warning: used as t1, but so could be")


def test_the_trace_is_the_diffusion_image_and_many_directions_are_not_all_named(tmp_path):
    def weighted(direction: int):
        def change(dataset, index):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(direction, index)
            dataset.DiffusionBValue = 1000.0 if direction else 0.0
            dataset.DiffusionGradientOrientation = [np.cos(direction), np.sin(direction), 0.0]

        return change

    for direction in range(6):
        pixels = stored((4, 12, 10), seed=direction)
        save(tmp_path, slices(pixels, modality="MR", series="ep2d_diff", change=weighted(direction)), seed=direction)
    scan = scanned(tmp_path)
    assert scan.modalities == ("dwi", "dwi_low")
    used = next(text for text in reasons(scan).values() if "used as dwi," in text)
    assert (used.count("ep2d_diff"), "and 1 more." in used) == (3, True)

    def trace(dataset, index):
        dataset.DiffusionBValue = 1000.0
        dataset.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]

    sequence(tmp_path, "ep2d_diff_TRACEW", 9, stored((4, 12, 10), seed=9), trace)
    (case,) = scanned(tmp_path).cases
    assert (read_volume(case.images["dwi"]).data == stored((4, 12, 10), seed=9).T).all()
    assert (read_volume(case.images["dwi_low"]).data == stored((4, 12, 10), seed=0).T).all()


def test_the_parts_of_a_series_are_one_warning_of_the_page(tmp_path):
    def repeated(turn: int):
        def change(dataset, index):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid("bold", turn, index)
            dataset.TemporalPositionIdentifier = turn

        return change

    sequence(tmp_path, "t1_mprage", 1, stored((4, 12, 10)))
    sequence(tmp_path, "swi", 2, stored((4, 12, 10)))
    for turn in range(1, 4):
        pixels = stored((4, 12, 10), seed=turn)
        save(tmp_path / "3", slices(pixels, modality="MR", series="bold", change=repeated(turn)), seed=turn)
    write_scan(scanned(tmp_path), tmp_path / "out" / "cohort.csv")
    page = (tmp_path / "out" / "audit.html").read_text()
    warnings = page.split("Warnings (4)")[1].split("Everything that was found")[0]
    assert warnings.count("no rule fits") == 2
    assert "bold, TemporalPositionIdentifier 1 (MR, 4 slices) and 2 more parts of the series: no rule fits" in warnings
