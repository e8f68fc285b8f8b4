"""Masks as BIDS derivatives: names, sidecar and description of the data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from differseg_med.atomic import write_text
from differseg_med.errors import CaseError
from differseg_med.export.nifti import save_nifti
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import FloatArray
from differseg_med.guard import writing_for
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.nifti_header import NiftiHeader

BIDS_VERSION = "1.10.0"

BIDS_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_[A-Za-z0-9]+\.nii(?:\.gz)?")
"""Names of images in BIDS: entities, then a suffix such as T1w."""

DATATYPES = ("anat", "pet", "dwi", "func", "perf", "fmap")
"""Folders of images in BIDS."""

_OURS = ("res", "den", "label", "desc")
"""Entities that the mask has for itself; they end a name."""

_CASE = "CohortCase"
"""Key of the sidecar that says whose mask it is."""

_RAW = "raw"
"""Name of the data set with the images, in BIDS URIs."""

ABNORMAL = "49755003"
"""SNOMED CT: morphologically abnormal structure, which BIDS calls a lesion."""


def save_bids(
    mask: NDArray[Any],
    affine: FloatArray,
    root: str | Path,
    reference: Path,
    case_id: str,
    segment: SegmentInfo,
    *,
    like: NiftiHeader | None = None,
    subject: str = "",
) -> Path:
    """Save a mask in a BIDS derivatives data set, with its sidecar and ``dataset_description.json``.

    Args:
        mask: ``(H, W, D)`` of 0 and 1, on the grid of ``affine``.
        affine: 4 x 4, from voxel indices to mm, RAS.
        root: folder of the data set.
        reference: the image that the mask belongs to. If it has a BIDS name, the mask inherits its entities.
        case_id: becomes the subject otherwise, letters and digits alone. The sidecar keeps it whole.
        segment: its name becomes the entity ``label``.
        like, subject: header of a reference that is a NIfTI, as for `save_nifti`; see `subjects`.

    Returns:
        The mask: ``sub-01/anat/sub-01_space-orig_label-lesion_desc-differseg_mask.nii.gz``.

    Raises:
        CaseError: if the mask cannot be stored faithfully.
    """
    match = BIDS_NAME.fullmatch(reference.name)
    entities = match[1].split("_") if match else [f"sub-{subject or subjects([case_id])[case_id] or 'unknown'}"]
    entities = [entity for entity in entities if entity.split("-")[0] not in _OURS]
    if not any(entity.startswith("space-") for entity in entities):
        entities.append("space-orig")
    label = _alphanumeric(segment.name)
    name = "_".join([*entities, f"label-{label}", "desc-differseg", "mask"])
    places = [entity for entity in entities[:2] if entity.startswith(("sub-", "ses-"))]
    kind = reference.parent.name if match and reference.parent.name in DATATYPES else "anat"
    path = Path(root, *places, kind, f"{name}.nii.gz")
    sidecar_file = path.with_name(f"{name}.json")
    _check_free(sidecar_file, case_id)
    save_nifti(mask, affine, path, reference_header=like)
    texts = (segment.name, segment.algorithm_name, segment.algorithm_version, segment.description)
    sidecar: dict[str, object] = {
        "Type": "Lesion" if segment.property_category and segment.property_category.value == ABNORMAL else "ROI",
        "SpatialReference": "orig",
        "Description": " ".join(filter(None, texts)),
        _CASE: case_id,
    }
    way = "/".join([*places, kind, reference.name])
    link = _way_up(root, reference, way) if match else ""
    if match:
        sidecar |= {"Sources": [f"bids:{_RAW}:{way}"]} if link else {"RawSources": [way]}
    _write_json(sidecar_file, sidecar)
    _describe(Path(root, "dataset_description.json"), link)
    return path


def _way_up(root: str | Path, reference: Path, way: str) -> str:
    """From our data set to the one that the reference lies in at ``way``; empty unless ours lies inside of that.

    Only then does the way say nothing of where the images lie, but how many folders up.
    """
    own, image = Path(root).resolve(), reference.resolve()
    if not image.as_posix().endswith(f"/{way}"):
        return ""
    source = image.parents[way.count("/")]
    return "/".join([".."] * len(own.relative_to(source).parts)) if source in own.parents else ""


def _describe(path: Path, link: str) -> None:
    """Write the description of the data set, with the way to the images if there is one."""
    description: dict[str, Any] = {
        "Name": "differseg_med masks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "differseg_med", "Version": version("differseg-med")}],
    }
    if link := link or _link_in(path):
        description["DatasetLinks"] = {_RAW: link}
    with writing_for(""):  # all cases share it
        _write_json(path, description)


def _link_in(path: Path) -> str:
    """The way to the images that another case has written."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["DatasetLinks"][_RAW])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _check_free(sidecar: Path, case_id: str) -> None:
    """Refuse a name that another case's mask has: ids such as ``a-1`` and ``a1`` are one subject in BIDS."""
    try:
        other = json.loads(sidecar.read_text(encoding="utf-8")).get(_CASE, case_id)
    except (OSError, ValueError, AttributeError):  # none yet, or none of ours
        return
    if other != case_id:
        raise CaseError(
            f"case {other} has the same name in BIDS",
            case=case_id or None,
            file=sidecar,
            remedy="Make the ids differ in letters and digits, or write into another folder.",
        )


def subjects(case_ids: Iterable[str]) -> dict[str, str]:
    """BIDS subjects of case ids, which are letters and digits alone, all different whatever their capitals.

    ``STS_003`` is ``STS003``. Where two ids would be one so, both get every other character by its number in Unicode,
    hexadecimal between Z and z: ``S1_11`` is ``S1Z5fz11``, ``S11_1`` is ``S11Z5fz1``, a ``Z`` itself ``Z5az``.
    """
    ids = list(dict.fromkeys(case_ids))
    short = {case_id: _alphanumeric(case_id) for case_id in ids}
    counts = Counter(name.casefold() for name in short.values())
    names = {i: name if name and counts[name.casefold()] == 1 else _escaped(i) for i, name in short.items()}
    if len({name.casefold() for name in names.values()}) < len(ids):
        names = {case_id: _escaped(case_id) for case_id in ids}
    return names


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _escaped(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() and c != "Z" else f"Z{ord(c):x}z" for c in text)


def _alphanumeric(text: str) -> str:
    """BIDS labels are letters and digits: the words of a name in camel case."""
    words = re.findall(r"[A-Za-z0-9]+", text)
    return "".join([words[0], *(word[0].upper() + word[1:] for word in words[1:])]) if words else ""


def write_bids(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``bids``, see `save_bids`."""
    reference = split_cell(segmented.images[segmented.reference])[0]
    save_bids(
        segmented.mask,
        segmented.grid.affine,
        path,
        reference,
        segmented.case_id,
        segmented.segment,
        like=segmented.nifti_header,
        subject=segmented.subject,
    )
    return []
