"""What a mask shows, in DICOM's codes: looked up by words in the lists that pydicom ships, never guessed.

The lists are the context groups of DICOM PS3.16 for segments (CID 7150 and below) and anatomy (CID 4031). 3D Slicer's
terminology is made from the same ones.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache

from pydicom.sr.codedict import Collection
from pydicom.sr.coding import Code

from differseg_med.errors import CaseError

TISSUE = Code("85756007", "SCT", "Tissue")
"""Category and type of a mask of which nothing is known: what 3D Slicer calls a new segment."""

_CATEGORIES = {
    "abnormal": Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    "tissue": TISSUE,
    "anatomy": Code("91723000", "SCT", "Anatomical Structure"),
    "object": Code("260787004", "SCT", "Physical object"),
}
_LISTS = {
    "abnormal": ("CID7194", "CID7159"),
    "tissue": ("CID7166",),
    "anatomy": (
        "CID7153",
        "CID7154",
        "CID7155",
        "CID7152",
        "CID7156",
        "CID7160",
        "CID7167",
        "CID7140",
        "CID4031",
        "CID7151",
    ),
    "object": ("CID7157", "CID7193"),
}
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}

_LEFT_OUT = {"Background", "Normal"}

_WORDS = {
    "tumour": "neoplasm",
    "tumor": "neoplasm",
    "metastasis": "neoplasm secondary",
    "metastases": "neoplasm secondary",
    "oedema": "edema",
    "haemorrhage": "hemorrhage",
    "bleeding": "hemorrhage",
    "hepatic": "liver",
    "renal": "kidney",
    "pulmonary": "lung",
    "cerebral": "brain",
    "thrombus": "blood clot",
}
"""Words that DICOM's lists have otherwise."""

_SILENT = {"of", "the", "a", "an", "in", "and", "structure"}

_LISTED = 6


@dataclass(frozen=True)
class Terms:
    """What a mask shows.

    Args:
        label: in the user's words; the name of the segment.
        category: kind of thing.
        type: the thing.
        region: where it is, if that was said.
        side: left or right, if that was said.
        note: how the codes were found, in a sentence.
    """

    label: str
    category: Code
    type: Code
    region: Code | None = None
    side: Code | None = None
    note: str = ""

    def block(self) -> dict[str, object]:
        """The entry ``segment`` of a bundle's metadata, see `differseg_med.export.segment`."""
        block: dict[str, object] = {
            "SegmentLabel": self.label,
            "SegmentAlgorithmType": "AUTOMATIC",
            "recommendedDisplayRGBValue": [255, 159, 28],
            "SegmentedPropertyCategoryCodeSequence": _sequence(self.category),
            "SegmentedPropertyTypeCodeSequence": _sequence(self.type),
        }
        of = "SegmentedPropertyTypeModifierCodeSequence" if self.region is None else "AnatomicRegionModifierSequence"
        codes = {"AnatomicRegionSequence": self.region, of: self.side}
        return block | {name: _sequence(code) for name, code in codes.items() if code is not None}


_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,()+'_-]{0,63}")
"""Labels that are nothing but text to DICOM, NRRD, JSON, YAML and MONAI."""


def look_up(target: str, option: str = "--target") -> Terms:
    """The codes of a target.

    Args:
        target: words such as ``liver lesion``, or ``LABEL=WORDS`` where the segment's name and the words that are
            looked up differ: ``MS lesion=brain lesion``. Empty: a neutral code.
        option: how it was given, for messages.

    Raises:
        CaseError: if the words are in no list or fit several entries, where it lists what is nearest; or if the label
            cannot be written.
    """
    if not target.strip():
        words = f"No target was named: the codes say Tissue, which is true of anything. Name it with {option}."
        return Terms("Target", TISSUE, TISSUE, note=words)
    label, _, words = (part.strip() for part in target.rpartition("="))
    if label and not _LABEL.fullmatch(label):
        expected = "at most 64 letters, digits, spaces and . , ( ) + ' -, ASCII, a letter or digit first"
        raise CaseError(f"{option} LABEL=WORDS: the label cannot be that of a segment", expected=expected, found=label)
    wanted = _wanted(words)
    found = _found(wanted) or _found(wanted - set(_SIDES))
    if found is not None:
        kind, code, region = found
        side = next((code for word, code in _SIDES.items() if word in wanted - _wanted(found[1].meaning)), None)
        meant = " ".join(c.meaning for c in (side, code) if c) + (f" in {region.meaning}" if region else "")
        note = f"{words!r} is {meant} in DICOM's lists."
        return Terms(label or words, _CATEGORIES[kind], code, region, side, note)
    near = _near(wanted)
    raise CaseError(
        f"{option} {words!r} is not in DICOM's lists as it stands",
        expected="one of " + ", ".join(f'"{meaning}"' for meaning in near),
        remedy=f'Choose one, and keep your own name if you like: {option} "{label or words}={near[0].lower()}"; '
        f"or leave {option} out for a neutral code.",
    )


def _found(wanted: frozenset[str]) -> tuple[str, Code, Code | None] | None:
    """Kind, type and region: an entry of these words, or one of some of them in a region of the others."""
    concepts = _concepts()
    for kind, codes in concepts.items():
        if wanted in codes:
            return kind, codes[wanted], None
    for kind in ("abnormal", "tissue"):
        # The most words first: "enhancing lesion" before "lesion".
        for key, code in sorted(concepts[kind].items(), key=lambda item: -len(item[0])):
            if key <= wanted and wanted - key in concepts["anatomy"]:
                return kind, code, concepts["anatomy"][wanted - key]
    return None


@cache
def _concepts() -> dict[str, dict[frozenset[str], Code]]:
    """Entries of the lists by kind, then by their words; of two with the same words the first."""
    found: dict[str, dict[frozenset[str], Code]] = {}
    for kind, lists in _LISTS.items():
        own = found.setdefault(kind, {})
        for code in (code for name in lists for code in Collection(name).concepts.values()):
            if code.meaning not in _LEFT_OUT:
                own.setdefault(_wanted(code.meaning), code)
    return found


def _wanted(text: str) -> frozenset[str]:
    """The words that count: small letters, singular, in the spelling of the lists."""
    words = [_singular(word) for word in re.findall(r"[a-z0-9]+", text.casefold())]
    joined = " ".join(_WORDS.get(word, word) for word in words if word not in _SILENT)
    return frozenset(joined.split())


def _singular(word: str) -> str:
    if word in _WORDS or len(word) < 4 or word.endswith(("ss", "is", "us")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")


def _near(wanted: frozenset[str]) -> list[str]:
    """Entries that share a word with what was said, the abnormal ones first; else those that are spelt alike."""
    meanings = {
        code.meaning: key for kind in ("abnormal", "tissue", "anatomy") for key, code in _concepts()[kind].items()
    }
    sharing = [meaning for meaning, key in meanings.items() if key & wanted]
    if len(sharing) < 2:
        spelt = {meaning.casefold(): meaning for meaning in meanings}
        sharing += [spelt[m] for m in difflib.get_close_matches(" ".join(sorted(wanted)), spelt, _LISTED, 0.75)]
    general = ["Lesion", "Mass", "Neoplasm", "Edema", "Necrosis"]
    return [*dict.fromkeys(sharing)][:_LISTED] or general


def _sequence(code: Code) -> dict[str, str]:
    return {
        "CodingSchemeDesignator": code.scheme_designator,
        "CodeValue": code.value,
        "CodeMeaning": code.meaning,
    }
