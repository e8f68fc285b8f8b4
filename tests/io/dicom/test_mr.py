"""MR as scanners store it: private macros and b-values, and time series that only their numbers tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from support.making import SLICES, STEP, affine_lps, ds, enhanced, ras, save, slices, stored

from differseg_med.errors import CaseError
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.dicom.reader import read_volume

VOLUMES = stored((3, SLICES, 12, 10))  # (volume, slice, row, column)


def series_of_volumes(folder: Path, numbers: np.ndarray, change=None) -> Path:
    """Three volumes at the same positions, with InstanceNumbers (volume, slice); ``change`` gets volume and slice."""

    def changed(volume: int):
        def each(dataset, number):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{volume + 1}.{number + 1}"
            dataset.InstanceNumber = int(numbers[volume, number])
            if change is not None:
                change(dataset, volume, number)

        return each

    datasets = [d for v, pixels in enumerate(VOLUMES) for d in slices(pixels, modality="MR", change=changed(v))]
    return save(folder, datasets)


def test_a_private_macro_with_positions_of_its_own_moves_nothing(tmp_path):
    dataset = enhanced()
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        private = Dataset()  # as Philips writes it: positions half a pixel aside
        private.ImagePositionPatient = ds(np.array([-40.375, 24.75, -310.25 + STEP * number]))
        frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(
            0x0F, "SQ", DicomSequence([private])
        )
    assert_allclose(read_volume(save(tmp_path, [dataset])).grid.affine, ras(affine_lps()), atol=1e-6)


@pytest.mark.parametrize(
    ("creator", "group", "element", "vr", "values"),
    [
        ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", ["0", "50", "1000"]),
        ("Philips Imaging DD 001", 0x2001, 0x03, "FL", [0.0, 50.0, 1000.0]),
        (
            "GEMS_PARM_01",
            0x0043,
            0x39,
            "IS",
            [["0", "8", "0", "0"], ["50", "8", "0", "0"], ["1000001000", "8", "0", "0"]],
        ),
    ],
)
def test_private_b_values_are_the_standard_one(tmp_path, creator, group, element, vr, values):
    def b_value(dataset, volume, number):
        dataset.private_block(group, creator, create=True).add_new(element, vr, values[volume])

    series_of_volumes(tmp_path, np.arange(1, 3 * SLICES + 1).reshape(3, SLICES), b_value)
    entries = index_folder(tmp_path)
    assert [entry.tags["DiffusionBValue"] for entry in entries] == [0, 50, 1000]
    assert [entry.tags["Part"] for entry in entries] == [f"DiffusionBValue {b}" for b in (0, 50, 1000)]
    assert_array_equal(read_volume(entries[2].cell).data, VOLUMES[2].T)


def test_philips_trace_images_are_isotropic(tmp_path):
    def direction(dataset, volume, number):
        block = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", 1000.0 if volume else 0.0)
        block.add_new(0x04, "CS", "OOI"[volume])

    series_of_volumes(tmp_path, np.arange(1, 3 * SLICES + 1).reshape(3, SLICES), direction)
    tags = [entry.tags for entry in index_folder(tmp_path)]
    assert [(each["DiffusionBValue"], each.get("DiffusionDirectionality")) for each in tags] == [
        (0, None),
        (1000, None),
        (1000, "ISOTROPIC"),
    ]


@pytest.mark.parametrize("order", ["volume by volume", "position by position"])
def test_numbers_tell_volumes_apart_where_nothing_else_does(tmp_path, order):
    numbers = np.arange(1, 3 * SLICES + 1)
    numbers = numbers.reshape(3, SLICES) if order.startswith("volume") else numbers.reshape(SLICES, 3).T
    series_of_volumes(tmp_path, numbers)
    entries = index_folder(tmp_path)
    assert [entry.tags["Part"] for entry in entries] == [f"{n} of 3 by InstanceNumber" for n in (1, 2, 3)]
    for entry, volume in zip(entries, VOLUMES):
        assert_array_equal(read_volume(entry.cell).data, volume.T)


def test_numbers_with_an_exception_tell_nothing(tmp_path):
    numbers = np.arange(1, 3 * SLICES + 1).reshape(3, SLICES)
    numbers[0, 3], numbers[1, 4] = numbers[1, 4], numbers[0, 3]
    with pytest.raises(CaseError, match="no attribute says which belong together"):
        read_volume(series_of_volumes(tmp_path, numbers))


def test_numbers_do_not_mix_b_values(tmp_path):
    def b_value(dataset, volume, number):  # the first image of one slice is weighted, of the others it is not
        dataset.DiffusionBValue = 1000.0 if (volume == 0) == (number == 0) else 0.0

    with pytest.raises(CaseError, match="no attribute says which belong together"):
        read_volume(series_of_volumes(tmp_path, np.arange(1, 3 * SLICES + 1).reshape(SLICES, 3).T, b_value))


def test_mosaics_of_united_imaging_are_refused_with_a_remedy(tmp_path):
    def mosaic(dataset, number):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
        del dataset.ImagePositionPatient

    with pytest.raises(CaseError, match="side by side, as United Imaging stores them: convert it with dcm2niix"):
        read_volume(save(tmp_path, slices(modality="MR", change=mosaic)))
