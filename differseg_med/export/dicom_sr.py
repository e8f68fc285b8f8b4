"""Measurements of a mask as a DICOM Structured Report (TID 1500), which refers to the DICOM SEG beside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.export.checks import checked, differs
from differseg_med.export.dicom_seg import check_frames
from differseg_med.export.patient import PRODUCT, keep_needed
from differseg_med.export.registry import FORMATS
from differseg_med.export.seg_frames import frames_to_keep
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.export.source import SourceSeries, source_of
from differseg_med.geometry import FloatArray
from differseg_med.io.dicom.files import quiet
from differseg_med.metrics.diameters import longest_in_planes_mm, longest_mm

REPORT_NUMBER_OFFSET = 1001
"""Added to the source's Series Number: behind the segmentation in lists."""

VOLUME = codes.SCT.Volume
IN_PLANE = codes.SCT.LongAxis
IN_SPACE = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
MM = Code("mm", "UCUM", "millimeter")
UNIT_CODES = {VOLUME: Code("ml", "UCUM", "milliliter"), IN_PLANE: MM, IN_SPACE: MM}

LATERALITY_CODES = (codes.SCT.Left, codes.SCT.Right, codes.SCT.Bilateral)
"""Modifiers of a region that are its laterality; others say which part of it."""

CodedMeasures = dict[Code, float]


def save_dicom_sr(
    mask: NDArray[Any],
    affine: FloatArray,
    source: SourceSeries,
    seg: Path,
    path: str | Path,
    segment: SegmentInfo,
) -> list[str]:
    """Save volume and longest diameters of a mask as a measurement report, read it back, and only then name it.

    It says in the codes of the segment what was measured, refers to the segment in ``seg``, to the series under it, and
    for the diameter within a slice to that slice's image. Whose it is comes from ``seg``.

    Args:
        mask: ``(H, W, D)`` of 0 and 1, as for `differseg_med.export.dicom_seg.save_dicom_seg`.
        affine: 4 x 4, from voxel indices to mm, RAS.
        source: the images that the mask was drawn on.
        seg: the DICOM SEG of this mask.
        path: the file to write, ``.dcm``.
        segment: what was measured; needs the codes that the SEG needs.

    Returns:
        Notes for the user.

    Raises:
        CaseError: if ``seg`` is not there or holds another mask, or the file does not hold what was written.
    """
    path = Path(path)
    array, grid = checked(mask, affine, path)
    frames, notes = source.frames_of(array, grid)
    with quiet():
        segmentation = _read(seg, frames, source, path)
        measures: CodedMeasures = {VOLUME: float(array.sum()) * grid.voxel_volume_mm3 / 1000}
        widest = None
        if array.any():
            spacing = source.slices[0].plane.spacing
            measures[IN_PLANE], widest = longest_in_planes_mm(list(frames), (spacing[0], spacing[1]))
            measures[IN_SPACE] = longest_mm(array, affine)
        else:
            notes.append("the mask is empty: volume 0, and no diameters")
        measures = {name: float(f"{value:.6g}") for name, value in measures.items()}
        report = _report(measures, widest, segmentation, source, segment)
        with exporting(path, ".dcm") as temporary:
            report.save_as(temporary, enforce_file_format=True)
            _verify(temporary, report, measures, segmentation, path)
    return notes


def _read(seg: Path, frames: NDArray[np.uint8], source: SourceSeries, path: Path) -> hd.seg.Segmentation:
    """The SEG, if it holds these frames of this source."""
    remedy = "Write dicom-seg of the same mask into the same folder first."
    if not seg.is_file():
        raise CaseError("the DICOM SEG that the measurements refer to is not there", file=seg, remedy=remedy)
    try:
        found = hd.seg.segread(seg)
        check_frames(found, frames, source, seg, frames_to_keep(frames))
    except Exception as error:  # bytes that may be anything
        problem = "the DICOM SEG beside the measurements holds another mask, or none"
        raise CaseError(problem, file=seg, remedy=remedy) from error
    return found


def _report(
    measures: CodedMeasures,
    widest: int | None,
    segmentation: hd.seg.Segmentation,
    source: SourceSeries,
    segment: SegmentInfo,
) -> hd.sr.ComprehensiveSR:
    first, what = source.datasets[0], segmentation.SegmentSequence[0]
    assert segment.property_type is not None  # there is a SEG
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[PRODUCT, version("differseg-med")]), name=PRODUCT, model_name=PRODUCT
    )
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    algorithm = None
    if segment.algorithm_type != "MANUAL":
        algorithm = hd.sr.AlgorithmIdentification(segment.algorithm_name, segment.algorithm_version)
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(what.TrackingUID, what.TrackingID),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            1,
            source_series=hd.sr.SourceSeriesForSegmentation(first.SeriesInstanceUID),
        ),
        finding_category=segment.property_category,
        finding_type=segment.property_type,
        finding_sites=_sites(segment),
        algorithm_id=algorithm,
        measurements=[
            hd.sr.Measurement(
                name=name,
                value=value,
                unit=UNIT_CODES[name],
                referenced_images=[_image(source, widest)] if name == IN_PLANE and widest is not None else None,
            )
            for name, value in measures.items()
        ],
    )
    report = hd.sr.ComprehensiveSR(
        evidence=[segmentation, *source.datasets],
        content=hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=[group],
            title=codes.DCM.ImagingMeasurementReport,
        ),
        series_instance_uid=hd.UID(),
        series_number=int(first.get("SeriesNumber") or 0) + REPORT_NUMBER_OFFSET,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=PRODUCT,
        is_complete=True,
        is_final=False,
        manufacturer_model_name=PRODUCT,
        software_versions=version("differseg-med"),
        series_description=f"{PRODUCT}: measurements of {segment.name}"[:64],
    )
    keep_needed(report)
    return report


def _image(source: SourceSeries, number: int) -> hd.sr.SourceImageForMeasurement:
    """The image of a slice, with the number of its frame if it has several."""
    piece = source.slices[number]
    many = len(source.datasets) == len(source.slices)
    image = source.datasets[number if many else 0]
    return hd.sr.SourceImageForMeasurement(image.SOPClassUID, piece.uid, None if many else [piece.number])


def _sites(segment: SegmentInfo) -> list[hd.sr.FindingSite] | None:
    if segment.anatomic_region is None:
        return None
    modifier = segment.anatomic_region_modifier
    if modifier in LATERALITY_CODES:
        return [hd.sr.FindingSite(segment.anatomic_region, laterality=modifier)]
    return [hd.sr.FindingSite(segment.anatomic_region, topographical_modifier=modifier)]


def _verify(temporary: Path, report: Dataset, measures: CodedMeasures, seg: Dataset, path: Path) -> None:
    """Compare identity, references and figures of the file on disk with what should be in it."""
    read = hd.sr.srread(temporary)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID"):
        if read.get(keyword) != report.get(keyword):
            raise differs(f"its {keyword} differs", path)
    content: Any = read.content  # a MeasurementReport
    (group,) = content.get_volumetric_roi_measurement_groups()
    (image,) = (item for item in group.referenced_segment if "ReferencedSOPSequence" in item)
    if image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID != seg.SOPInstanceUID:
        raise differs("it refers to another segmentation", path)
    wanted = {name: (value, UNIT_CODES[name]) for name, value in measures.items()}
    if {m.name: (m.value, m.unit) for m in group.get_measurements()} != wanted:
        raise differs("its measurements differ", path)
    decimals = [float(element.value) for element in dcmread(temporary).iterall() if element.keyword == "NumericValue"]
    if decimals != list(measures.values()):  # highdicom reads the binary ones, most programs these
        raise differs("its measurements differ", path)


def write_dicom_sr(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``dicom-sr``, see `save_dicom_sr`; the DICOM SEG lies beside it.

    Raises:
        CaseError: if the reference is not known.
    """
    source = source_of(segmented, path, "a DICOM SR")
    seg = path.with_name(FORMATS["dicom-seg"].file)
    return save_dicom_sr(segmented.mask, segmented.grid.affine, source, seg, path, segmented.segment)
