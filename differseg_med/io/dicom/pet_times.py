"""When PET was injected, and to which moment its voxels are corrected for decay: with dates and zones, or a refusal.

After PS3.3 C.8.9 (PET Series, Isotope and Image modules), the QIBA FDG-PET/CT profile's pseudocode, and the IBSI manual
for SUV computation (Vacha et al. 2026, CC BY 4.0, with its digital reference objects).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.errors import CaseError

Tags = Mapping[str, Any]

HALF_LIVES = 10
"""Most half lives from injection to scan: after that a thousandth of the dose is left, and nobody scans."""

LATE = timedelta(hours=1)
"""How long after the start of a scan an injection is believed: dynamic scans begin first, and clocks differ."""

LONGEST_SCAN = timedelta(hours=4)
"""Longest time from the start of a series to its first bed position: a SeriesTime before that is no start of a scan."""

CLOCK_ENOUGH = timedelta(hours=8)
"""Half life up to which a time of day without its date says when the injection was: others are scanned for days."""

START_TOLERANCE = timedelta(minutes=1)
"""How far two statements of one moment may differ."""


def moment(text: object, zone: timezone | None) -> datetime | None:
    """A DICOM date with time, ``YYYYMMDDHHMM[SS[.F]][&ZZXX]``; with a zone if it states one, or the file does."""
    match = re.fullmatch(r"(\d{12})(\d\d)?(?:\.(\d{1,6}))?\s*([+-]\d{4})?", str(text or "").replace(":", "").strip())
    if match is None:
        return None
    try:
        whole = datetime.strptime(match[1] + (match[2] or "00"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    own = _zone(match[4]) if match[4] else zone
    return (whole + timedelta(seconds=float(f"0.{match[3] or 0}"))).replace(tzinfo=own)


def zone_of(tags: Tags) -> timezone | None:
    """The zone that all dates and times of a file are in, if it says so."""
    return _zone(str(tags.get("TimezoneOffsetFromUTC", "")))


def _zone(text: str) -> timezone | None:
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", text.strip())
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def acquired(tags: Tags) -> datetime | None:
    """When a frame's bed position began."""
    zone = zone_of(tags)
    classic = moment(f"{tags.get('AcquisitionDate', '')}{tags.get('AcquisitionTime', '')}", zone)
    return classic or moment(tags.get("FrameAcquisitionDateTime") or tags.get("AcquisitionDateTime"), zone)


def scan_start(frames: Sequence[Tags], half_life: float, file: Path) -> tuple[datetime, str]:
    """The moment that the decay of all frames is corrected to, with DecayCorrection START, and a note.

    In this order: what the standard (enhanced PET), Siemens (0071,1022) or GE (0009,100D) state; SeriesTime, if it is
    not after the first bed position and agrees with FrameReferenceTime; the moment from which FrameReferenceTime
    counts; the first AcquisitionTime, if no slice is missing before it.

    Args:
        frames: attributes of all frames of one volume.
        half_life: in seconds.
        file: for messages.

    Raises:
        CaseError: naming what is missing.
    """
    first, zone = frames[0], zone_of(frames[0])
    times = [time for tags in frames if (time := acquired(tags))]
    earliest = min(times, default=None)
    if told := moment(first.get("DecayCorrectionDateTime"), zone):
        return told, ""  # may be the time of injection, days before
    for name in ("SiemensDecayCorrectionDateTime", "GEScanDateTime"):
        told = moment(first.get(name), zone)
        if told and earliest and -START_TOLERANCE <= earliest - told <= LONGEST_SCAN:
            return told, ""
    series = moment(f"{first.get('SeriesDate', '')}{first.get('SeriesTime', '')}", zone)
    if series and earliest and not timedelta(0) <= earliest - series <= LONGEST_SCAN:
        series = None  # written after the scan (reconstructed again), or changed by de-identification
    counted = _counted_from(frames, half_life)
    if counted is None and series:
        return series, ""
    if counted is None:
        return _first_of_all(frames, earliest, file), "decay corrected to the first AcquisitionTime"
    duration = timedelta(milliseconds=_number(first.get("ActualFrameDuration")) or 0)
    if series and abs(series - counted) <= START_TOLERANCE + duration:
        return series, ""
    words = f"decay corrected to {counted:%H:%M:%S}, from which FrameReferenceTime counts"
    return counted, f"{words}: SeriesTime is no start of the scan"


def _first_of_all(frames: Sequence[Tags], earliest: datetime | None, file: Path) -> datetime:
    """The first AcquisitionTime, if all slices of the series are there."""
    if earliest is None:
        raise missing(["SeriesDate and SeriesTime, or AcquisitionDate and AcquisitionTime"], file, frames[0])
    if frames[0].get("NumberOfSlices") != len(frames):
        raise missing(["FrameReferenceTime"], file, frames[0], "SeriesTime is not the start of the scan")
    return earliest


def _counted_from(frames: Sequence[Tags], half_life: float) -> datetime | None:
    """The moment from which FrameReferenceTime counts, if it is the same for all frames (in the middle)."""
    starts = [_start_before(tags, half_life) for tags in frames]
    known = sorted(start for start in starts if start is not None)
    if not known or len(known) < len(starts) or known[-1] - known[0] > START_TOLERANCE:
        return None
    return known[len(known) // 2]


def _start_before(tags: Tags, half_life: float) -> datetime | None:
    """The scan's start from one bed position: FrameReferenceTime is when in the scan its mean count rate was.

    GE counts to the beginning of the frame instead, as SeriesTime of its whole series shows. A value of 0 says nothing:
    some scanners write it for every bed position.
    """
    time = acquired(tags)
    reference, duration = _number(tags.get("FrameReferenceTime")), _number(tags.get("ActualFrameDuration"))
    if time is None or not reference or not duration or reference < 0 or duration <= 0:
        return None
    rate = np.log(2) / half_life
    decayed = rate * duration / 1000
    average = float(np.log(decayed / -np.expm1(-decayed)) / rate)
    offset = reference / 1000 - (0.0 if str(tags.get("Manufacturer", "")).upper().startswith("GE") else average)
    return time - timedelta(seconds=offset) if abs(offset) < LONGEST_SCAN.total_seconds() else None


def uptake_seconds(tags: Tags, scan: datetime, half_life: float, file: Path) -> tuple[float, str]:
    """Seconds from injection to a moment of the scan, and a note.

    Args:
        tags: with RadiopharmaceuticalStartDateTime or RadiopharmaceuticalStartTime.
        scan: the moment.
        half_life: in seconds.
        file: for messages.

    Raises:
        CaseError: if the attributes are missing, contradict each other, or cannot be right.
    """
    zone = zone_of(tags)
    scan = scan.astimezone(zone) if zone and scan.tzinfo else scan  # times of day are those of the file's zone
    whole = moment(tags.get("RadiopharmaceuticalStartDateTime"), zone)
    clock = moment(f"{scan:%Y%m%d}{tags.get('RadiopharmaceuticalStartTime', '')}", zone if scan.tzinfo else None)
    if whole is None and clock is None:
        raise missing(["RadiopharmaceuticalStartTime"], file, tags)
    if whole is not None and (whole.tzinfo is None) != (scan.tzinfo is None):
        local = whole.replace(tzinfo=None)
        if scan.tzinfo is not None or clock is None or _clocks_apart(local, clock) > START_TOLERANCE:
            raise missing(["TimezoneOffsetFromUTC"], file, tags, "injection and scan have times with and without zone")
        whole = local  # the time of day, which has no zone, says that it is the scanner's
    longest = timedelta(seconds=HALF_LIVES * half_life)
    if whole is not None and -LATE <= scan - whole <= longest:
        return (scan - whole).total_seconds(), _injection_note(whole, clock, scan)
    if timedelta(seconds=half_life) > CLOCK_ENOUGH:
        if whole is None:
            raise missing(["RadiopharmaceuticalStartDateTime"], file, tags, "a nuclide that is scanned for days")
        raise _impossible(scan - whole, half_life, file)
    if whole is not None and clock is not None and _clocks_apart(whole, clock) > START_TOLERANCE:
        raise _impossible(scan - whole, half_life, file)
    # Dates may be missing, or shifted by de-identification apart from each other: then the clock must do.
    injected = clock if clock is not None else whole
    assert injected is not None
    days = [injected.replace(year=scan.year, month=scan.month, day=scan.day) + timedelta(days=n) for n in (-1, 0, 1)]
    possible = [scan - day for day in days if -LATE <= scan - day <= min(longest, timedelta(days=1))]
    if not possible:
        raise _impossible(scan - (whole or days[1]), half_life, file)
    took = min(possible, key=abs)
    apart = "the dates of injection and scan do not fit: only the times of day are used" if whole is not None else ""
    return took.total_seconds(), "; ".join(word for word in (apart, _late(took)) if word)


def _injection_note(whole: datetime, clock: datetime | None, scan: datetime) -> str:
    words = [_late(scan - whole)]
    if clock is not None and _clocks_apart(whole, clock) > START_TOLERANCE:
        words.append("RadiopharmaceuticalStartTime is another than RadiopharmaceuticalStartDateTime, which is taken")
    return "; ".join(word for word in words if word)


def _late(took: timedelta) -> str:
    return f"injected {-took.total_seconds():.0f} s after the start of the scan" if took < timedelta(0) else ""


def _clocks_apart(one: datetime, other: datetime) -> timedelta:
    """How far two times of day are apart, across midnight too."""
    if one.tzinfo is not None and other.tzinfo is not None:
        one = one.astimezone(other.tzinfo)
    seconds = abs((one.replace(tzinfo=None) - other.replace(tzinfo=None)).total_seconds()) % 86400
    return timedelta(seconds=min(seconds, 86400 - seconds))


def _impossible(took: timedelta, half_life: float, file: Path) -> CaseError:
    return CaseError(
        "the times of injection (RadiopharmaceuticalStartDateTime or -StartTime) and scan cannot both be right",
        file=file,
        expected=f"at most {HALF_LIVES} half lives ({HALF_LIVES * half_life / 3600:.1f} h), and no injection more than "
        f"{LATE.total_seconds() / 3600:g} h after the start",
        found=f"{took.total_seconds() / 3600:.1f} h from injection to scan",
        remedy="Correct the clock or the date, or convert the PET to SUV with the scanner's software and use NIfTI.",
    )


def missing(names: Sequence[str], file: Path, tags: Tags, why: str = "") -> CaseError:
    """The error for PET that lacks what SUV is computed from."""
    units = tags.get("Units") or tags.get("MeasurementUnits")
    return CaseError(
        f"the PET cannot be given in SUV: {', '.join(names)} missing{f' ({why})' if why else ''}",
        file=file,
        found=f"Units {units}",
        remedy=REMEDY,
    )


REMEDY = "Ask for the series with these attributes, or convert it to SUV with the scanner's software and use NIfTI."


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
