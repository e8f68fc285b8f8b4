"""Masks as RT Structure Sets: contours on the slices of the images that they were drawn on (PS3.3 A.19)."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.export.checks import checked, differs
from differseg_med.export.outlines import outlines
from differseg_med.export.patient import PRODUCT, character_set, empty_invalid, keep_needed, make_readable
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.export.source import Slice, SourceSeries, source_of
from differseg_med.geometry import FloatArray
from differseg_med.io.dicom.contours import Account, Contour, fill_slice
from differseg_med.io.dicom.files import quiet
from differseg_med.io.dicom.planes import Plane

FROM_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved",
    "DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip
"""What the object has in common with its images: whose it is, of which study, and in which space."""

MAY_BE_EMPTY = FROM_PATIENT[:2] + FROM_PATIENT[3:5] + FROM_PATIENT[8:13] + FROM_PATIENT[15:]
WRITTEN_MM = 1e-4
"""Contours are written to a ten-thousandth of a mm."""


def save_rtstruct(
    mask: NDArray[Any], affine: FloatArray, source: SourceSeries, path: str | Path, segment: SegmentInfo
) -> list[str]:
    """Save a mask as RTSTRUCT with one ROI, read it back, fill its contours, compare, and only then give it its name.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on the source's voxels, its axes in any order; or on those that the source was
            resampled to.
        affine: 4 x 4, from voxel indices to mm, RAS; the file is LPS.
        source: the images that the mask was drawn on, see `differseg_med.export.source.read_source`.
        path: the file to write, ``.dcm``.
        segment: name and color of the ROI.

    Returns:
        Notes for the user.

    Raises:
        CaseError: if the mask is on another grid, the images state no frame of reference, or the contours in the file
            do not give the mask again.
    """
    path = Path(path)
    frames, notes = source.frames_of(*checked(mask, affine, path))
    first = source.datasets[0]
    if not first.get("FrameOfReferenceUID"):
        raise CaseError(
            "no RTSTRUCT can be made: the images have no FrameOfReferenceUID (0020,0052)",
            file=path,
            remedy="Export the series again with it, or use another format.",
        )
    with quiet():
        make_readable(first)
        notes += empty_invalid(first)
        structures = _structure_set(frames, source, segment)
    with exporting(path, ".dcm") as temporary:
        structures.save_as(temporary, enforce_file_format=True)
        _verify(temporary, frames, source, structures, path)
    return notes


def _structure_set(frames: NDArray[np.uint8], source: SourceSeries, segment: SegmentInfo) -> FileDataset:
    first, uid, now = source.datasets[0], generate_uid(), datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, uid
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit DS holds 64 kB: a long contour has more
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in FROM_PATIENT:
        if keyword in first or keyword in MAY_BE_EMPTY:
            setattr(made, keyword, first.get(keyword) or "")
    keep_needed(made)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = RTStructureSetStorage, uid, "RTSTRUCT"
    made.SpecificCharacterSet = character_set(first, _named(segment)) or "ISO_IR 100"
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = generate_uid(), None, 1
    made.SeriesDescription = f"{PRODUCT}: {segment.name}"[:64]
    made.OperatorsName = ""
    made.Manufacturer = made.ManufacturerModelName = PRODUCT
    made.SoftwareVersions = version("differseg-med")
    made.StructureSetLabel, made.StructureSetName = PRODUCT, segment.name[:64]
    made.StructureSetDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.StructureSetTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    made.StructureSetROISequence = [
        _item(
            ROINumber=1,
            ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            ROIName=segment.name[:64],
            ROIGenerationAlgorithm=segment.algorithm_type or "",
        )
    ]
    roi = _item(ROIDisplayColor=list(segment.color), ReferencedROINumber=1)
    contours = [
        _contour(ring, piece, source, number)
        for number, (frame, piece) in enumerate(zip(frames, source.slices, strict=True))
        for ring in outlines(frame)
    ]
    if contours:
        roi.ContourSequence = contours
    made.ROIContourSequence = [roi]
    made.RTROIObservationsSequence = [
        _item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="")
    ]
    return made


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _named(segment: SegmentInfo) -> Dataset:
    return _item(StructureSetName=segment.name[:64])


def _image(source: SourceSeries, piece: Slice, number: int) -> Dataset:
    """The reference to the image of a slice, and its frame if the image has several."""
    many = len(source.datasets) == len(source.slices)
    image = source.datasets[number if many else 0]
    item = _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=piece.uid)
    if not many:
        item.ReferencedFrameNumber = piece.number
    return item


def _frame_of_reference(source: SourceSeries) -> Dataset:
    """The images that the contours refer to: study, series, files (type 1 in that order)."""
    first = source.datasets[0]
    files = {str(one.SOPInstanceUID): one for one in source.datasets}.values()
    images = [
        _item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in files
    ]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, retired but required here
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contour(ring: FloatArray, piece: Slice, source: SourceSeries, number: int) -> Dataset:
    plane = piece.plane
    steps = plane.orientation * np.array(plane.spacing[::-1])[:, None]  # along a row: distance of columns
    points = plane.position + ring[:, 1:] * steps[0] + ring[:, :1] * steps[1]
    return _item(
        ContourImageSequence=[_image(source, piece, number)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.4f}" for value in points.ravel()],
    )


def _verify(temporary: Path, frames: NDArray[np.uint8], source: SourceSeries, made: Dataset, path: Path) -> None:
    """Compare identity, references and voxels of the file on disk with what should be in it."""
    read = dcmread(temporary)
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        if read.get(keyword) != made.get(keyword):
            raise differs(f"its {keyword} differs", path)
    where = {(piece.uid, piece.number): number for number, piece in enumerate(source.slices)}
    rings: dict[int, list[Contour]] = {}
    for contour in read.ROIContourSequence[0].get("ContourSequence") or ():
        image = contour.ContourImageSequence[0]
        number = where[str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1)]
        points = np.asarray(contour.ContourData, dtype=np.float64).reshape(-1, 3)
        rings.setdefault(number, []).append(Contour(_indices(points, source.slices[number].plane)))
    for number, frame in enumerate(frames):
        filled = np.zeros(frame.shape, dtype=np.bool_)
        if number in rings:
            fill_slice(rings[number], filled, number, Account())
        if not np.array_equal(filled, frame > 0):
            raise differs("its contours do not give the mask again", path)


def _indices(points: FloatArray, plane: Plane) -> FloatArray:
    """Row and column ``(N, 2)`` of points (LPS) on a plane."""
    along = (points - plane.position) @ plane.orientation.T / np.array(plane.spacing[::-1])
    return np.asarray(along[:, ::-1])


def write_rtstruct(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``rtstruct``, see `save_rtstruct`.

    Raises:
        CaseError: if the reference is not known.
    """
    source = source_of(segmented, path, "an RTSTRUCT")
    return save_rtstruct(segmented.mask, segmented.grid.affine, source, path, segmented.segment)
