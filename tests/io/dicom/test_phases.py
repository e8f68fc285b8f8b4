"""Echoes, b-values, phases and orientations that share a series are parts of it, each one volume."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.making import COLUMNS, ORIGIN, ROWS, SLICES, STEP, assert_refused, ds, enhanced, save, slices, stored, uid

from differseg_med.io.dicom.reader import read_volume

VALUES = stored().transpose(2, 1, 0).astype(np.float32)  # (column, row, slice)


def phases(keyword: str, values: list[object]) -> list:
    made = []
    for turn, value in enumerate(values):
        for dataset in slices(stored(seed=turn), series="phases"):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(turn, dataset.SOPInstanceUID)
            setattr(dataset, keyword, value)
            made.append(dataset)
    return made


@pytest.mark.parametrize(
    ("keyword", "values", "words"),
    [
        ("EchoTime", ["4.6", "2.3", "6.9"], ["#1 EchoTime 2.3", "#2 EchoTime 4.6", "#3 EchoTime 6.9"]),
        ("AcquisitionNumber", [3, 1, 2], ["#1 AcquisitionNumber 1"]),
        ("TemporalPositionIdentifier", [2, 1, 3], ["TemporalPositionIdentifier 3"]),
        ("ImageType", [["ORIGINAL", "PRIMARY", kind] for kind in "WFI"], ["ORIGINAL\\PRIMARY\\F"]),
        ("NominalPercentageOfCardiacPhase", [40.0, 5.0, 75.0], ["#1 NominalPercentageOfCardiacPhase 5"]),
        ("AcquisitionTime", ["100000", "100130", "100300"], ["AcquisitionTime 100000"]),
    ],
)
def test_three_volumes_in_one_series_are_split(tmp_path, keyword, values, words):
    folder = save(tmp_path, phases(keyword, values))
    assert_refused(folder, "the series holds 3 volumes", *words, f"PATH::{uid('series', 'phases')}#1")
    order = sorted(range(3), key=lambda turn: float(values[turn]) if keyword == "EchoTime" else values[turn])
    for number, turn in enumerate(order, 1):
        part = read_volume(f"{folder}::#{number}")
        assert_array_equal(part.data, stored(seed=turn).transpose(2, 1, 0) - 1024.0)
    assert_refused(f"{folder}::#4", "no such part", "#1 to #3")


def test_diffusion_is_split_by_b_value_and_direction(tmp_path):
    made = phases("DiffusionBValue", [0.0, 1000.0, 1000.0])
    for dataset in made[SLICES:]:
        turn = 1 if made.index(dataset) < 2 * SLICES else 2
        dataset.DiffusionGradientOrientation = [1.0, 0, 0] if turn == 1 else [0, 1.0, 0]
    assert_refused(
        save(tmp_path, made),
        "holds 3 volumes",
        "#1 DiffusionBValue 0, DiffusionGradientOrientation absent",
        "1000, DiffusionGradientOrientation 1\\0\\0",
    )


def test_times_that_run_on_from_slice_to_slice_tell_phases_apart(tmp_path):
    made = phases("AcquisitionNumber", [1, 1])
    for number, dataset in enumerate(made):
        dataset.AcquisitionTime = f"1000{number:02d}"
    folder = save(tmp_path, made)
    assert_refused(folder, "#1 1 of 2 by AcquisitionTime")
    assert_array_equal(read_volume(f"{folder}::#2").data, stored(seed=1).transpose(2, 1, 0) - 1024.0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_phases_that_only_their_numbers_tell_apart_are_split_with_a_doubt(tmp_path, interleaved):
    made = phases("StudyID", ["x"] * 3)
    for index, dataset in enumerate(made):
        turn, number = divmod(index, SLICES)
        dataset.InstanceNumber = 1 + (number * 3 + turn if interleaved else index)
        if number == 0:  # the air above the patient, the same in all phases
            dataset.PixelData = bytes(len(dataset.PixelData))
    folder = save(tmp_path, made)
    assert_refused(folder, "the series holds 3 volumes", "#2 2 of 3 by InstanceNumber")
    part = read_volume(f"{folder}::#2")
    assert_array_equal(part.data[..., 1:], stored(seed=1).transpose(2, 1, 0)[..., 1:] - 1024.0)
    assert "nothing but InstanceNumber" in part.notes[0]
    made[4].InstanceNumber, made[14].InstanceNumber = made[14].InstanceNumber, made[4].InstanceNumber
    assert_refused(save(tmp_path / "mixed", made), "no attribute says which belong together")


def test_a_missing_slice_in_one_phase_is_found(tmp_path):
    made = phases("EchoTime", ["1", "2"])
    del made[3]
    folder = save(tmp_path, made)
    assert_refused(f"{folder}::#1", "slices are missing")
    assert read_volume(f"{folder}::#2").grid.shape == (COLUMNS, ROWS, SLICES)


def test_a_localizer_is_split_by_orientation(tmp_path):
    made = []
    for turn, angles in enumerate([(0, 0, 0), (0, 0, 90), (0, 90, 0)]):
        for dataset in slices(angles=angles, series="localizer")[:3]:
            dataset.SOPInstanceUID = uid(turn, dataset.SOPInstanceUID)
            made.append(dataset)
    assert_refused(
        save(tmp_path, made), "holds 3 volumes", "3 axial slices of 40 x 36", "3 coronal slices", "3 sagittal slices"
    )


def test_different_matrices_in_one_series(tmp_path):
    small = slices(stored((3, 20, 24)), series="series")
    for dataset in small:
        dataset.SOPInstanceUID = uid("small", dataset.SOPInstanceUID)
    assert_refused(save(tmp_path, [*slices(), *small]), "6 axial slices of 40 x 36", "3 axial slices of 24 x 20")
    assert read_volume(f"{tmp_path}::#1").grid.shape in ((40, 36, 6), (24, 20, 3))


def test_enhanced_frames_in_any_order_and_echoes(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    positions = np.array([ORIGIN + np.array([0, 0, STEP * k]) for k in order])
    pixels = np.concatenate([stored()[order], stored(seed=1)[order]])
    echo = [10.0] * 6 + [80.0] * 6
    folder = save(tmp_path, [enhanced(pixels, position=np.concatenate([positions, positions]), echo=echo)])
    assert_refused(folder, "holds 2 volumes", "EchoTime 10", "EchoTime 80")
    assert_array_equal(read_volume(f"{folder}::#1").data, VALUES)
    assert_array_equal(read_volume(f"{folder}::#2").data, stored(seed=1).transpose(2, 1, 0))


def test_a_picture_in_the_series_is_no_slice_of_it(tmp_path):
    picture = slices()[0]
    picture.SOPClassUID = picture.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    picture.SOPInstanceUID = uid("picture")
    del picture.ImagePositionPatient
    folder = save(tmp_path, [*slices(), picture])
    assert_refused(
        folder, "holds 2 volumes", "#1 CT Image Storage", "#2 Secondary Capture Image Storage (cannot be used)"
    )
    assert_array_equal(read_volume(f"{folder}::#1").data, VALUES - 1024)


def test_phases_a_little_apart_are_split(tmp_path):
    made = phases("ContentTime", ["100000", "110000"])
    for dataset in made[SLICES:]:
        place = np.array(dataset.ImagePositionPatient, float)
        dataset.ImagePositionPatient = ds(place + np.array([0, 0, 0.7]))
    assert_refused(save(tmp_path, made), "holds 2 volumes", "#1 ContentTime 100000")


def test_two_stacks_with_a_gap_are_one_series_with_missing_slices(tmp_path):
    made = slices()
    del made[2:4]
    for number, dataset in enumerate(made):
        dataset.AcquisitionNumber = 1 if number < 2 else 2
    assert_refused(save(tmp_path, made), "slices are missing", "2 between -307.75 and -300.25 mm")
