"""Masks as DICOM Segmentation objects, slice by slice on the images that they were drawn on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.export.checks import checked, differs
from differseg_med.export.patient import PRODUCT, character_set, empty_invalid, keep_needed, make_readable
from differseg_med.export.seg_frames import bits_are_understood, frames_to_keep
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.export.source import SourceSeries, source_of
from differseg_med.geometry import FloatArray
from differseg_med.io.dicom.files import quiet

NO_SERIAL_NUMBER = "none"
"""Device Serial Number (0018,1000) must have a value, and software has none."""

SERIES_NUMBER_OFFSET = 1000
"""Added to the source's Series Number, so that the segmentation stands behind the images in lists."""

SAME_PLACE = 1e-4
"""Largest difference in mm of a frame's position and pixel spacing, and in its direction cosines."""


def save_dicom_seg(
    mask: NDArray[Any],
    affine: FloatArray,
    source: SourceSeries,
    path: str | Path,
    segment: SegmentInfo,
    *,
    rle: bool = False,
) -> list[str]:
    """Save a mask as DICOM SEG, read it back, compare, and only then give it its name.

    The object is what viewers take without trouble: BINARY, Explicit VR Little Endian, one frame for every slice of the
    source (also empty ones, but for those of `frames_to_keep`), each with a reference to it. Where single bits would be
    misread (`bits_are_understood`) it has bytes of 0 and 1 and calls them FRACTIONAL, which every reader takes for the
    same mask. Patient and study are the source's, as far as DICOM requires them, in a character set that every reader
    knows; the UIDs are new.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on the source's voxels, its axes in any order; or on those that the source was
            resampled to.
        affine: 4 x 4, from voxel indices to mm, RAS.
        source: the images that the mask was drawn on, see `differseg_med.export.source.read_source`.
        path: the file to write, ``.dcm``.
        segment: must have category and type, algorithm type and, unless it is MANUAL, algorithm name and version.
        rle: compress it (RLE Lossless), every frame for itself. DICOM has this for bytes only, so it is FRACTIONAL.

    Returns:
        Notes for the user, for example on a value of the source that DICOM does not allow.

    Raises:
        CaseError: if a code or an attribute of the source is missing, the mask is on another grid, or the file does not
            hold what was written.
    """
    path = Path(path)
    frames, notes = source.frames_of(*checked(mask, affine, path))
    description = _description(segment, path)
    try:
        with quiet():
            make_readable(source.datasets[0])
            notes += empty_invalid(source.datasets[0])
            kept = list(range(len(frames))) if rle else frames_to_keep(frames)
            bits = not rle and bits_are_understood(len(kept), frames[0].size)
            if not rle and not bits:
                notes.append("FRACTIONAL with 0 and 1, as viewers on cornerstone misread single bits of these frames")
            seg = _segmentation(frames, source, description, kept, bits, rle)
            keep_needed(seg)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        lacking = f"its images have no {error.name}" if isinstance(error, AttributeError) else str(error).rstrip(".")
        raise CaseError(
            f"no DICOM SEG can be made for this series: {lacking}",
            file=path,
            remedy="Export the series again with what DICOM requires.",
        ) from error
    with exporting(path, ".dcm") as temporary:
        seg.save_as(temporary)
        _verify(temporary, frames, source, seg, path, kept)
    return notes


def _description(segment: SegmentInfo, path: Path) -> hd.seg.SegmentDescription:
    """The segment in DICOM's terms."""
    missing = [] if segment.property_category and segment.property_type else ["the codes of category and type"]
    if not segment.algorithm_type:
        missing.append("SegmentAlgorithmType")
    elif segment.algorithm_type != "MANUAL" and not (segment.algorithm_name and segment.algorithm_version):
        missing.append("SegmentAlgorithmName and AlgorithmVersion")
    if missing or segment.property_category is None or segment.property_type is None:
        raise CaseError(
            f"a DICOM SEG must say what it shows, but {', '.join(missing)} of {segment.name!r} are not given",
            file=path,
            remedy='Add them to the block "segment" of the bundle\'s metadata.json, or give --segment FILE '
            "(docs/exports.md).",
        )
    algorithm = None
    if segment.algorithm_type != "MANUAL":
        family = codes.DCM.ArtificialIntelligence
        algorithm = hd.AlgorithmIdentificationSequence(segment.algorithm_name, family, segment.algorithm_version)
    item = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=segment.name,
        segmented_property_category=segment.property_category,
        segmented_property_type=segment.property_type,
        algorithm_type=segment.algorithm_type,
        algorithm_identification=algorithm,
        tracking_id=segment.tracking_id or f"{PRODUCT} {segment.segment_id}",
        tracking_uid=segment.tracking_uid or hd.UID(),
        anatomic_regions=[segment.anatomic_region] if segment.anatomic_region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )
    if segment.description:
        item.SegmentDescription = segment.description
    # highdicom has no arguments for modifiers; both stand inside of what they modify (PS3.3 C.8.20.4, 10.5).
    if modifier := segment.property_type_modifier:
        what = item.SegmentedPropertyTypeCodeSequence[0]
        what.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(modifier)]
    if segment.anatomic_region and (modifier := segment.anatomic_region_modifier):
        item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [hd.sr.CodedConcept.from_code(modifier)]
    return item


def _segmentation(
    frames: NDArray[np.uint8],
    source: SourceSeries,
    description: hd.seg.SegmentDescription,
    kept: list[int],
    bits: bool,
    rle: bool,
) -> hd.seg.Segmentation:
    images, where = source.datasets, None
    if len(images) == len(frames):
        images = [images[index] for index in kept]
    elif len(kept) < len(frames):
        patient = hd.CoordinateSystemNames.PATIENT
        where = [hd.PlanePositionSequence(patient, source.slices[index].plane.position.tolist()) for index in kept]
    first = source.datasets[0]
    thickness = first.get("SliceThickness")
    seg = hd.seg.Segmentation(
        source_images=images,
        pixel_array=frames[kept],
        plane_positions=where,
        segmentation_type="BINARY" if bits else "FRACTIONAL",
        fractional_type="OCCUPANCY",
        max_fractional_value=1,  # a program that overlooks this sees 0 and 1 all the same
        segment_descriptions=[description],
        series_instance_uid=hd.UID(),
        series_number=int(first.get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=version("differseg-med"),
        device_serial_number=NO_SERIAL_NUMBER,
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=source.slices[0].plane.spacing,
            slice_thickness=float(thickness) if thickness else source.spacing_mm,
            spacing_between_slices=source.spacing_mm,
        ),
        omit_empty_frames=False,  # some viewers place frames by their number (monai-deploy-app-sdk#397)
        content_label="SEGMENTATION",
        content_description=description.SegmentLabel,
        series_description=f"{PRODUCT}: {description.SegmentLabel}"[:64],
        specific_character_set=character_set(first, description),
    )
    seg.ContentCreatorName = ""  # type 2, and no person's name belongs here
    if rle:  # by pydicom's own code: that of GDCM, which highdicom would take, ends the process on odd widths
        seg.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return seg


def _verify(
    temporary: Path, frames: NDArray[np.uint8], source: SourceSeries, seg: Dataset, path: Path, kept: list[int]
) -> None:
    """Compare identity, references, places and voxels of the file on disk with what should be in it."""
    read = hd.seg.segread(temporary)
    if str(read.get("PatientName", "")).rstrip("=^ ") != str(seg.get("PatientName", "")).rstrip("=^ "):
        raise differs("its PatientName differs", path)
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        if read.get(keyword) != seg.get(keyword):
            raise differs(f"its {keyword} differs", path)
    check_frames(read, frames, source, path, kept)


def check_frames(read: Dataset, frames: NDArray[np.uint8], source: SourceSeries, path: Path, kept: list[int]) -> None:
    """Compare places and voxels of a segmentation with the frames of its source.

    Args:
        read: the segmentation.
        frames: ``(slices, rows, columns)`` of 0 and 1, in the order of ``source.slices``.
        source: the images under it.
        path: its file, for the message.
        kept: the frames that it should have.

    Raises:
        CaseError: if anything differs.
    """
    found = {(uid, number): index for index, (uid, number) in enumerate(references(read))}
    if set(found) != {(source.slices[k].uid, source.slices[k].number) for k in kept}:
        raise differs("its frames refer to other images", path)
    shared = read.SharedFunctionalGroupsSequence[0]
    pixels = read.pixel_array.reshape(-1, *frames.shape[1:])
    for piece, expected in ((source.slices[k], frames[k]) for k in kept):
        index = found[piece.uid, piece.number]
        place = (
            *shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            *shared.PixelMeasuresSequence[0].PixelSpacing,
            *read.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence[0].ImagePositionPatient,
        )
        wanted = (*piece.plane.orientation.ravel(), *piece.plane.spacing, *piece.plane.position)
        if not np.allclose(np.asarray(place, dtype=float), wanted, rtol=0, atol=SAME_PLACE):
            raise differs("its frames are elsewhere", path)
        if not np.array_equal(pixels[index], expected):
            raise differs("its voxels differ", path)


def references(seg: Dataset) -> list[tuple[str, int]]:
    """For each frame of a segmentation the SOP Instance UID of its image, and the number of the frame in it (or 1)."""
    images = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence]
    return [(str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1)) for image in images]


def write_dicom_seg(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``dicom-seg``, see `save_dicom_seg`.

    Raises:
        CaseError: if the reference is not known.
    """
    return _write(segmented, path)


def write_dicom_seg_rle(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``dicom-seg-rle``: the same in bytes, each frame compressed (RLE Lossless).

    Raises:
        CaseError: if the reference is not known.
    """
    return _write(segmented, path, rle=True)


def _write(segmented: Segmented, path: Path, *, rle: bool = False) -> Notes:
    source = source_of(segmented, path)
    return save_dicom_seg(segmented.mask, segmented.grid.affine, source, path, segmented.segment, rle=rle)
