"""The grid that a volume file's header states, without reading its voxels, and what is doubtful about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from differseg_med.errors import CaseError
from differseg_med.geometry import ALMOST_SAME_VOXELS, SAME_GRID_MM, Grid, affine_from_itk, grid_distance_mm
from differseg_med.grids import Level

NIFTI = (".nii", ".nii.gz")
VOLUMES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
"""Endings of the files that hold a volume each."""

_GUESSED = "where the patient's left is can only be guessed"


def is_volume_file(path: str | Path) -> bool:
    """Whether a file's name ends like that of a NIfTI, NRRD or MetaImage volume."""
    return str(path).lower().endswith(VOLUMES)


def stem(name: str) -> str:
    """A volume file's name without its ending, ``.seg`` included."""
    endings = (*(f".seg{ending}" for ending in (".nrrd", ".nhdr")), *sorted(VOLUMES, key=len, reverse=True))
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def header_shape(path: Path) -> tuple[int, ...]:
    """Number of voxels along each axis of a volume file; axes of one voxel at the end are left out.

    Raises:
        CaseError: if the header cannot be read.
    """
    try:
        if path.name.lower().endswith(NIFTI):
            shape = tuple(int(n) for n in _nifti(path).shape)
        else:
            reader = itk_header(path)
            components = reader.GetNumberOfComponents()
            shape = (*reader.GetSize(), *([components] if components > 1 else []))
    except Exception as error:  # each format has errors of its own
        raise unreadable(path, error) from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def header_grid(path: Path) -> Grid:
    """The grid of a volume file.

    Raises:
        CaseError: if the header cannot be read, or is not that of one 3-D volume.
    """
    shape = header_shape(path)
    if len(shape) != 3:
        raise CaseError(
            "not one 3-D volume",
            file=path,
            found=f"{' x '.join(map(str, shape))} voxels",
            remedy="Store each sequence or time point as a file of its own.",
        )
    if path.name.lower().endswith(NIFTI):
        return Grid(shape, _nifti(path).affine)
    reader = itk_header(path)
    return Grid(shape, affine_from_itk(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()))


def transform_conflict(path: Path) -> tuple[Level, str]:
    """Whether a header leaves in doubt where the voxels are: a NIfTI with two transforms, an NRRD without a space.

    Readers differ in which of sform and qform they take, so that a mask can look right in one program only. Up to
    `ALMOST_SAME_VOXELS` it does not matter; more is a warning; more than a voxel is an error, unless the two are
    declared to mean different spaces (scanner and template, for example).
    """
    if path.name.lower().endswith((".nrrd", ".nhdr")) and not itk_header(path).HasMetaDataKey("NRRD_space"):
        return "warning", f"the header states no space: {_GUESSED}"
    if not path.name.lower().endswith(NIFTI):
        return "ok", ""
    header = _nifti(path).header
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    shape = header.get_data_shape()[:3]
    if not sform_code and not qform_code:
        return "warning", f"neither sform nor qform is set: {_GUESSED}"
    if not sform_code or not qform_code or len(shape) < 3:
        return "ok", ""
    grid = Grid(shape, sform)
    distance = grid_distance_mm(grid, Grid(shape, np.nan_to_num(qform)))
    spacing = min(grid.spacing_mm)
    if distance <= max(SAME_GRID_MM, ALMOST_SAME_VOXELS * spacing):
        return "ok", ""
    message = f"sform and qform put voxels up to {distance:.1f} mm apart; the sform is taken"
    return ("error" if distance > spacing and sform_code == qform_code else "warning"), message


def _nifti(path: Path) -> Any:
    return nib.load(path)  # typed as any image that nibabel knows


def itk_header(path: Path) -> sitk.ImageFileReader:
    """The header of an NRRD or MetaImage file; SimpleITK raises RuntimeError if it cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def unreadable(path: Path, error: Exception) -> CaseError:
    """The error for a header that a library cannot read."""
    return CaseError(
        "the header cannot be read; the file is damaged, cut short or not an image",
        file=path,
        found=type(error).__name__,
        remedy="Copy or convert it again from the source.",
    )
