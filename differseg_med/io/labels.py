"""A case's label as a mask: the same one in training, evaluation and prediction, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.geometry import BoolArray, Grid
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.io.dicom.files import Header
from differseg_med.io.dicom.index import kind_of
from differseg_med.io.dicom.names import split_least
from differseg_med.io.dicom.reader import is_dicom, scan
from differseg_med.io.dicom.rtstruct import rasterize, read_region
from differseg_med.io.dicom.seg import read_segments, with_gaps
from differseg_med.io.images2d import IMAGES
from differseg_med.io.placing import drawn_grid, images_of, place
from differseg_med.io.slicer import read_slicer
from differseg_med.io.slicer_header import is_segmentation
from differseg_med.io.volumes import load_mask, load_volume
from differseg_med.keys import NOTES

_NAMED = 8
"""How many values a message lists one by one."""


def load_label(cell: str | Path, drawn_on: Sequence[str | Path] = ()) -> MetaTensor:
    """Load a label as a 0/1 mask ``(1, H, W, D)`` float32 with its RAS affine.

    * A mask file (NIfTI, NRRD, MHA): 0 and one other value; of several, ``PATH::1,2,3`` chooses, or ``PATH::>=0.5``.
      Nothing chosen is an empty mask, with a note.
    * ``.seg.nrrd`` and DICOM SEG: ``PATH::segment`` by name or number, on the lattice of the image if both share one
      (slices and borders that the file leaves out are empty), else on its own grid with a note. Of a FRACTIONAL SEG
      ``PATH::segment>=0.3`` says which share or probability is enough.
    * RTSTRUCT: ``PATH::ROI name``, on the grid of the image that it was drawn on: the one that it refers to if that is
      among ``drawn_on``, else the first one whose slices its contours lie in.

    Args:
        cell: ``PATH`` or ``PATH::SELECTOR``.
        drawn_on: the images of the case in declared order, as cells.

    Raises:
        CaseError: if there is no such mask, it cannot be placed, or it lies outside of every image.
    """
    path, selector = split_cell(cell)
    if is_dicom(cell):
        mask, grid, notes = _dicom_label(path, selector, drawn_on)
    elif is_segmentation(path):
        mask, grid, notes = read_slicer(path, selector)
        mask, grid, more = place(mask, grid, drawn_on, path)
        notes += more
    elif path.name.lower().endswith(IMAGES):
        return load_mask(cell)
    else:
        return _mask_file(path, selector)
    meta = {"filename_or_obj": str(cell), NOTES: list(notes), "spatial_shape": np.array(grid.shape)}
    tensor = torch.from_numpy(mask[None].astype(np.float32))
    return MetaTensor(tensor, affine=torch.tensor(grid.affine), meta=meta | {"original_affine": np.array(grid.affine)})


def _mask_file(path: Path, selector: str) -> MetaTensor:
    volume = load_volume(path)
    values = volume.unique().tolist()
    name, least = split_least(selector)
    if least is not None and not name:
        chosen = volume.as_tensor() >= least
    elif selector:
        try:
            wanted = [float(piece) for piece in selector.split(",")]
        except ValueError:
            raise CaseError(
                "the values of the label are no numbers", file=path, expected="::1,2,3", found=f"::{selector}"
            ) from None
        chosen = torch.isin(volume.as_tensor(), torch.tensor(wanted, dtype=volume.dtype))
    else:
        others = [value for value in values if value != 0]
        if len(others) > 1:
            raise CaseError(
                "the label has several values",
                file=path,
                expected="0 and one other",
                found=_listed(values),
                remedy=f"Say which are foreground: {join_cell(path.name, f'{others[0]:g}')}.",
            )
        chosen = volume.as_tensor() != 0
    if any(values) and not chosen.any():  # a class that this patient does not have, or a slip in the table
        volume.meta[NOTES] = [f"nothing in it is {selector}, only {_listed(values)}: taken as empty"]
    return MetaTensor(chosen.float(), meta=volume.meta)


def _listed(values: Sequence[float]) -> str:
    """Values in ascending order, in words."""
    if len(values) > _NAMED:
        return f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)


def _dicom_label(path: Path, selector: str, drawn_on: Sequence[str | Path]) -> tuple[BoolArray, Grid, tuple[str, ...]]:
    header, selector = _label_object(path, selector)
    if kind_of(header) == "seg":
        segments = read_segments(header, selector)
        images = images_of(header, str(header.tags.get("FrameOfReferenceUID", "")), drawn_on)
        mask, grid, notes = place(segments.mask, segments.grid, images, path, left_out=segments.gap_mm > 0)
        if grid is segments.grid:
            mask, grid = with_gaps(segments)
        return mask, grid, (*segments.notes, *(note for own in images.values() for note in own), *notes)
    region = read_region(header, selector)
    grid, notes = drawn_grid(region, header, drawn_on)
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
    return load_label(case.label, case.drawn_on or tuple(case.images.values()))
