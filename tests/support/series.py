"""DICOM series as scanners send them, made from nothing, and world positions as foreign readers see them."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

ROWS, COLUMNS, SLICES = 7, 6, 5
SPACING = (1.1, 0.7, 3.3)  # rows, columns, slices, mm
AXIAL, SAGITTAL, CORONAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
TURNED = tuple(Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix()[:, :2].T.ravel())
POSITION = np.array([-123.4, 56.7, -890.1])


def write_series(
    folder: Path,
    orientation=AXIAL,
    slices: int = SLICES,
    *,
    along: int = 1,
    shift=(0.0, 0.0, 0.0),
    pixels=None,
    **attributes,
) -> Path:
    """A CT series whose files are in no order.

    Args:
        folder: where to.
        orientation: Image Orientation (Patient).
        slices: how many.
        along: 1 if instance numbers run with the normal, -1 against it.
        shift: of each slice against the last, in mm (gantry tilt).
        pixels: stored values ``(slices, rows, columns)``.
        attributes: others by keyword; None removes one.
    """
    folder.mkdir(parents=True)
    normal = np.cross(orientation[:3], orientation[3:])
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for index in np.random.default_rng(0).permutation(slices):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        for keyword, value in uids.items():
            setattr(image, keyword, value)
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P1", "Doe^Jane", "19700101", "F"
        image.StudyID, image.AccessionNumber, image.StudyDate, image.StudyTime = "S1", "A1", "20200102", "101112"
        image.Modality, image.Manufacturer, image.SeriesNumber = "CT", "Scanner", 4
        image.ReferringPhysicianName, image.PositionReferenceIndicator = "", ""
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.InstanceNumber = int(along * index) % slices + 1
        image.ImageOrientationPatient = list(orientation)
        image.ImagePositionPatient = list(POSITION + index * (along * SPACING[2] * normal + shift))
        image.PixelSpacing, image.SliceThickness = list(SPACING[:2]), SPACING[2]
        image.Rows, image.Columns = ROWS, COLUMNS
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = np.full(
            (ROWS, COLUMNS), 1000 + index if pixels is None else pixels[index], np.uint16
        ).tobytes()
        for keyword, value in attributes.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        name = np.random.default_rng(index).integers(10**6)
        image.save_as(folder / f"{name:06d}.dcm", enforce_file_format=True)
    return folder


def by_row(points) -> np.ndarray:
    """Points (N, 3) in an order that no storage changes."""
    points = np.asarray(points).round(3) + 0.0
    return points[np.lexsort(points.T)]


def positions(mask, affine) -> np.ndarray:
    """World positions (N, 3) of the foreground of a mask."""
    return by_row(apply_affine(affine, np.argwhere(mask)))


def positions_in_seg(path: Path) -> np.ndarray:
    """World positions (N, 3), RAS, of the foreground of a SEG as highdicom reads it."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return by_row(positions(volume.array, volume.affine) * (-1, -1, 1))


def sources_by_position(folder: Path) -> dict[tuple[float, ...], str]:
    """SOP Instance UIDs of a series by their slice's position."""
    images = [pydicom.dcmread(path) for path in folder.iterdir()]
    return {tuple(np.round(np.array(i.ImagePositionPatient, float), 3)): i.SOPInstanceUID for i in images}
