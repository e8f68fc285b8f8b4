"""The DICOM attributes that we read, and their values as plain numbers, strings and tuples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import IS, DSdecimal, DSfloat

# fmt: off
_IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "InstanceNumber",
)
RULES = (
    "Modality", "SeriesDescription", "ProtocolName", "SeriesNumber", "ImageType", "BodyPartExamined", "Manufacturer",
    "ManufacturerModelName", "MagneticFieldStrength", "ScanningSequence", "SequenceVariant", "SequenceName",
    "ScanOptions", "MRAcquisitionType", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "EchoNumbers",
    "EchoTrainLength", "DiffusionBValue", "DiffusionGradientOrientation", "DiffusionDirectionality",
    "ContrastBolusAgent", "KVP", "ConvolutionKernel", "ReconstructionDiameter", "SliceThickness",
    "SpacingBetweenSlices", "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "NumberOfTemporalPositions", "NominalPercentageOfCardiacPhase", "TriggerTime", "ImageOrientationPatient",
    "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "PatientPosition", "GantryDetectorTilt", "Units", "SUVType",
    "DecayCorrection", "DecayCorrected", "DecayCorrectionDateTime", "CorrectedImage", "SegmentationType",
)
"""What rules may look at: nothing that says who the patient is."""
GEOMETRY = (
    "ImagePositionPatient", "StackID", "NumberOfSlices",
)
PIXELS = (
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "LossyImageCompression",
)
TIMES = (
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "ContentTime", "AcquisitionDateTime",
    "FrameReferenceTime", "ActualFrameDuration", "TimezoneOffsetFromUTC", "AttenuationCorrected", "PatientWeight",
    "PatientSize", "PatientSex",
)
# fmt: on
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TRACER = "RadiopharmaceuticalInformationSequence"
INJECTION = (
    "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime",
    "RadionuclideTotalDose",
    "RadionuclideHalfLife",
)
"""Attributes of a tracer that are read as if they stood outside of its sequence."""

PRIVATE = {  # creator, group, element: our own names for them
    ("Philips PET Private Group", 0x7053, 0x00): "PhilipsSUVScaleFactor",
    ("Philips PET Private Group", 0x7053, 0x09): "PhilipsActivityScaleFactor",
    ("GEMS_PETD_01", 0x0009, 0x0D): "GEScanDateTime",
    ("SIEMENS MED PT", 0x0071, 0x22): "SiemensDecayCorrectionDateTime",
    ("SIEMENS MR HEADER", 0x0019, 0x0A): "SiemensImagesInMosaic",
    ("SIEMENS MR HEADER", 0x0019, 0x0C): "SiemensBValue",
    ("GEMS_PARM_01", 0x0043, 0x39): "GEBValue",
    ("Philips Imaging DD 001", 0x2001, 0x03): "PhilipsBValue",
    ("Philips Imaging DD 001", 0x2001, 0x04): "PhilipsDirection",
}
WITHOUT_CREATOR = {"GEScanDateTime": "GE", "SiemensDecayCorrectionDateTime": "SIEMENS"} | dict.fromkeys(
    ("PhilipsSUVScaleFactor", "PhilipsActivityScaleFactor"), "PHILIPS"
)
"""Of PET, private attributes that are believed of a maker's image whose private creator an archive has lost."""

_B_VALUES = ("SiemensBValue", "GEBValue", "PhilipsBValue")
GE_B_VALUE = 100_000
"""GE writes high b-values with 1e9 added: 1000001400 is 1400."""

_LISTS = {"StructureSetROISequence": ("ROINumber", "ROIName"), "SegmentSequence": ("SegmentNumber", "SegmentLabel")}

ITEM_NAMES = {"StructureSetROISequence": "regions", "SegmentSequence": "segments"}
"""Where the names of an RTSTRUCT's regions and a SEG's segments are found: pairs of number and name."""

_KEYWORDS = (
    *(*_IDENTITY, *RULES, *GEOMETRY, *PIXELS, *TIMES, *FRAMES, TRACER, *_LISTS),
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
)
HEADER_TAGS: list[BaseTag] = [
    *(Tag(keyword) for keyword in _KEYWORDS),
    *(Tag(group, element) for _, group, element in PRIVATE for element in (0x10, 0x1000 + element)),
    *(Tag(group, 0x1100 + element) for _, group, element in PRIVATE),
]


def header_values(dataset: Dataset) -> dict[str, Any]:
    """The attributes of `HEADER_TAGS` that a data set has, by keyword; a value that cannot be read counts as absent."""
    names = (*_IDENTITY, *RULES, *GEOMETRY, *PIXELS, *TIMES)
    values = _values(dataset, names)
    if not isinstance(values.get("InstanceNumber", 0), int):  # nothing needs it, and numbers do not sort with text
        del values["InstanceNumber"]
    values |= _tracer(dataset)
    for (creator, group, element), name in PRIVATE.items():
        value = _private(dataset, creator, group, element)
        if value is None and values.get("Modality") == "PT" and name in WITHOUT_CREATOR:
            value = _without_creator(dataset, group, element, WITHOUT_CREATOR[name])
        if value is not None:
            values[name] = value
    for name, value in _diffusion(values).items():
        values.setdefault(name, value)
    for sequence, (number, label) in _LISTS.items():
        if sequence in dataset:
            items = [_values(item, (number, label)) for item in _items(dataset, sequence)]
            values[ITEM_NAMES[sequence]] = tuple((item.get(number), str(item.get(label, ""))) for item in items)
    referenced = tuple(_referenced_series(dataset))
    return values | ({"referenced_series": referenced} if referenced else {})


def _tracer(dataset: Dataset) -> dict[str, Any]:
    """What was injected, its nuclide's name as ``Radionuclide``, and how many different tracers there are."""
    items = _items(dataset, TRACER)
    found = [_values(item, INJECTION) for item in items]
    for item, values in zip(items, found):
        for code in _items(item, "RadionuclideCodeSequence")[:1]:
            values["Radionuclide"] = _values(code, ("CodeMeaning",)).get("CodeMeaning", "")
    different = [values for number, values in enumerate(found) if values not in found[:number]]
    return different[0] | {"RadiopharmaceuticalCount": len(different)} if different else {}


def _without_creator(dataset: Dataset, group: int, element: int, maker: str) -> Any:
    """A private attribute of the first block, if nobody claims that block and the image is the maker's."""
    try:
        if (group, 0x10) in dataset or not str(dataset.get("Manufacturer", "")).upper().startswith(maker):
            return None
        value = plain(dataset[group, 0x1000 + element].value)
    except Exception:  # mostly KeyError: there is none
        return None
    return _number_or_text(value)


def _number_or_text(value: Any) -> Any:
    """What an element of unknown representation says."""
    text = value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else value
    try:
        return float(text) if isinstance(text, str) and len(text) < 12 else text
    except ValueError:
        return text


def _diffusion(values: dict[str, Any]) -> dict[str, Any]:
    """The standard's attributes of diffusion from the private ones that scanners wrote before it had them."""
    found: dict[str, Any] = {}
    for name in _B_VALUES:
        value = values.get(name)
        first: Any = value[0] if isinstance(value, tuple) and value else value
        try:
            found.setdefault("DiffusionBValue", float(first) % GE_B_VALUE)
        except (TypeError, ValueError):  # absent, or bytes that say nothing
            continue
    if values.get("PhilipsDirection") == "I":
        found["DiffusionDirectionality"] = "ISOTROPIC"
    return found


def frame_values(dataset: Dataset) -> tuple[dict[str, Any], ...]:
    """The functional groups of each frame of an enhanced multi-frame image, flattened; shared ones in each frame."""
    shared = {}
    for item in _items(dataset, FRAMES[0])[:1]:
        shared = _flattened(item)
    return tuple(shared | _flattened(item) for item in _items(dataset, FRAMES[1]))


def _flattened(item: Dataset) -> dict[str, Any]:
    """All plain attributes of the macros of one functional group item, whichever macro they are in."""
    values: dict[str, Any] = {}
    for element in _elements(item):
        # Philips repeats ImagePositionPatient, half a pixel aside, in a macro of its own (2005,140F).
        if isinstance(element.value, DicomSequence) and len(element.value) and not element.tag.is_private:
            macro = element.value[0]
            values |= _values(macro, [inner.keyword for inner in _elements(macro) if inner.keyword])
            values |= _tracer(macro)  # in legacy converted images
            if element.keyword == "RealWorldValueMappingSequence":
                values["RealWorldValueMappings"] = len(element.value)
            for nested in ("MRDiffusionGradientDirectionSequence", "DiffusionGradientDirectionSequence"):
                for direction in _items(macro, nested)[:1]:
                    values |= _values(direction, ("DiffusionGradientOrientation",))
            for units in _items(macro, "MeasurementUnitsCodeSequence")[:1]:
                values["MeasurementUnits"] = str(units.get("CodeValue", ""))
    if "EffectiveEchoTime" in values:
        values["EchoTime"] = values["EffectiveEchoTime"]
    if "FrameType" in values:
        values["ImageType"] = values["FrameType"]
    return values


def _elements(dataset: Dataset) -> Iterable[Any]:
    for tag in list(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:
            continue


def _values(dataset: Dataset, names: Iterable[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            value = plain(dataset.get(name))
        except Exception:  # whatever the damaged bytes lead to: the value is absent
            continue
        if value not in (None, "", ()):
            found[name] = value
    return found


def _items(dataset: Dataset, sequence: str) -> list[Dataset]:
    try:
        value = dataset.get(sequence)
        return list(value) if isinstance(value, DicomSequence) else []
    except Exception:
        return []


def _private(dataset: Dataset, creator: str, group: int, element: int) -> Any:
    try:
        value = plain(dataset.private_block(group, creator)[element].value)
        return _number_or_text(value) if group == 0x7053 else value
    except Exception:  # mostly KeyError: there is none
        return None


def _referenced_series(dataset: Dataset) -> Iterable[str]:
    """SeriesInstanceUIDs that an RTSTRUCT (by its frames of reference) or a SEG says it was drawn on."""
    series = _items(dataset, "ReferencedSeriesSequence")
    for frame in _items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in _items(frame, "RTReferencedStudySequence"):
            series += _items(study, "RTReferencedSeriesSequence")
    for item in series:
        yield from _values(item, ("SeriesInstanceUID",)).values()


def plain(value: Any) -> Any:
    """A pydicom value as float, int, str, bytes or a tuple of them; None for what is none of these."""
    if isinstance(value, MultiValue | list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, DSfloat | DSdecimal | float):
        return float(value)
    if isinstance(value, IS | int):
        return int(value)
    if isinstance(value, bytes):
        return value
    return None if value is None or isinstance(value, DicomSequence | Dataset) else str(value).strip()
