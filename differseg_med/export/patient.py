"""Whose a derived DICOM object is: what its source says of patient and study, as far as needed, in any language.

PS3.3 requires of a segmentation little of its patient (C.7.1.1 and C.7.2.1, types 1 and 2, and what de-identification
and trials add); comments, history, occupation and physicians stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydicom.charset import convert_encodings, python_encoding
from pydicom.config import RAISE
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

PRODUCT = "differseg_med"
"""What made a derived object."""

UTF8 = "ISO_IR 192"
LATIN1 = "ISO_IR 100"

OTHER_NAMES = {"UTF8": UTF8, "UNICODE": UTF8, "LATIN1": LATIN1, "ASCII": "", "GB18030": "GB18030", "GBK": "GBK"}
"""What else programs call character sets; spaces, hyphens and underscores left out."""

_TEXTS = ("PN", "LO", "SH", "ST", "LT", "UC", "UT")
"""Value representations that Specific Character Set is about."""

ESCAPE = re.compile(r"\x1b[\x20-\x2f]*[\x30-\x7e]")
"""What calls a character set in ISO 2022; no text has it once it is decoded."""

NEEDED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthDate",
    "PatientSex", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription",
    "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole",
    "ResponsibleOrganization", "QualityControlSubject",
)  # fmt: skip
"""Of group 0010: types 1 and 2, and what is required of animals."""

OF_STUDY = (
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence", "RequestingService",
    "RequestingServiceCodeSequence", "ReferencedStudySequence", "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence", "ReasonForVisit", "ReasonForVisitCodeSequence", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState", "StudyDescription",
)  # fmt: skip
"""Of the study: what describes the patient or names people, and is not required."""


SHORT_TEXTS = ("SH", "LO", "CS", "AS", "DA", "TM")
"""Value representations that scanners and anonymizers overfill."""

OF_EQUIPMENT = (
    "InstitutionName", "InstitutionAddress", "InstitutionCodeSequence", "InstitutionalDepartmentName",
    "InstitutionalDepartmentTypeCodeSequence", "StationName", "OperatorsName", "OperatorIdentificationSequence",
)  # fmt: skip
"""Where, and by whom, images were made; highdicom copies it into ContributingEquipmentSequence."""

KEPT = ("PatientID", "Modality")
"""What is never emptied, however wrong."""


def keep_needed(dataset: Dataset) -> None:
    """Remove from a derived object what its modules do not require of patient and study."""
    for element in list(dataset):
        if (element.tag.group == 0x0010 and element.keyword not in NEEDED) or element.keyword in OF_STUDY:
            del dataset[element.tag]
    if dataset.get("ReferringPhysicianName"):
        dataset.ReferringPhysicianName = ""  # type 2: there, and empty
    for equipment in (dataset, *dataset.get("ContributingEquipmentSequence", ())):
        for keyword in OF_EQUIPMENT:
            if keyword in equipment:
                del equipment[keyword]
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        for keyword in ("DeviceSerialNumber", "DeviceUID"):  # the scanner's; at the top it is our own
            if keyword in equipment:
                del equipment[keyword]


def empty_invalid(dataset: Dataset) -> list[str]:
    """Empty the values of a header that DICOM does not allow: copied, they would make the new object invalid too."""
    notes = []
    for element in dataset:
        if element.VR not in SHORT_TEXTS or element.keyword in KEPT or not element.value:
            continue
        try:
            for value in [element.value] if element.VM == 1 else element.value:
                validate_value(element.VR, value, RAISE)
        except ValueError:
            notes.append(f"{element.keyword} of the source breaks DICOM's rules and was left empty")
            element.value = ""
    return notes


def make_readable(dataset: Dataset) -> None:
    """Decode all texts of a header by its character set, also if the set's name is misspelt."""
    stated = dataset.get("SpecificCharacterSet")
    terms = [stated] if isinstance(stated, str) or stated is None else list(stated)
    known = [_known(str(term or "")) for term in terms]
    if None in known:  # nobody knows what it means: UTF-8 if it can be that, else the most common of Europe
        known = [UTF8 if _is_utf8(dataset) else LATIN1]
    if known != [str(term or "") for term in terms]:
        # pydicom has set the wrong encodings when it read the file; elements that nobody has looked at are still raw.
        encodings = convert_encodings([term or "" for term in known])
        for tag in list(dataset.keys()):
            raw: Any = dataset.get_item(tag)
            if isinstance(raw, RawDataElement):
                dataset[tag] = convert_raw_data_element(raw, encoding=encodings, ds=dataset)
        dataset.SpecificCharacterSet = known if len(known) > 1 else known[0]
    dataset.decode()
    for element in dataset:
        if element.VR in _TEXTS and ESCAPE.search(str(element.value)):  # pydicom leaves those of ISO 2022 IR 58
            cleaned = [ESCAPE.sub("", str(value)) for value in (element.value if element.VM > 1 else [element.value])]
            element.value = cleaned if element.VM > 1 else cleaned[0]


def character_set(dataset: Dataset, *others: Dataset) -> str | None:
    """The character set for a derived object: that of the source if every reader knows it and it holds all texts.

    Args:
        dataset: the source's header.
        others: what else has texts.
    """
    stated = dataset.get("SpecificCharacterSet")
    texts = "".join(text for each in (dataset, *others) for text in _texts(each))
    if texts.isascii() and stated in (None, "", "ISO_IR 6", LATIN1, UTF8):
        return str(stated) if stated else None
    latin = stated == LATIN1 and all(ord(letter) < 256 for letter in texts)
    return LATIN1 if latin else UTF8


def _known(term: str) -> str | None:
    """A defined term of Specific Character Set (0008,0005) from one that may be misspelt; None if it says nothing."""
    if term.strip() in python_encoding:
        return term.strip()
    letters = re.sub(r"[\s_\-.]+", "", term).upper()
    if letters in OTHER_NAMES:
        return OTHER_NAMES[letters]
    match = re.fullmatch(r"ISO(2022)?IR(\d{1,3})", letters)
    found = f"{'ISO 2022 IR' if match[1] else 'ISO_IR'} {match[2]}" if match else None
    return found if found in python_encoding else None


def _is_utf8(dataset: Dataset) -> bool:
    try:
        for tag in list(dataset.keys()):  # of raw elements; iterating the data set itself would decode them
            value = dataset.get_item(tag).value
            if isinstance(value, bytes) and tag.group in (0x0008, 0x0010):
                value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _texts(dataset: Dataset) -> Iterator[str]:
    """All texts of a data set."""
    for element in dataset.iterall():
        if element.VR in _TEXTS:
            values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
            yield from (str(value) for value in values if value)
