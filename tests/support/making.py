"""Small DICOM series, RTSTRUCTs and enhanced images as real files; helpers, not tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.eulerangles import euler2mat
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

from differseg_med.errors import CaseError
from differseg_med.io.dicom.reader import read_volume

ROWS, COLUMNS, SLICES = 36, 40, 6
SPACING = (1.5, 0.75)  # rows, columns
STEP = 2.5
ORIGIN = np.array([-40.0, 25.5, -310.25])
CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}


def uid(*parts: object) -> str:
    """The same UID for the same parts."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def axes(angles: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """Unit vectors (3, 3) along a row, along a column, and along the normal, LPS, turned by Euler angles in degrees."""
    return euler2mat(*np.radians(angles)).T


def stored(shape: tuple[int, ...] = (SLICES, ROWS, COLUMNS), seed: int = 0) -> np.ndarray:
    """Random stored values (slices, rows, columns)."""
    return np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)


def blank(sop_class: str, name: str, modality: str) -> FileDataset:
    """A data set with identity, no image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid("instance", name)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(name, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid("study"), uid("frame")
    dataset.Modality, dataset.PatientID, dataset.PatientName = modality, "ID-4711", "Doe^Jane"
    dataset.Manufacturer = "made for a test"
    return dataset


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Store int16 pixels (rows, columns) or (frames, rows, columns)."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = pixels.astype("<i2").tobytes()


def ds(numbers: Iterable[float]) -> list[str]:
    """Numbers as decimal strings of 16 characters."""
    return [f"{number:.10g}" for number in numbers]


def slices(
    pixels: np.ndarray | None = None,
    positions: np.ndarray | None = None,
    *,
    modality: str = "CT",
    series: str = "series",
    angles: Sequence[float] = (0, 0, 0),
    spacing: Sequence[float] = SPACING,
    change: Callable[[FileDataset, int], None] | None = None,
) -> list[FileDataset]:
    """One data set per slice of ``pixels`` (slices, rows, columns).

    Args:
        pixels: stored values.
        positions: (slices, 3) LPS; by default evenly along the normal.
        modality: CT, MR or PT.
        series: different names give different SeriesInstanceUIDs.
        angles: of the image axes.
        spacing: of rows and columns.
        change: called with each data set and its number.
    """
    pixels = stored() if pixels is None else pixels
    row, column, normal = axes(angles)
    if positions is None:
        positions = ORIGIN + STEP * np.arange(len(pixels))[:, None] * normal
    made = []
    for number, (image, position) in enumerate(zip(pixels, positions)):
        dataset = blank(CLASSES[modality], f"{series} {number}", modality)
        dataset.SeriesInstanceUID, dataset.SeriesDescription = uid("series", series), series
        dataset.InstanceNumber = number + 1
        dataset.ImageOrientationPatient = ds([*row, *column])
        dataset.ImagePositionPatient, dataset.PixelSpacing = ds(position), ds(spacing)
        dataset.SliceThickness = f"{STEP}"
        set_pixels(dataset, image)
        if modality == "CT":
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        if change is not None:
            change(dataset, number)
        made.append(dataset)
    return made


def save(folder: Path, datasets: Iterable[FileDataset], seed: int = 0) -> Path:
    """Write data sets under names that say nothing, in random order."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets = list(datasets)
    names = np.random.default_rng(seed).permutation(len(datasets))
    for number, dataset in zip(names, datasets):
        dataset.save_as(folder / f"IM{len(list(folder.iterdir())):02d}{number:04d}", enforce_file_format=True)
    return folder


def affine_lps(
    angles: Sequence[float] = (0, 0, 0), spacing: Sequence[float] = SPACING, step: float = STEP
) -> np.ndarray:
    """The LPS affine that `slices` has by default, voxel (column, row, slice)."""
    affine = np.eye(4)
    affine[:3, :3] = axes(angles).T * [spacing[1], spacing[0], step]
    affine[:3, 3] = ORIGIN
    return affine


def ras(affine: np.ndarray) -> np.ndarray:
    """A RAS affine or (..., 3) points from LPS ones."""
    return np.diag([-1.0, -1, 1, 1]) @ affine if affine.shape == (4, 4) else affine * [-1, -1, 1]


def enhanced(pixels: np.ndarray | None = None, *, angles: Sequence[float] = (0, 0, 0), **groups: Any) -> FileDataset:
    """An enhanced MR image; ``groups`` are values per frame of EffectiveEchoTime, position or slope."""
    pixels = stored() if pixels is None else pixels
    row, column, normal = axes(angles)
    dataset = blank(EnhancedMRImageStorage, "enhanced", "MR")
    dataset.SeriesInstanceUID, dataset.NumberOfFrames = uid("series", "enhanced"), len(pixels)
    set_pixels(dataset, pixels)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = ds([*row, *column])
    measures.PixelSpacing, measures.SliceThickness = ds(SPACING), f"{STEP}"
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in range(len(pixels)):
        place, content, value = Dataset(), Dataset(), Dataset()
        position = groups["position"][number] if "position" in groups else ORIGIN + STEP * number * normal
        place.ImagePositionPatient = ds(position)
        content.DimensionIndexValues = [1, number + 1]
        value.RescaleSlope = f"{groups['slope'][number] if 'slope' in groups else 1:g}"
        value.RescaleIntercept, value.RescaleType = "0", "US"
        frame = Dataset()
        frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
        frame.PixelValueTransformationSequence = [value]
        if "echo" in groups:
            echo = Dataset()
            echo.EffectiveEchoTime = float(groups["echo"][number])
            frame.MREchoSequence = [echo]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return dataset


def rtstruct(
    regions: dict[str, Sequence[np.ndarray]], *, frame: str | None = None, referenced: str = ""
) -> FileDataset:
    """An RTSTRUCT of closed contours, each (N, 3) LPS in mm; the images that it names do not exist."""
    dataset = blank(RTStructureSetStorage, "structures", "RTSTRUCT")
    dataset.SeriesInstanceUID = uid("series", "structures")
    if frame is not None:
        dataset.FrameOfReferenceUID = frame
    dataset.StructureSetLabel = "test"
    if referenced:
        study, series, space = Dataset(), Dataset(), Dataset()
        series.SeriesInstanceUID = referenced
        study.RTReferencedSeriesSequence = [series]
        space.RTReferencedStudySequence, space.FrameOfReferenceUID = [study], dataset.FrameOfReferenceUID
        dataset.ReferencedFrameOfReferenceSequence = [space]
    names, contours = [], []
    for number, (name, polygons) in enumerate(regions.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, dataset.FrameOfReferenceUID
        drawn.ReferencedROINumber, items = number, []
        for points in polygons:
            item, image = Dataset(), Dataset()
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = CTImageStorage, uid("no such image")
            item.ContourImageSequence = [image]
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = ds(np.asarray(points).ravel())
            items.append(item)
        drawn.ContourSequence = DicomSequence(items)
        names.append(roi)
        contours.append(drawn)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = DicomSequence(names), DicomSequence(contours)
    return dataset


def assert_refused(cell: str | Path, *words: str) -> str:
    """Assert that an image is refused with these words; the message."""
    with pytest.raises(CaseError) as caught:
        read_volume(cell)
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    return text
