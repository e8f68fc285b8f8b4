"""Do two images of one case show the patient in the same place? Their likeness tells, with figures.

One image is shifted against the other, and a pair that looks most alike 5 mm or more from where the headers put it is
reported. Only rigid neighbours can be judged so: PET and CT of one examination, or MR sequences of one examination.
Between MR and CT the patient has been moved, and muscle and fat lie elsewhere by a centimetre; such pairs are measured
but not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations

import SimpleITK as sitk

from differseg_med.cohort.registration.similarity import measure_alignment
from differseg_med.grids import Finding

KINDS = {"ct": r"^ct(_|$)", "pet": r"^(pet|pt|suv|fdg)(_|$)"}
JUDGED = ({"ct", "pet"}, {"mr"}, {"ct"}, {"pet"})
"""Kinds of pairs in which the patient lies the same way: PET and CT, or two of one kind."""


def kind_of(modality: str) -> str:
    """``ct``, ``pet`` or ``mr`` from a column's name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, modality, re.IGNORECASE)), "mr")


def is_judged(a: str, b: str) -> bool:
    """Whether two modalities are taken with the patient lying the same way."""
    return {kind_of(a), kind_of(b)} in JUDGED


def check_alignment(images: Mapping[str, sitk.Image], case: str | None = None) -> list[Finding]:
    """Compare every pair of a case's modalities.

    Args:
        images: SimpleITK image of each modality.
        case: case id for the findings.

    Returns:
        A finding per pair: a warning for a pair that does not line up and is judged, else ok; always with figures.
    """
    findings = []
    for a, b in combinations(images, 2):
        measured = measure_alignment(images[a], images[b])
        pair = f"{a} and {b}"
        if measured is None:
            findings.append(Finding(case, b, "ok", f"{pair}: too little in common to compare where they lie"))
        elif not measured.off:
            findings.append(Finding(case, b, "ok", f"{pair} line up: {measured.describe()}"))
        elif is_judged(a, b):
            remedy = "Look at both in a viewer; if they do not fit, register them (cohort register)."
            findings.append(Finding(case, b, "warning", f"{pair} do not line up: {measured.describe()}", remedy))
        else:
            words = "not judged: taken with the patient lying differently"
            findings.append(Finding(case, b, "ok", f"{pair} ({words}): {measured.describe()}"))
    return findings
