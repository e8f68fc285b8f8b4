"""Examinations in DICOM, made here, and their scan; helpers, not tests."""

from __future__ import annotations

import re

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.scan.scan import scan_folder
from support.making import ORIGIN, STEP, blank, save, slices, stored, uid

PIXELS = stored((6, 12, 16))


def series(folder, description, modality="MR", patient="P1", study="S1", pixels=PIXELS, drop=(), **tags):
    """A series in a folder of its own; returns its SeriesInstanceUID."""

    def change(dataset, number):
        dataset.PatientID, dataset.PatientName, dataset.StudyInstanceUID = patient, f"Name^{patient}", uid(study)
        dataset.SeriesDescription, dataset.FrameOfReferenceUID = description, uid("frame", study)
        dataset.Manufacturer, dataset.ManufacturerModelName = "ACME", "Scanner 3"
        dataset.InstitutionName = "Hospital of the Test"
        for name, value in tags.items():
            setattr(dataset, name, value)

    name = f"{patient} {study} {folder.parent.name} {folder.name}"
    datasets = slices(pixels, modality=modality, series=name, change=change)
    save(folder, [dataset for number, dataset in enumerate(datasets) if number not in drop])
    return datasets[0].SeriesInstanceUID


def structures(path, *names, reference_series="", patient="P1", study="S1"):
    """An RTSTRUCT with a square around the middle of the third slice per ROI."""
    dataset = blank(RTStructureSetStorage, str(path), "RTSTRUCT")
    dataset.PatientID, dataset.PatientName, dataset.StudyInstanceUID = patient, f"Name^{patient}", uid(study)
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uid("rs", path), uid("frame", study)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, name in enumerate(names, start=1):
        roi, contours, contour = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, uid("frame", study)
        x, y, z = ORIGIN + np.array([0, 0, 2 * STEP])
        corners = [(x + a * 0.75, y + b * 1.5, z) for a, b in ((2, 2), (8, 2), (8, 7), (2, 7))]
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
        contour.ContourData = [f"{value:.4f}" for corner in corners for value in corner]
        contours.ReferencedROINumber, contours.ContourSequence = number, [contour]
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contours)
    if reference_series:
        frame, study_item, series_item = Dataset(), Dataset(), Dataset()
        series_item.SeriesInstanceUID = reference_series
        study_item.RTReferencedSeriesSequence = [series_item]
        frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = uid("frame", study), [study_item]
        dataset.ReferencedFrameOfReferenceSequence = [frame]
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def scanned(folder, **options):
    return scan_folder(folder, options.pop("rules", load_rules()), **options)


def reasons(scan):
    """Level and reason by series description (the part before the bracket) or file name."""
    return {re.split(r" \(", source.series)[0]: (source.level, source.reason) for _, source in scan.audit}
