"""What a mask shows: name, colour and codes, from a bundle's metadata or from a file in dcmqi's format.

The keys are those of dcmqi's segment attributes, which are DICOM's keywords, so that one block serves both programs:

    "segment": {
      "SegmentLabel": "Gross tumour volume",
      "SegmentAlgorithmType": "AUTOMATIC",
      "recommendedDisplayRGBValue": [255, 159, 28],
      "SegmentedPropertyCategoryCodeSequence":
        {"CodingSchemeDesignator": "SCT", "CodeValue": "49755003", "CodeMeaning": "Morphologically Abnormal Structure"},
      "SegmentedPropertyTypeCodeSequence": {...}
    }

See docs/exports.md for all keys. Nothing has a default that could be wrong: without codes there is no DICOM SEG.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom.config import IGNORE
from pydicom.sr.coding import Code
from pydicom.uid import UID

from differseg_med.errors import CaseError

ALGORITHM_TYPES = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")
"""Segment Algorithm Type (0062,0008)."""

CODES = {
    "SegmentedPropertyCategoryCodeSequence": "property_category",
    "SegmentedPropertyTypeCodeSequence": "property_type",
    "SegmentedPropertyTypeModifierCodeSequence": "property_type_modifier",
    "AnatomicRegionSequence": "anatomic_region",
    "AnatomicRegionModifierSequence": "anatomic_region_modifier",
}
_TEXTS = {
    "SegmentLabel": "name",
    "SegmentDescription": "description",
    "SegmentAlgorithmType": "algorithm_type",
    "SegmentAlgorithmName": "algorithm_name",
    "AlgorithmVersion": "algorithm_version",
    "TrackingIdentifier": "tracking_id",
    "TrackingUniqueIdentifier": "tracking_uid",
}
COLOR = "recommendedDisplayRGBValue"
IGNORED = ("labelID",)
"""Keys of dcmqi without a place in what we write."""

_LONGEST = 64
"""Characters of a DICOM text of VR LO: labels, names, versions and code meanings."""


DESCRIPTION = re.compile(r"[ -~]{0,1024}")
"""Segment Description (0062,0006), VR ST."""

_TEXT = re.compile(rf"[ !-\[\]_-{{}}]{{1,{_LONGEST}}}")
"""What NRRD headers and DICOM both take: ASCII without the signs that separate values in one of them."""


@dataclass(frozen=True)
class SegmentInfo:
    """What the foreground of a mask is and who drew it.

    Args:
        name: for lists of segments, at most 64 characters.
        color: red, green, blue, 0 to 255.
        property_category: kind of thing, from DICOM CID 7150 (tissue, morphologically abnormal structure, ...).
        property_type: the thing itself, from CID 7151.
        property_type_modifier: a side, for example.
        anatomic_region: where it is; only if that holds for every case.
        anatomic_region_modifier: the region's side.
        algorithm_type: one of `ALGORITHM_TYPES`, empty if not known.
        algorithm_name: of the model.
        algorithm_version: of the model.
        tracking_id: of the finding over several studies; made from the name where it is empty.
        tracking_uid: likewise; new in every export where it is empty.
        description: free text, ASCII; a run adds which modalities the case had.
    """

    name: str
    color: tuple[int, int, int] = (255, 159, 28)
    property_category: Code | None = None
    property_type: Code | None = None
    property_type_modifier: Code | None = None
    anatomic_region: Code | None = None
    anatomic_region_modifier: Code | None = None
    algorithm_type: str = ""
    algorithm_name: str = ""
    algorithm_version: str = ""
    tracking_id: str = ""
    tracking_uid: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a segment needs a name (SegmentLabel)")
        texts = (self.name, self.algorithm_name, self.algorithm_version, self.tracking_id)
        for text in (*texts, *chain.from_iterable(self.codes)):
            if text and not _TEXT.fullmatch(text):
                raise ValueError(f"{text!r} is no text of at most {_LONGEST} ASCII characters without \\ ^ ~ |")
            if text and text != text.strip():
                raise ValueError(f"{text!r} begins or ends with a space, which neither DICOM nor NRRD keeps")
        if not DESCRIPTION.fullmatch(self.description):
            raise ValueError("SegmentDescription is no text of one line with at most 1024 ASCII characters")
        if len(self.color) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in self.color):
            raise ValueError(f"{COLOR} is three whole numbers from 0 to 255, got {list(self.color)}")
        if self.tracking_uid and not UID(self.tracking_uid, IGNORE).is_valid:
            raise ValueError(f"TrackingUniqueIdentifier is no DICOM UID: {self.tracking_uid!r}")
        if self.algorithm_type not in ("", *ALGORITHM_TYPES):
            raise ValueError(f"SegmentAlgorithmType is one of {ALGORITHM_TYPES}, got {self.algorithm_type!r}")

    @property
    def segment_id(self) -> str:
        """Stable identifier of the segment in a file: the name in lower case ASCII letters, digits and underscores."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_") or "segment"

    @property
    def codes(self) -> tuple[Code, ...]:
        """The codes that are there."""
        return tuple(code for name in CODES.values() if (code := getattr(self, name)) is not None)


def read_segment(path: str | Path) -> SegmentInfo:
    """Read a bundle's block ``segment``, or a JSON file with such a block or of dcmqi.

    Args:
        path: a bundle's folder, or a JSON file: the attributes themselves, or dcmqi's ``segmentAttributes`` with one
            segment.

    Raises:
        CaseError: if there is no such file, or it is not of this form.
    """
    path = Path(path)
    file = path / "configs" / "metadata.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(
            "the description of the segment cannot be read",
            file=file,
            found=type(error).__name__,
            remedy="Name a bundle's folder or a JSON file.",
        ) from error
    try:
        return _from_metadata(document) if path.is_dir() else _parse(_attributes(document))
    except (ValueError, TypeError, KeyError) as error:
        raise CaseError(
            f"the description of the segment is not right: {error}",
            file=file,
            remedy='See "What the mask shows" in docs/exports.md.',
        ) from error


def segment_of(block: Mapping[str, Any]) -> SegmentInfo:
    """The segment that attributes in dcmqi's words describe.

    Raises:
        CaseError: if they are not of this form.
    """
    try:
        return _parse(block)
    except (ValueError, TypeError, KeyError) as error:
        raise CaseError(f"the description of the segment is not right: {error}") from error


def _from_metadata(metadata: Mapping[str, Any]) -> SegmentInfo:
    """The block ``segment``; without one the name of the first output channel, and no codes."""
    channels = metadata["network_data_format"]["outputs"]["pred"].get("channel_def", {})
    block = dict(metadata.get("segment") or {"SegmentLabel": channels.get("0", "segmentation")})
    model = {"SegmentAlgorithmName": metadata["name"][:_LONGEST].strip(), "AlgorithmVersion": metadata["version"]}
    return _parse({"SegmentAlgorithmType": "AUTOMATIC", **model, **block})


def _attributes(document: Any) -> Mapping[str, Any]:
    if "segmentAttributes" not in document:
        return dict(document)
    segments = [segment for group in document["segmentAttributes"] for segment in group]
    if len(segments) != 1:
        raise ValueError(f"segmentAttributes has {len(segments)} segments, a binary mask has one")
    return dict(segments[0])


def _parse(block: Mapping[str, Any]) -> SegmentInfo:
    if unknown := sorted(set(block) - {*CODES, *_TEXTS, COLOR, *IGNORED}):
        raise ValueError(f"unknown keys {unknown}; known are {sorted({*CODES, *_TEXTS, COLOR})}")
    if "SegmentLabel" not in block:
        raise ValueError("SegmentLabel is missing")
    values: dict[str, Any] = {name: str(block[key]).strip() for key, name in _TEXTS.items() if key in block}
    values |= {name: _code(key, block[key]) for key, name in CODES.items() if block.get(key)}
    if COLOR in block:
        values["color"] = tuple(block[COLOR])
    return SegmentInfo(**values)


def _code(key: str, given: Any) -> Code:
    parts = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    if not isinstance(given, Mapping) or not all(isinstance(given.get(part), str) and given[part] for part in parts):
        raise ValueError(f"{key} needs {', '.join(parts)} as texts")
    return Code(*(given[part] for part in parts))
