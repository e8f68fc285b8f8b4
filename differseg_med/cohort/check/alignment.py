"""Do two images of one case show the patient in the same place? Their similarity tells, with figures.

One image is shifted against the other, and a pair that looks most alike 5 mm or more from where the headers put it is
reported. Only rigid neighbours can be judged so: PET and CT of one examination, or MR sequences of one examination.
Between MR and CT the patient has been moved, and muscle and fat lie elsewhere by a centimetre; such pairs are measured
but not judged. Which kinds are judged with which stands in `differseg_med.modality.KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import SimpleITK as sitk

from differseg_med.errors import Finding
from differseg_med.metrics.similarity import measure_alignment
from differseg_med.modality import is_judged, label_of


def check_alignment(
    images: Mapping[str, sitk.Image], case: str | None = None, *, kinds: Mapping[str, str]
) -> list[Finding]:
    """Compare every pair of a case's modalities.

    Args:
        images: SimpleITK image of each modality.
        case: case id for the findings.
        kinds: kind of each modality, as far as it is known.

    Returns:
        A finding per pair: a warning for a pair that is not registered and is judged, else ok; always with figures.
    """
    findings = []
    for a, b in combinations(images, 2):
        measured = measure_alignment(images[a], images[b])
        pair = f"{a} and {b}"
        if measured is None:
            findings.append(
                Finding("ok", f"{pair}: too little in common to compare where they lie", case=case, column=b)
            )
        elif not measured.off:
            findings.append(Finding("ok", f"{pair} are registered: {measured.describe()}", case=case, column=b))
        elif is_judged(kinds.get(a), kinds.get(b)):
            remedy = "Look at both in a viewer; if they do not fit, register them (cohort register)."
            findings.append(
                Finding("warning", f"{pair} are not registered: {measured.describe()}", remedy, case=case, column=b)
            )
        else:
            words = "not compared: " + _why_not({a: kinds.get(a), b: kinds.get(b)})
            findings.append(Finding("ok", f"{pair} ({words}): {measured.describe()}", case=case, column=b))
    return findings


def _why_not(kinds: Mapping[str, str | None]) -> str:
    """Why a pair is not judged."""
    if unknown := [name for name, kind in kinds.items() if kind is None]:
        return f"nothing says what kind of image {' and '.join(unknown)} {'is' if len(unknown) == 1 else 'are'}"
    return f"with {' and '.join(map(label_of, kinds.values()))} the patient may lie differently, or look unlike"
