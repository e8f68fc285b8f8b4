"""PET in SUV by body weight (g/ml), from what the scanner stored.

SUV = activity concentration * weight / decayed dose, and decayed dose = injected dose * 2 ** (-time / half life). Which
time that is, and what the units mean, is after PS3.3 C.8.9, the QIBA FDG-PET/CT profile's vendor-neutral rules and the
IBSI manual for SUV computation (Vacha et al. 2026, CC BY 4.0). What is wrong by a factor is refused, never read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.errors import CaseError
from differseg_med.io.dicom.pet_bodies import UNITS, weight_per
from differseg_med.io.dicom.pet_times import REMEDY, acquired, missing, scan_start, uptake_seconds
from differseg_med.io.dicom.planes import Frame

MEASUREMENT_UNITS = {  # UCUM, PS3.16 CID 84 and 85
    "Bq/ml": ("BQML", ""),
    "g/ml": ("GML", ""),
    "{SUVbw}g/ml": ("GML", "BW"),
    "{SUVlbm}g/ml": ("GML", "LBM"),
    "{SUVibw}g/ml": ("GML", "IBW"),
    "{SUVbsa}cm2/ml": ("CM2ML", "BSA"),
}
"""Units of enhanced PET in the terms of classic PET: Units and SUVType."""

WEIGHTS_KG = (0.005, 700.0)
"""From a mouse to the heaviest patient, in kg."""

DOSES = (1e5, 1e11)
"""Doses in Bq; a number from 0.1 to 10 000 can only be MBq (in other objects of DICOM it is)."""

HALF_LIFE = (60.0, 1e6)
"""Half lives in s, from Rb-82 to I-124."""

NUCLIDES = {
    "11C": 1221.8, "13N": 597.9, "15O": 122.3, "18F": 6586.2, "44SC": 14292.0, "52MN": 483062.0, "64CU": 45723.0,
    "68GA": 4069.8, "82RB": 75.4, "86Y": 53064.0, "89ZR": 282276.0, "124I": 360806.0,
}  # fmt: skip
"""Half lives in s of nuclides that emit positrons (Decay Data Evaluation Project, rounded; 18F as QIBA has it)."""

NUCLIDE_TOLERANCE = 0.05
"""How far, as a share, the stated half life may be from that of the stated nuclide: 4057.7 s stands for 68Ga too."""

BQ_PER_KG = (1e3, 1e10)
"""What can be left of a dose per kg of a body when it is scanned: from 89Zr after two weeks to 15O in a mouse."""


Start = Callable[[float], tuple[datetime, str]]
"""The start of the scan and a note, given the half life."""


@dataclass(frozen=True)
class _Injection:
    """What SUV is computed from: weight in kg, dose in Bq, half life in s; what had to be read otherwise."""

    weight: float
    dose: float
    half_life: float
    notes: tuple[str, ...] = ()


def is_pet(tags: Mapping[str, Any]) -> bool:
    """Whether an image is positron emission tomography."""
    return tags.get("Modality") == "PT"


def suv_factors(frames: Sequence[Frame]) -> tuple[list[float], tuple[str, ...]]:
    """What each frame's rescaled values are multiplied with to be SUV by body weight, and notes how.

    Args:
        frames: all those of one volume, as they share the start of the scan.

    Raises:
        CaseError: naming what is missing or cannot be right.
    """
    file, every = frames[0].header.source.path, [frame.tags for frame in frames]

    @lru_cache(maxsize=4)
    def start(half_life: float) -> tuple[datetime, str]:
        return scan_start(every, half_life, file)

    try:
        found = [_suv_factor(frame, start) for frame in frames]
    except (TypeError, OverflowError) as error:  # moments with and without zone, or at the end of the calendar
        raise missing(["TimezoneOffsetFromUTC"], file, every[0], "odd times") from error
    return [factor for factor, _ in found], tuple(sorted({note for _, notes in found for note in notes if note}))


def pet_problem(frames: Sequence[Frame]) -> None:
    """Check that a part, if it is PET, can be given in SUV.

    Raises:
        CaseError: naming what is missing.
    """
    if frames and is_pet(frames[0].tags):
        suv_factors(frames)


def _suv_factor(frame: Frame, start: Start) -> tuple[float, tuple[str, ...]]:
    tags, file = frame.tags, frame.header.source.path
    units, kind = _units(tags, file)
    _check_corrections(tags, file)
    if units in ("GML", "CM2ML"):
        if kind == "BW":
            return 1.0, ()
        weight, note = _weight(tags, file)
        factor, how = weight_per(kind, tags, weight, file)
        return factor, (note, how)
    if units == "CNTS":
        own = _positive(tags, "PhilipsSUVScaleFactor")
        if own is not None:
            return own, ("PET in SUV by the scanner's own factor (7053,1000)",)
        activity = _positive(tags, "PhilipsActivityScaleFactor")
        if activity is None:
            raise missing(["Philips factors (7053,1000) or (7053,1009)"], file, tags)
        factor, notes = _per_activity(frame, start)
        return activity * factor, ("PET in SUV from counts by (7053,1009), weight and decayed dose", *notes)
    factor, notes = _per_activity(frame, start)
    return factor, ("PET in SUV from Bq/ml, weight and decayed dose", *notes)


def _units(tags: Mapping[str, Any], file: Path) -> tuple[str, str]:
    """Units and SUVType, each in classic PET's terms."""
    ucum = str(tags.get("MeasurementUnits", ""))
    turned = re.sub(r"^(.*)(\{SUV\w+\})$", r"\2\1", ucum)
    units, kind = MEASUREMENT_UNITS.get(turned, ("", ""))
    units = str(tags.get("Units") or units)
    kind = str(tags.get("SUVType") or kind) or ("BSA" if units == "CM2ML" else "BW")
    if units not in ("GML", "CM2ML", "CNTS", "BQML"):
        raise CaseError(
            "the PET is in units from which SUV cannot be computed",
            file=file,
            expected="Units GML, CM2ML, BQML or CNTS",
            found=units or ucum or "none",
            remedy=REMEDY,
        )
    if units in ("GML", "CM2ML") and UNITS.get(kind) != units:
        raise CaseError("SUVType and Units of the PET do not fit", file=file, found=f"SUVType {kind}, Units {units}")
    return units, kind


def _check_corrections(tags: Mapping[str, Any], file: Path) -> None:
    corrected = tags.get("CorrectedImage", ())
    corrected = (corrected,) if isinstance(corrected, str) else corrected
    attenuation = tags.get("AttenuationCorrected") == "NO" or (corrected and "ATTN" not in corrected)
    if attenuation:
        raise CaseError(
            "the PET is not corrected for attenuation",
            file=file,
            expected="ATTN in CorrectedImage",
            found="\\".join(corrected) or "AttenuationCorrected NO",
            remedy="Take the series that is: this one has no activities.",
        )


def _decay_correction(tags: Mapping[str, Any], file: Path) -> str:
    """START, ADMIN or NONE.

    Raises:
        CaseError: if it is not stated, or contradicts CorrectedImage.
    """
    correction = str(tags.get("DecayCorrection", ""))
    if not correction and tags.get("DecayCorrected") == "YES" and "DecayCorrectionDateTime" in tags:  # enhanced PET
        correction = "START"
    if not correction and tags.get("DecayCorrected") == "NO":
        correction = "NONE"
    if correction not in ("START", "ADMIN", "NONE"):
        raise missing(["DecayCorrection START, ADMIN or NONE"], file, tags)
    corrected = tags.get("CorrectedImage", ())
    if corrected and ("DECY" in corrected) == (correction == "NONE"):
        raise CaseError(
            "the PET contradicts itself on its correction for decay",
            file=file,
            found=f"DecayCorrection {correction}, CorrectedImage {corrected}",
            remedy=REMEDY,
        )
    return correction


def _per_activity(frame: Frame, start: Start) -> tuple[float, tuple[str, ...]]:
    """SUV per Bq/ml."""
    tags, file = frame.tags, frame.header.source.path
    injection = _injection(tags, file)
    dose, notes = injection.dose, list(injection.notes)
    correction = _decay_correction(tags, file)
    if correction == "START":  # ADMIN: the voxels are already corrected to the time of injection
        began, note = start(injection.half_life)
        dose, notes = _decayed(injection, began, tags, file, [*notes, note])
    elif correction == "NONE":
        dose, notes = _mean_of_frame(injection, tags, file, notes)
    per_kg = dose / injection.weight
    if not BQ_PER_KG[0] <= per_kg <= BQ_PER_KG[1]:
        raise CaseError(
            "weight, dose and times of the PET cannot all be right: no SUV can come of them",
            file=file,
            expected=f"{BQ_PER_KG[0]:g} to {BQ_PER_KG[1]:g} Bq per kg left at the scan",
            found=f"{per_kg:.3g}",
            remedy=REMEDY,
        )
    return injection.weight * 1000 / dose, tuple(notes)


def _decayed(
    injection: _Injection, scan: datetime, tags: Mapping[str, Any], file: Path, notes: list[str]
) -> tuple[float, list[str]]:
    """The dose that is left at a moment, and notes."""
    seconds, note = uptake_seconds(tags, scan, injection.half_life, file)
    return injection.dose * 0.5 ** (seconds / injection.half_life), [*notes, note]


def _mean_of_frame(
    injection: _Injection, tags: Mapping[str, Any], file: Path, notes: list[str]
) -> tuple[float, list[str]]:
    """The dose that is left on average while a frame is acquired, whose voxels are not corrected for decay."""
    time, duration = (
        acquired(tags),
        _positive(tags, "ActualFrameDuration") or _positive(tags, "FrameAcquisitionDuration"),
    )
    if time is None or duration is None:
        names = [] if time else ["AcquisitionDate and AcquisitionTime"]
        raise missing([*names, *([] if duration else ["ActualFrameDuration"])], file, tags, "not corrected for decay")
    dose, notes = _decayed(injection, time, tags, file, notes)
    decays = np.log(2) / injection.half_life * duration / 1000
    return dose * float(-np.expm1(-decays) / decays), [*notes, "corrected for decay here (DecayCorrection NONE)"]


def _injection(tags: Mapping[str, Any], file: Path) -> _Injection:
    """Weight, dose and half life.

    Raises:
        CaseError: naming what is missing or cannot be right.
    """
    if tags.get("RadiopharmaceuticalCount", 1) > 1:
        raise CaseError(
            "several tracers or injections: nobody knows whose activity is where",
            file=file,
            expected="RadiopharmaceuticalInformationSequence of one item",
            found=f"{tags['RadiopharmaceuticalCount']} items",
            remedy=REMEDY,
        )
    half_life = _positive(tags, "RadionuclideHalfLife") or _nuclide(tags)
    values = {
        "PatientWeight": _positive(tags, "PatientWeight"),
        "RadionuclideTotalDose": _positive(tags, "RadionuclideTotalDose"),
        "RadionuclideHalfLife": half_life,
    }
    if names := [name for name, value in values.items() if value is None]:
        raise missing(names, file, tags)
    assert half_life is not None
    _check_half_life(half_life, tags, file)
    weight, note = _weight(tags, file)
    dose = float(tags["RadionuclideTotalDose"])
    notes = [note]
    if DOSES[0] <= dose * 1e6 <= 1e10:
        notes.append(f"RadionuclideTotalDose {dose:g} taken for MBq")
        dose *= 1e6
    if not DOSES[0] <= dose <= DOSES[1]:
        raise _incredible("RadionuclideTotalDose", dose, DOSES, "Bq", file)
    return _Injection(weight, dose, half_life, tuple(notes))


def _weight(tags: Mapping[str, Any], file: Path) -> tuple[float, str]:
    """PatientWeight in kg, and a note; a number above 1000 can only be grams."""
    weight = _positive(tags, "PatientWeight")
    if weight is None:
        raise missing(["PatientWeight"], file, tags)
    note = ""
    if weight > 1000:
        weight, note = weight / 1000, f"PatientWeight {weight:g} taken for grams"
    if not WEIGHTS_KG[0] <= weight <= WEIGHTS_KG[1]:
        raise _incredible("PatientWeight", weight, WEIGHTS_KG, "kg", file)
    return weight, note


def _nuclide(tags: Mapping[str, Any]) -> float | None:
    """Half life by the nuclide's name, such as ``^18^Fluorine``, ``F-18`` or ``18F``."""
    name = str(tags.get("Radionuclide", ""))
    number = re.search(r"\d+", name)
    letters = "".join(re.findall(r"[A-Za-z]", name)).upper()
    own = [symbol for symbol in NUCLIDES if number and re.fullmatch(rf"{number[0]}[A-Z]+", symbol)]
    fitting = [symbol for symbol in own if _symbol(letters) == symbol.removeprefix(number[0])] if number else []
    return NUCLIDES[fitting[0]] if fitting else None


def _symbol(name: str) -> str:
    """The symbol of an element by its English name, or the symbol itself."""
    return ELEMENTS.get(name, name)


ELEMENTS = {
    "CARBON": "C", "NITROGEN": "N", "OXYGEN": "O", "FLUORINE": "F", "SCANDIUM": "SC", "MANGANESE": "MN", "COPPER": "CU",
    "GALLIUM": "GA", "RUBIDIUM": "RB", "YTTRIUM": "Y", "ZIRCONIUM": "ZR", "IODINE": "I",
}  # fmt: skip


def _check_half_life(half_life: float, tags: Mapping[str, Any], file: Path) -> None:
    if not HALF_LIFE[0] <= half_life <= HALF_LIFE[1]:
        raise _incredible("RadionuclideHalfLife", half_life, HALF_LIFE, "s", file)
    expected = _nuclide(tags)
    if expected is not None and abs(half_life / expected - 1) > NUCLIDE_TOLERANCE:
        raise CaseError(
            "RadionuclideHalfLife of the PET is not that of its nuclide",
            file=file,
            expected=f"{expected:g} s for {tags.get('Radionuclide')}",
            found=f"{half_life:g} s",
            remedy=REMEDY,
        )


def _incredible(name: str, value: float, limits: tuple[float, float], unit: str, file: Path) -> CaseError:
    return CaseError(
        f"{name} of the PET cannot be right",
        file=file,
        expected=f"{limits[0]:g} to {limits[1]:g} {unit}",
        found=f"{value:g}",
        remedy=REMEDY,
    )


def _positive(tags: Mapping[str, Any], name: str) -> float | None:
    value = tags.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) and value > 0 else None
