"""A case's label as a mask: the same one in training, evaluation and prediction, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.geometry import BoolArray, Grid, almost_same_grid
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.dicom.files import Header
from differseg_med.io.dicom.index import kind_of
from differseg_med.io.dicom.reader import is_dicom, scan
from differseg_med.io.dicom.rtstruct import rasterize, read_region
from differseg_med.io.dicom.seg import chosen_names, has_no_frames, read_segments, with_gaps
from differseg_med.io.images2d import IMAGES
from differseg_med.io.mask_values import foreground
from differseg_med.io.placing import drawn_grid, empty_on, images_of, place
from differseg_med.io.slicer import read_slicer
from differseg_med.io.slicer_header import is_segmentation
from differseg_med.io.volumes import file_grid, load_mask, load_volume
from differseg_med.keys import NOTES


def load_label(cell: str | Path, reference_images: Sequence[str | Path] = ()) -> MetaTensor:
    """Load a label as a 0/1 mask ``(1, H, W, D)`` float32 with its RAS affine.

    * A mask file (NIfTI, NRRD, MHA): 0 and one other value; of several, ``PATH::1,2,3`` chooses, or ``PATH::>=0.5``.
      Nothing chosen is an empty mask, with a note.
    * ``.seg.nrrd`` and DICOM SEG: ``PATH::segment`` by name or number, on the lattice of the image if both share one
      (slices and borders that the file leaves out are empty), else on its own grid with a note. Of a FRACTIONAL SEG
      ``PATH::segment>=0.3`` says which share or probability is enough.
    * RTSTRUCT: ``PATH::ROI name``, on the grid of the image that it was drawn on: the one that it refers to if that is
      among ``reference_images``, else the first one whose slices its contours lie in.

    A region without contours, a segment that was never painted and a SEG without frames are empty masks on the image's
    grid, with a note.

    Args:
        cell: ``PATH`` or ``PATH::SELECTOR``.
        reference_images: the images of the case in declared order, as cells.

    Raises:
        CaseError: if there is no such mask, it cannot be placed, or it lies outside of every image.
    """
    path, selector = split_cell(cell)
    if is_dicom(cell):
        mask, grid, notes = _dicom_label(path, selector, reference_images)
    elif is_segmentation(path):
        mask, grid, notes = _slicer_label(path, selector, reference_images)
    elif path.name.lower().endswith(IMAGES):
        return load_mask(cell)
    else:
        return _mask_file(path, selector)
    meta = {"filename_or_obj": str(cell), NOTES: list(notes), "spatial_shape": np.array(grid.shape)}
    tensor = torch.from_numpy(mask[None].astype(np.float32))
    return MetaTensor(tensor, affine=torch.tensor(grid.affine), meta=meta | {"original_affine": np.array(grid.affine)})


def _mask_file(path: Path, selector: str) -> MetaTensor:
    volume = load_volume(path, mask=True)
    chosen, notes = foreground(volume.as_tensor(), selector, path)
    if notes:
        volume.meta[NOTES] = [*volume.meta.get(NOTES, ()), *notes]
    return MetaTensor(chosen.float(), meta=volume.meta)


def _slicer_label(
    path: Path, selector: str, reference_images: Sequence[str | Path]
) -> tuple[BoolArray, Grid, tuple[str, ...]]:
    found, grid, notes = read_slicer(path, selector)
    if found is None and (reference_images or grid is None):
        # The image that it was drawn on, if the file says so and it is among them.
        cells = sorted(reference_images, key=lambda cell: grid is None or not almost_same_grid(file_grid(cell), grid))
        return *empty_on(cells, path), notes
    assert grid is not None
    mask = np.zeros(grid.shape, dtype=np.bool_) if found is None else found
    mask, grid, more = place(mask, grid, reference_images, path)
    return mask, grid, notes + more


def _dicom_label(
    path: Path, selector: str, reference_images: Sequence[str | Path]
) -> tuple[BoolArray, Grid, tuple[str, ...]]:
    header, selector = _label_object(path, selector)
    frame_uid = str(header.tags.get("FrameOfReferenceUID", ""))
    if kind_of(header) == "seg" and has_no_frames(header):
        names = chosen_names(header, selector)
        mask, grid = empty_on(images_of(header, frame_uid, reference_images), path, header)
        return mask, grid, (f"the DICOM SEG has no frames: segment {names} is taken as empty",)
    if kind_of(header) == "seg":
        segments = read_segments(header, selector)
        images = images_of(header, frame_uid, reference_images)
        mask, grid, notes = place(segments.mask, segments.grid, images, path, left_out=segments.incomplete)
        if grid is segments.grid:
            mask, grid = with_gaps(segments)
        return mask, grid, (*segments.notes, *(note for own in images.values() for note in own), *notes)
    region = read_region(header, selector)
    if region.empty:
        images = images_of(header, region.frame_uid, reference_images)
        return *empty_on(images, path, header), region.notes
    grid, notes = drawn_grid(region, header, reference_images)
    mask, more = rasterize(region, grid)
    return mask, grid, (*notes, *more)


def _label_object(path: Path, selector: str) -> tuple[Header, str]:
    """The RTSTRUCT or SEG that a cell names, and the rest of the selector (``UID::name`` if there are several)."""
    headers, _ = scan(path)
    objects = [header for header in headers if kind_of(header) in ("rtstruct", "seg")]
    uid, _, rest = selector.partition("::")
    named = [header for header in objects if header.tags.get("SeriesInstanceUID") == uid]
    if named:
        objects, selector = named, rest
    if len(objects) != 1:
        kinds = sorted({str(header.tags.get("Modality")) for header in headers})
        raise CaseError(
            f"there are {len(objects)} RTSTRUCT or SEG objects here" if objects else "this is no label",
            file=path,
            expected="one RTSTRUCT or DICOM SEG",
            found=", ".join(kinds) or "no DICOM",
            remedy="Name the file itself." if objects else "Name a mask, an RTSTRUCT or a SEG in the column label.",
        )
    return objects[0], selector


def load_case_label(case: Case) -> MetaTensor:
    """The label of a case, ``(1, H, W, D)`` on its own grid.

    Raises:
        CaseError: if it has none, or the file cannot be read.
    """
    if case.label is None:
        raise CaseError("the case has no label to compare with", remedy="Fill in the column label of the cohort table.")
    return load_label(case.label, case.reference_images or tuple(case.images.values()))
