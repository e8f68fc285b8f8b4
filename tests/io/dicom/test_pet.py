"""PET in SUV by body weight: factors computed by hand, and a refusal wherever an attribute is missing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose
from pydicom.dataset import Dataset
from support.making import enhanced, save, slices, stored, uid

from differseg_med.errors import CaseError
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.dicom.reader import read_volume

VALUES = stored().transpose(2, 1, 0)
WEIGHT, DOSE, HALF_LIFE = 80.0, 370e6, 6586.2
ADMIN = WEIGHT * 1000 / DOSE  # SUV per Bq/ml without decay


def pet(folder, drug: dict[str, Any] | None = None, remove: str = "", **tags: Any):
    """A PET series of 18F in Bq/ml, one hour after injection; ``drug`` and ``tags`` change it."""
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
        # The series was reconstructed later: the first acquisition counts, if no slice is missing.
        ({}, {"SeriesTime": "170000", "NumberOfSlices": 6}, decayed(3600)),
        ({}, {"SeriesDate": "20260305", "NumberOfSlices": 6}, decayed(3600)),
        # A SeriesTime long before the scan (zeros of a de-identification) is no start of it.
        ({}, {"SeriesTime": "000000", "NumberOfSlices": 6}, decayed(3600)),
        # A FrameReferenceTime of 0 says nothing: some scanners write it for every bed position.
        (
            {},
            {"SeriesTime": "170000", "NumberOfSlices": 6, "FrameReferenceTime": "0", "ActualFrameDuration": "180000"},
            decayed(3600),
        ),
        # GE counts to the beginning of the frame; a series of one bed position says that it started with it.
        (
            {},
            {"Manufacturer": "GE MEDICAL SYSTEMS", "FrameReferenceTime": "916000", "ActualFrameDuration": "180000"},
            decayed(3600 - 916),
        ),
        # Dynamic: injected after the start, also across midnight and with clock times only.
        ({"RadiopharmaceuticalStartTime": "120100"}, {}, decayed(-60)),
        ({"RadiopharmaceuticalStartDateTime": "20260301120100"}, {}, decayed(-60)),
        (
            {"RadiopharmaceuticalStartTime": "001000"},
            {"SeriesTime": "235000", "AcquisitionTime": "235000"},
            decayed(-1200),
        ),
        # Zones: of the file, of the moment, of both; the clock says that the moment's is the file's.
        (
            {"RadiopharmaceuticalStartDateTime": "20260301100000+0000"},
            {"TimezoneOffsetFromUTC": "+0100"},
            decayed(3600),
        ),
        ({"RadiopharmaceuticalStartDateTime": "20260301110000"}, {"TimezoneOffsetFromUTC": "-0500"}, decayed(3600)),
        ({"RadiopharmaceuticalStartDateTime": "20260301110000.0+0100"}, {}, decayed(3600)),
        # Not corrected for decay: the mean of 30 minutes that began an hour after the injection.
        (
            {},
            {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"], "ActualFrameDuration": "1800000"},
            decayed(3600) * (np.log(2) / HALF_LIFE * 1800) / (1 - 2 ** (-1800 / HALF_LIFE)),
        ),
        # 370 can only be MBq, 80000 only grams.
        ({"RadionuclideTotalDose": "370"}, {}, decayed(3600)),
        ({}, {"PatientWeight": "80000"}, decayed(3600)),
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
    folder = pet(tmp_path, SeriesTime="120400", NumberOfSlices=6)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionTime = f"12{(dataset.InstanceNumber - 1) * 3:02d}00"
        dataset.save_as(path)
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)


DAYS = {"89Zr": (282276.0, 6 * 86400), "124I": (360806.0, 4 * 86400), "64Cu": (45723.0, 26 * 3600)}


@pytest.mark.parametrize("nuclide", DAYS)
def test_nuclides_of_days(tmp_path, nuclide):
    half_life, seconds = DAYS[nuclide]
    injected = datetime(2026, 3, 1, 12) - timedelta(seconds=seconds)
    drug = {"RadionuclideHalfLife": f"{half_life}", "RadiopharmaceuticalStartTime": "120000"}
    dated = drug | {"RadiopharmaceuticalStartDateTime": f"{injected:%Y%m%d%H%M%S}"}
    volume = read_volume(pet(tmp_path / "a", dated))
    assert_allclose(volume.data, VALUES * 2 * ADMIN * 2 ** (seconds / half_life), rtol=1e-6)
    with pytest.raises(CaseError, match="RadiopharmaceuticalStartDateTime missing"):
        read_volume(pet(tmp_path / "b", drug))  # which day, no clock says


BODY = {"PatientWeight": "80", "PatientSize": "1.75"}
BY_HAND = {  # SUVType, sex: kg, or m2 for BSA, of 80 kg and 175 cm
    ("LBM", "M"): 1.10 * 80 - 120 * (80 / 175) ** 2,
    ("LBM", "F"): 1.07 * 80 - 148 * (80 / 175) ** 2,
    ("LBMJAMES128", "M"): 1.10 * 80 - 128 * (80 / 175) ** 2,
    ("LBMJANMA", "F"): 9270 * 80 / (8780 + 244 * 80 / 1.75**2),
    ("IBW", "M"): 48 + 1.06 * 23,
    ("IBW", "O"): (48 + 1.06 * 23 + 45.5 + 0.91 * 23) / 2,
    ("BSA", ""): 0.007184 * 175**0.725 * 80**0.425,
}


@pytest.mark.parametrize(("kind", "sex"), BY_HAND)
def test_suv_by_other_measures_of_the_body(tmp_path, kind, sex):
    units = "CM2ML" if kind == "BSA" else "GML"
    volume = read_volume(pet(tmp_path, Units=units, SUVType=kind, PatientSex=sex, **BODY))
    per = 80000 / (BY_HAND[kind, sex] * 1e4) if kind == "BSA" else 80 / BY_HAND[kind, sex]
    assert_allclose(volume.data, VALUES * 2 * per, rtol=1e-6)


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("PatientWeight", "PatientWeight missing"),
        ("RadionuclideTotalDose", "RadionuclideTotalDose missing"),
        ("RadionuclideHalfLife", "RadionuclideHalfLife missing"),
        ("RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartTime missing"),
        ("DecayCorrection", "DecayCorrection START, ADMIN or NONE missing"),
        ("Units", "expected Units GML, CM2ML, BQML or CNTS, found none"),
    ],
)
def test_what_is_missing_is_named(tmp_path, remove, words):
    folder = pet(tmp_path, remove=remove)
    with pytest.raises(CaseError, match="SUV") as caught:
        read_volume(folder)
    assert words in str(caught.value)
    assert "convert it to SUV with the scanner's software" in str(caught.value)
    assert words in str(index_folder(folder)[0].problem)  # the scan says so before anybody trains


GML = {"Units": "GML"}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, GML | {"SUVType": "LBM"}, "PatientSize missing"),
    ({}, GML | {"SUVType": "LBM", "PatientSize": "1.75"}, r"PatientSex missing \(SUVType LBM\)"),
    ({}, GML | {"SUVType": "LBM", "PatientSize": "7.5", "PatientSex": "M"}, r"PatientSize .* \(expected 0.4 to 2.6 m"),
    ({}, GML | {"SUVType": "LBM", "PatientSize": "0.5", "PatientSex": "M"}, "no credible LBM"),
    ({}, GML | {"SUVType": "BSA"}, "do not fit .*SUVType BSA, Units GML"),
    ({}, {"Units": "PROPCNTS"}, "units from which SUV cannot be computed"),
    ({}, {"Units": "CPS"}, "units from which SUV cannot be computed"),
    ({}, {"CorrectedImage": ["DECY"]}, "not corrected for attenuation"),
    ({}, {"CorrectedImage": ["ATTN"]}, r"contradicts itself .*DecayCorrection START, CorrectedImage"),
    ({}, {"DecayCorrection": "NONE"}, "contradicts itself on its correction for decay"),
    ({}, {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"]}, "ActualFrameDuration missing"),
    ({}, {"PatientWeight": "0"}, "PatientWeight missing"),
    ({}, {"PatientWeight": "900"}, r"PatientWeight of the PET cannot be right \(expected 0.005 to 700 kg, found 900\)"),
    ({"RadionuclideTotalDose": "37000"}, {}, r"RadionuclideTotalDose .*expected 100000 to 1e\+11 Bq, found 37000"),
    # Half life in minutes, under the name of the nuclide: 33 half lives from injection to scan, or another nuclide.
    ({"RadionuclideHalfLife": "109.77"}, {}, r"expected at most 10 half lives .*1.0 h from injection to scan"),
    # Injected in the afternoon, scanned in the morning: not 22 hours of uptake.
    ({"RadiopharmaceuticalStartTime": "140000"}, {}, "injection .* and scan cannot both be right"),
    ({"RadiopharmaceuticalStartDateTime": "20260301140000"}, {}, "injection .* and scan cannot both be right"),
    # Zones: the moment states one, the file none, and the clock says something else (or nothing).
    ({"RadiopharmaceuticalStartDateTime": "20260301100000+0000"}, {}, "TimezoneOffsetFromUTC missing"),
    # Reconstructed again, and slices may be missing: nobody knows when the scan began.
    ({}, {"SeriesTime": "170000"}, "FrameReferenceTime missing"),
    ({}, {"SeriesTime": "170000", "NumberOfSlices": 7}, "FrameReferenceTime missing"),
    # All is credible for itself, but not together: 5 MBq in 700 kg, ten half lives later.
    (
        {"RadionuclideTotalDose": "200000", "RadiopharmaceuticalStartTime": "030000"},
        {"PatientWeight": "600"},
        "left at the scan, found 1",
    ),
]


@pytest.mark.parametrize(("drug", "tags", "words"), WRONG)
def test_what_cannot_be_right_is_refused(tmp_path, drug, tags, words):
    with pytest.raises(CaseError, match=words):
        read_volume(pet(tmp_path, drug, **tags))


def changed(folder, change):
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return folder


def named(dataset, meaning):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-111A1", "SRT", meaning
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = [code]


@pytest.mark.parametrize("meaning", ["^18^Fluorine", "18F", "F-18", "^18^F"])
def test_the_nuclide_says_its_half_life(tmp_path, meaning):
    """The standard's names and those of scanners; a half life that is missing comes from them, a wrong one is told."""
    folder = changed(pet(tmp_path / "a", {"RadionuclideHalfLife": None}), lambda dataset: named(dataset, meaning))
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)
    gallium = changed(pet(tmp_path / "b", {"RadionuclideHalfLife": "4057.7"}), lambda dataset: named(dataset, meaning))
    with pytest.raises(CaseError, match=r"not that of its nuclide \(expected 6586.2 s for .*found 4057.7 s"):
        read_volume(gallium)


def test_two_tracers_are_refused_and_one_written_twice_is_not(tmp_path):
    def again(dataset):
        dataset.RadiopharmaceuticalInformationSequence.append(dataset.RadiopharmaceuticalInformationSequence[0])

    folder = changed(pet(tmp_path), again)
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)

    def other(dataset):
        item = Dataset()
        item.RadionuclideTotalDose, item.RadionuclideHalfLife = "100000000", "4057.7"
        dataset.RadiopharmaceuticalInformationSequence[1] = item

    with pytest.raises(CaseError, match=r"several tracers .*RadiopharmaceuticalInformationSequence of one item"):
        read_volume(changed(folder, other))


@pytest.mark.parametrize("creator", [True, False])
def test_the_decay_correction_time_of_siemens(tmp_path, creator):
    """Reconstructed again in the evening: (0071,1022) says what the decay is corrected to."""

    def change(dataset):
        dataset.Manufacturer = "SIEMENS"
        if creator:
            dataset.private_block(0x71, "SIEMENS MED PT", create=True).add_new(0x22, "DT", "20260301120000.0")
        else:
            dataset.add_new((0x0071, 0x1022), "UN", b"20260301120000.0")

    folder = changed(pet(tmp_path, SeriesTime="200000", AcquisitionTime="123000"), change)
    assert_allclose(read_volume(folder).data, VALUES * 2 * decayed(3600), rtol=1e-6)


@pytest.mark.parametrize(
    ("element", "value", "factor"), [(0x1000, b"0.004", 0.004), (0x1009, b"3.50 ", 3.5 * decayed(3600))]
)
def test_philips_counts_whose_private_creator_is_lost(tmp_path, element, value, factor):
    folder = pet(tmp_path, Units="CNTS", Manufacturer="Philips Medical Systems")
    changed(folder, lambda dataset: dataset.add_new((0x7053, element), "UN", value))
    assert_allclose(read_volume(folder).data, VALUES * 2 * factor, rtol=1e-6)


def test_legacy_converted_enhanced_pet(tmp_path):
    """One multi-frame file that highdicom makes of the classic ones has the same values."""
    datasets = [pydicom.dcmread(path) for path in pet(tmp_path / "classic").iterdir()]
    for dataset in datasets:
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber, dataset.ImageType = "", 1, ["ORIGINAL", "PRIMARY"]
        dataset.BodyPartExamined, dataset.PatientPosition, dataset.ReferringPhysicianName = "CHEST", "HFS", ""
        dataset.PositionReferenceIndicator, dataset.ContentDate, dataset.ContentTime = "", "20260301", "120000"
    legacy = hd.legacy.LegacyConvertedEnhancedPETImage(datasets, uid("legacy"), 2, uid("legacy 1"), 1)
    (tmp_path / "legacy").mkdir()
    legacy.save_as(tmp_path / "legacy" / "1.dcm")
    classic, converted = (read_volume(tmp_path / name) for name in ("classic", "legacy"))
    assert_allclose(converted.data, classic.data, rtol=1e-6)
    assert_allclose(converted.grid.affine, classic.grid.affine, atol=1e-6)


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
