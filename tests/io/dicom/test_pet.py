"""PET in SUV by body weight: factors computed by hand, and a refusal wherever an attribute is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose
from pydicom.dataset import Dataset
from support.making import enhanced, save, slices, stored

from differseg_med.errors import CaseError
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.dicom.reader import read_volume

VALUES = stored().transpose(2, 1, 0)
WEIGHT, DOSE, HALF_LIFE = 80.0, 370e6, 6586.2
ADMIN = WEIGHT * 1000 / DOSE  # SUV per Bq/ml without decay


def pet(folder, drug: dict[str, Any] | None = None, remove: str = "", **tags: Any):
    """A PET series in Bq/ml, one hour after injection; ``drug`` and ``tags`` change it."""
    injected = {"RadionuclideTotalDose": f"{DOSE:.9g}", "RadionuclideHalfLife": f"{HALF_LIFE}"}
    injected |= {"RadiopharmaceuticalStartTime": "110000.00"} | (drug or {})
    values = {"Units": "BQML", "DecayCorrection": "START", "PatientWeight": f"{WEIGHT}"}
    values |= {"CorrectedImage": ["ATTN", "DECY"], "SeriesDate": "20260301", "SeriesTime": "120000"}
    values |= {"AcquisitionDate": "20260301", "AcquisitionTime": "120000", "RescaleSlope": "2", "RescaleIntercept": "0"}
    values |= tags

    def change(dataset: Dataset, number: int) -> None:
        item = Dataset()
        for name, value in injected.items():
            if value is not None and name != remove:
                setattr(item, name, value)
        dataset.RadiopharmaceuticalInformationSequence = [item]
        for name, value in values.items():
            if name != remove:
                setattr(dataset, name, value)

    return save(folder, slices(modality="PT", change=change))


def decayed(seconds: float) -> float:
    return ADMIN / 0.5 ** (seconds / HALF_LIFE)


@pytest.mark.parametrize(
    ("drug", "tags", "factor"),
    [
        ({}, {}, decayed(3600)),
        ({}, {"DecayCorrection": "ADMIN"}, ADMIN),
        ({}, {"Units": "GML"}, 1.0),
        # Injected before midnight, scanned after it; only clock times are given.
        (
            {"RadiopharmaceuticalStartTime": "233000"},
            {"SeriesTime": "003000", "AcquisitionTime": "003000"},
            decayed(3600),
        ),
        # The date and time of the injection beat the clock.
        ({"RadiopharmaceuticalStartDateTime": "20260301103000"}, {}, decayed(5400)),
        # Dates shifted apart by de-identification: the clock must do.
        ({"RadiopharmaceuticalStartDateTime": "19990101110000"}, {}, decayed(3600)),
        # The series was reconstructed later: the acquisition counts, moved back by FrameReferenceTime.
        ({}, {"SeriesTime": "170000"}, decayed(3600)),
        ({}, {"SeriesDate": "20260305"}, decayed(3600)),
        # A FrameReferenceTime of 0 says nothing: some scanners write it for every bed position.
        ({}, {"SeriesTime": "170000", "FrameReferenceTime": "0", "ActualFrameDuration": "180000"}, decayed(3600)),
        ({"RadiopharmaceuticalStartTime": "110000.5"}, {}, decayed(3599.5)),
        ({}, {"CorrectedImage": None}, decayed(3600)),
    ],
)
def test_suv_by_hand(tmp_path, drug, tags, factor):
    volume = read_volume(pet(tmp_path, drug, **tags))
    assert_allclose(volume.data, VALUES * 2 * factor, rtol=1e-6)
    assert bool(volume.notes) == (tags.get("Units") != "GML")


def test_a_frame_later_than_the_scan(tmp_path):
    """A bed position of 180 s that began 600 s into the scan: decay is corrected to the scan's start all the same."""
    rate = np.log(2) / HALF_LIFE
    average = np.log(rate * 180 / (1 - np.exp(-rate * 180))) / rate  # when the mean count rate within the frame was
    volume = read_volume(
        pet(
            tmp_path,
            SeriesTime="170000",
            AcquisitionTime="121000",
            FrameReferenceTime=f"{(600 + average) * 1000:.6f}",
            ActualFrameDuration="180000",
        )
    )
    assert_allclose(volume.data, VALUES * 2 * decayed(3600), rtol=1e-6)


def test_bed_positions_are_corrected_to_the_start_of_the_first(tmp_path):
    """Each bed position has its own AcquisitionTime, and the series was written in the middle of the scan."""
    folder = pet(tmp_path, SeriesTime="120400")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionTime = f"12{(dataset.InstanceNumber - 1) * 3:02d}00"
        dataset.save_as(path)
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("PatientWeight", "PatientWeight missing"),
        ("RadionuclideTotalDose", "RadionuclideTotalDose missing"),
        ("RadionuclideHalfLife", "RadionuclideHalfLife missing"),
        ("RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartTime missing"),
        ("DecayCorrection", "DecayCorrection START or ADMIN missing"),
        ("Units", "expected Units GML, BQML or CNTS, found none"),
    ],
)
def test_what_is_missing_is_named(tmp_path, remove, words):
    folder = pet(tmp_path, remove=remove)
    with pytest.raises(CaseError, match="SUV") as caught:
        read_volume(folder)
    assert words in str(caught.value)
    assert "convert it to SUV with the scanner's software" in str(caught.value)
    assert words in str(index_folder(folder)[0].problem)  # the scan says so before anybody trains


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Units": "GML", "SUVType": "LBM"}, "not by body weight"),
        ({"Units": "PROPCNTS"}, "units from which SUV cannot be computed"),
        ({"CorrectedImage": ["ATTN"]}, "not corrected for decay"),
        ({"PatientWeight": "0"}, "PatientWeight missing"),
        (
            {"PatientWeight": "80000"},
            r"PatientWeight of the PET cannot be right \(expected 0.005 to 700 kg, found 80000\)",
        ),
        ({"DecayCorrection": "NONE"}, "DecayCorrection START or ADMIN missing"),
    ],
)
def test_other_units_and_corrections_are_refused(tmp_path, tags, words):
    with pytest.raises(CaseError, match=words):
        read_volume(pet(tmp_path, **tags))


@pytest.mark.parametrize(("element", "value", "factor"), [(0x00, "0.004", 0.004), (0x09, "3.5", 3.5 * decayed(3600))])
def test_philips_counts(tmp_path, element, value, factor):
    def change(dataset: Dataset, number: int) -> None:
        dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", value)

    folder = pet(tmp_path, Units="CNTS")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        change(dataset, 0)
        dataset.save_as(path)
    assert_allclose(read_volume(folder).data, VALUES * 2 * factor, rtol=1e-6)


def test_the_scan_time_of_ge(tmp_path):
    """Reconstructed again in the evening: (0009,100D) says when the scan began, whatever VR an archive gave it."""
    folder = pet(tmp_path, SeriesTime="200000", AcquisitionTime="123000")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "UN", b"20260301120000.00 ")
        dataset.save_as(path)
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)


def test_a_dose_in_mbq_is_not_taken_for_bq(tmp_path):
    with pytest.raises(CaseError, match=r"RadionuclideTotalDose .* cannot be right .*100000 to 1e\+11 Bq, found 370"):
        read_volume(pet(tmp_path, {"RadionuclideTotalDose": "370"}))


def test_philips_counts_without_factors(tmp_path):
    with pytest.raises(CaseError, match=r"\(7053,1000\) or \(7053,1009\)"):
        read_volume(pet(tmp_path, Units="CNTS"))


@pytest.mark.parametrize(("unit", "factor"), [("Bq/ml", decayed(1800)), ("g/ml{SUVbw}", 1.0)])
def test_enhanced_pet(tmp_path, unit, factor):
    dataset = enhanced(slope=[2.0] * 6)
    dataset.Modality = "PT"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.130"
    dataset.DecayCorrected, dataset.DecayCorrectionDateTime = "YES", "20260301113000"
    dataset.PatientWeight = f"{WEIGHT}"
    drug, mapping, code = Dataset(), Dataset(), Dataset()
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = f"{DOSE:.9g}", f"{HALF_LIFE}"
    drug.RadiopharmaceuticalStartDateTime = "20260301110000"
    dataset.RadiopharmaceuticalInformationSequence = [drug]
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    mapping.MeasurementUnitsCodeSequence = [code]
    dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [mapping]
    assert_allclose(read_volume(save(tmp_path, [dataset])).data, VALUES * 2 * factor, rtol=1e-6)
