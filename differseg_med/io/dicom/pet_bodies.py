"""SUV by lean body mass, ideal body weight or body surface area as SUV by body weight, through the patient's size.

The formulas are those of DICOM's SUVType (PS3.3 C.8.9.1), after Sugawara et al. 1999, Morgan, James, Janmahasatian et
al. 2005 and Du Bois 1916, as the IBSI manual for SUV computation lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.errors import CaseError
from differseg_med.io.dicom.pet_times import missing

UNITS = {"BW": "GML", "LBM": "GML", "LBMJAMES128": "GML", "LBMJANMA": "GML", "IBW": "GML", "BSA": "CM2ML"}
"""SUVType and the Units that go with it."""

CREDIBLE_SHARE = (0.2, 1.5)
"""Lean mass or ideal weight as a share of the weight; the formulas fail for children and in extreme obesity."""

CREDIBLE_M = (0.4, 2.6)
"""Sizes of patients; numbers a hundred times as large are centimetres."""


def weight_per(kind: str, tags: Mapping[str, Any], weight: float, file: Path) -> tuple[float, str]:
    """What SUV of some kind is multiplied with to be SUV by body weight, and a note.

    Args:
        kind: a SUVType, not ``BW``.
        tags: with PatientSize and PatientSex; ``O`` (other) takes the mean of male and female.
        weight: in kg.
        file: for messages.

    Raises:
        CaseError: if size or sex are missing or cannot be right.
    """
    size = _size_cm(tags, file)
    if kind == "BSA":  # cm2/ml: Du Bois gives m2
        return weight * 1000 / (0.007184 * size**0.725 * weight**0.425 * 1e4), "PET in SUV by BSA, converted to weight"
    sex = str(tags.get("PatientSex", ""))
    if sex not in ("M", "F", "O"):
        raise missing(["PatientSex"], file, tags, f"SUVType {kind}")
    mass = float(
        np.mean([_mass(kind, male, weight, size) for male in {"M": [True], "F": [False]}.get(sex, [True, False])])
    )
    if not CREDIBLE_SHARE[0] <= mass / weight <= CREDIBLE_SHARE[1]:
        raise CaseError(
            f"PatientSize and PatientWeight of the PET give no credible {kind}",
            file=file,
            found=f"{mass:.1f} kg of {weight:g} kg at {size:g} cm",
        )
    return weight / mass, f"PET in SUV by {kind}, converted to weight through size and sex"


def _mass(kind: str, male: bool, weight: float, size: float) -> float:
    """Lean body mass or ideal body weight in kg from weight in kg and size in cm."""
    squared = (weight / size) ** 2
    if kind == "LBM":
        return 1.10 * weight - 120 * squared if male else 1.07 * weight - 148 * squared
    if kind == "LBMJAMES128":
        return 1.10 * weight - 128 * squared if male else 1.07 * weight - 148 * squared
    if kind == "LBMJANMA":
        index = weight / (size / 100) ** 2
        return 9270 * weight / (6680 + 216 * index if male else 8780 + 244 * index)
    return 48.0 + 1.06 * (size - 152) if male else 45.5 + 0.91 * (size - 152)


def _size_cm(tags: Mapping[str, Any], file: Path) -> float:
    size = tags.get("PatientSize")
    if not isinstance(size, int | float) or not size:
        raise missing(["PatientSize"], file, tags)
    for factor in (1.0, 100.0):
        if CREDIBLE_M[0] <= size / factor <= CREDIBLE_M[1]:
            return float(size) / factor * 100
    raise CaseError(
        "PatientSize of the PET cannot be right",
        file=file,
        expected=f"{CREDIBLE_M[0]:g} to {CREDIBLE_M[1]:g} m",
        found=f"{size:g}",
    )
