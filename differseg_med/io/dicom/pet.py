"""PET in SUV by body weight (g/ml), from what the scanner stored.

After the QIBA FDG-PET/CT profile's vendor-neutral rules: decayed dose = injected dose * 2 ** (-time / half life), and
SUV = activity concentration * weight / decayed dose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.errors import CaseError
from differseg_med.io.dicom.planes import Frame

LONGEST_UPTAKE = timedelta(hours=24)
"""Longest credible time from injection to scan: more means that the clocks or dates are wrong."""

MEASUREMENT_UNITS = {"Bq/ml": "BQML", "{SUVbw}g/ml": "GML", "g/ml{SUVbw}": "GML"}
"""Units of enhanced PET (UCUM) in the terms of classic PET."""

CREDIBLE = {  # from a mouse to the heaviest patient, from Rb-82 to I-124
    "PatientWeight": (0.005, 700.0, "kg"),
    "RadionuclideTotalDose": (1e5, 1e11, "Bq"),
    "RadionuclideHalfLife": (60.0, 1e6, "s"),
}
"""Limits of what SUV is computed from: scanners and tools have written grams, MBq and minutes."""

_REMEDY = "Ask for the series with these attributes, or convert it to SUV with the scanner's software and use NIfTI."


def is_pet(tags: Mapping[str, Any]) -> bool:
    """Whether an image is positron emission tomography."""
    return tags.get("Modality") == "PT"


def suv_factors(frames: Sequence[Frame]) -> tuple[list[float], tuple[str, ...]]:
    """What each frame's rescaled values are multiplied with to be SUV by body weight, and notes how.

    Args:
        frames: all those of one volume, as they share the start of the scan.

    Raises:
        CaseError: naming what is missing.
    """
    start = _scan_start([frame.tags for frame in frames])
    found = [_suv_factor(frame.tags, frame.header.source.path, start) for frame in frames]
    return [factor for factor, _ in found], tuple(sorted({note for _, note in found if note}))


def _suv_factor(tags: Mapping[str, Any], file: Path, start: datetime | None) -> tuple[float, str]:
    units = tags.get("Units") or MEASUREMENT_UNITS.get(str(tags.get("MeasurementUnits")))
    if units == "GML":
        kind = tags.get("SUVType", "BW")
        if kind != "BW":
            raise CaseError("the PET is in SUV, but not by body weight", file=file, found=f"SUVType {kind}")
        return 1.0, ""
    if units == "CNTS":
        factor = _positive(tags, "PhilipsSUVScaleFactor")
        if factor is not None:
            return factor, "PET in SUV by the scanner's own factor (7053,1000)"
        activity = _positive(tags, "PhilipsActivityScaleFactor")
        if activity is None:
            raise _missing(["Philips factors (7053,1000) or (7053,1009)"], file, units)
        return activity * _per_activity(
            tags, file, start
        ), "PET in SUV from counts by (7053,1009), weight and decayed dose"
    if units == "BQML":
        return _per_activity(tags, file, start), "PET in SUV from Bq/ml, weight and decayed dose"
    raise CaseError(
        "the PET is in units from which SUV cannot be computed",
        file=file,
        expected="Units GML, BQML or CNTS",
        found=units or "none",
        remedy=_REMEDY,
    )


def pet_problem(frames: Sequence[Frame]) -> None:
    """Check that a part, if it is PET, can be given in SUV.

    Raises:
        CaseError: naming what is missing.
    """
    if frames and is_pet(frames[0].tags):
        suv_factors(frames)


def _per_activity(tags: Mapping[str, Any], file: Path, start: datetime | None) -> float:
    """SUV per Bq/ml."""
    needed = {name: _positive(tags, name) for name in CREDIBLE}
    missing = [name for name, value in needed.items() if value is None]
    corrected = tags.get("CorrectedImage", ())
    if corrected and "DECY" not in corrected:
        raise CaseError("the PET is not corrected for decay", file=file, found=f"CorrectedImage {corrected}")
    correction = tags.get("DecayCorrection")
    if tags.get("DecayCorrected") == "YES" and "DecayCorrectionDateTime" in tags:  # enhanced PET
        correction = "START"
    if correction not in ("START", "ADMIN"):
        missing.append("DecayCorrection START or ADMIN")
    if missing:
        raise _missing(missing, file, tags.get("Units"))
    for name, (low, high, unit) in CREDIBLE.items():
        if not low <= (needed[name] or 0) <= high:
            raise CaseError(
                f"{name} of the PET cannot be right",
                file=file,
                expected=f"{low:g} to {high:g} {unit}",
                found=f"{needed[name]:g}",
                remedy=_REMEDY,
            )
    weight, dose, half_life = (value for value in needed.values() if value is not None)
    if correction == "START":  # ADMIN: the voxels are already corrected to the time of injection
        dose *= 0.5 ** (_uptake_seconds(tags, file, start) / half_life)
    return weight * 1000 / dose


def _uptake_seconds(tags: Mapping[str, Any], file: Path, scan: datetime | None) -> float:
    """Seconds from injection to the time that the voxels are corrected to."""
    if scan is None:
        raise _missing(["SeriesDate and SeriesTime, or AcquisitionDate and AcquisitionTime"], file, tags.get("Units"))
    whole = _moment(tags.get("RadiopharmaceuticalStartDateTime"))
    clock = _moment("19000101" + str(tags.get("RadiopharmaceuticalStartTime", "")))
    if whole is None and clock is None:
        raise _missing(["RadiopharmaceuticalStartTime"], file, tags.get("Units"))
    # Dates may have been shifted by de-identification apart from each other: then the clock must do.
    if whole is None or not timedelta(0) <= scan - whole < LONGEST_UPTAKE:
        injected = clock if clock is not None else whole
        assert injected is not None
        whole = datetime.combine(scan.date(), injected.time())
        if whole > scan:
            whole -= timedelta(days=1)  # injected before midnight
    return (scan - whole).total_seconds()


def _scan_start(frames: Sequence[Mapping[str, Any]]) -> datetime | None:
    """The time that the decay of all frames is corrected to, with DecayCorrection START."""
    first = frames[0]
    if told := _moment(first.get("DecayCorrectionDateTime")):
        return told
    series = _moment(f"{first.get('SeriesDate', '')}{first.get('SeriesTime', '')}")
    acquired = min((time for tags in frames if (time := _acquired(tags))), default=None)
    if series is not None and (acquired is None or series <= acquired):
        return series
    # The series was written after the scan (reconstructed again): its time says nothing about the scan.
    if ge := _moment(first.get("GEScanDateTime")):
        return ge
    starts = [_start_before(tags) for tags in frames]
    return acquired if None in starts else min(start for start in starts if start is not None)


def _acquired(tags: Mapping[str, Any]) -> datetime | None:
    """When a frame's bed position began."""
    return _moment(f"{tags.get('AcquisitionDate', '')}{tags.get('AcquisitionTime', '')}") or _moment(
        tags.get("AcquisitionDateTime")
    )


def _start_before(tags: Mapping[str, Any]) -> datetime | None:
    """The scan's start from one bed position: FrameReferenceTime is when in the scan its mean count rate was."""
    acquired, half_life = _acquired(tags), _positive(tags, "RadionuclideHalfLife")
    reference, duration = _positive(tags, "FrameReferenceTime"), _positive(tags, "ActualFrameDuration")
    if acquired is None or half_life is None or reference is None or duration is None:
        return None
    rate = np.log(2) / half_life
    decayed = rate * duration / 1000
    average = float(np.log(decayed / (1 - np.exp(-decayed))) / rate)
    offset = reference / 1000 - average
    return acquired - timedelta(seconds=offset) if abs(offset) < LONGEST_UPTAKE.total_seconds() else None


def _moment(text: object) -> datetime | None:
    """A DICOM date with time, ``YYYYMMDDHHMM[SS[.F]]``; a zone is left out as all times of a scan share it."""
    digits = str(text or "").split("+")[0].split("-")[0].replace(":", "")
    whole, _, fraction = digits.partition(".")
    for form in ("%Y%m%d%H%M%S", "%Y%m%d%H%M"):
        try:
            moment = datetime.strptime(whole, form)
        except ValueError:
            continue
        return moment + timedelta(seconds=float(f"0.{fraction}")) if fraction.isdigit() else moment
    return None


def _number(tags: Mapping[str, Any], name: str) -> float | None:
    value = tags.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _positive(tags: Mapping[str, Any], name: str) -> float | None:
    value = _number(tags, name)
    return value if value is not None and value > 0 else None


def _missing(names: Sequence[str], file: Path, units: object) -> CaseError:
    return CaseError(
        f"the PET cannot be given in SUV: {', '.join(names)} missing", file=file, found=f"Units {units}", remedy=_REMEDY
    )
