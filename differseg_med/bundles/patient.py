"""One patient in place of a cohort table: files, cells or images in memory, by modality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from nibabel.spatialimages import SpatialImage

from differseg_med.atomic import replacing
from differseg_med.case import Case
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError
from differseg_med.geometry import FloatArray
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.io.itk import as_voxels
from differseg_med.io.nifti import nifti_image

_CASE = "case"
"""The id of a patient who has no table."""

Image: TypeAlias = str | os.PathLike[str] | SpatialImage | sitk.Image | MetaTensor
"""What an image may be given as: a cell (path, or ``PATH::SELECTOR``), or an image in memory that knows its affine."""


def write_patient(folder: Path, images: Mapping[str, Image], modalities: Sequence[str]) -> Path:
    """Write a cohort table of one row; images in memory become files beside it.

    Args:
        folder: where to; created.
        images: by modality; those of the bundle that are not here are absent.
        modalities: those of the bundle, in order.

    Returns:
        The table.

    Raises:
        CaseError: for no image, a modality that the bundle does not have, or what is no image.
    """
    if unknown := [name for name in images if name not in modalities]:
        raise CaseError(
            f"the bundle has no modality {unknown[0]!r}",
            expected=f"some of {', '.join(modalities)}",
            found=", ".join(images),
        )
    if not images:
        raise CaseError("no image was given", expected=f"one or more of {', '.join(modalities)}")
    folder.mkdir(parents=True, exist_ok=True)
    cells = {name: _cell(images[name], folder / f"{name}.nii.gz", name) for name in modalities if name in images}
    table = folder / "cohort.csv"
    write_cohort(table, list(modalities), [Case(_CASE, _CASE, {name: Path(cell) for name, cell in cells.items()})])
    return table


def _cell(image: Image, file: Path, modality: str) -> str:
    if isinstance(image, (str, os.PathLike)):
        path, selector = split_cell(os.fspath(image))
        # Not resolve(): data sets in DataLad are links to files with other names.
        return join_cell(os.path.abspath(path), selector)  # noqa: PTH100
    voxels, affine = _voxels(image, modality)
    if voxels.ndim != 3:
        raise CaseError(f"{modality}: not one 3-D volume", expected="three axes", found=f"shape {voxels.shape}")
    with replacing(file, ".nii.gz") as temporary:
        nib.save(nifti_image(np.ascontiguousarray(voxels, dtype=np.float32), affine), temporary)
    return str(file)


def _voxels(image: Any, modality: str) -> tuple[np.ndarray, FloatArray]:
    """Voxels ``(i, j, k)`` and RAS affine of an image in memory."""
    if isinstance(image, sitk.Image):
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            shape = f"{image.GetDimension()} axes, {image.GetNumberOfComponentsPerPixel()} values per voxel"
            raise CaseError(f"{modality}: not one 3-D volume", expected="three axes", found=shape)
        voxels, grid = as_voxels(image)
        return voxels, grid.affine
    if isinstance(image, SpatialImage):
        return np.asarray(image.dataobj), np.asarray(image.affine)
    if isinstance(image, MetaTensor):
        if str(image.meta.get("space", "RAS")) not in ("RAS", "SpaceKeys.RAS"):
            raise CaseError(f"{modality}: the affine is not RAS", found=image.meta.get("space"))
        voxels = image.detach().cpu().numpy()
        return voxels[0] if voxels.ndim == 4 and len(voxels) == 1 else voxels, image.affine.cpu().numpy()
    raise CaseError(
        f"{modality}: this image has no affine",
        expected="a path, or an image of nibabel, SimpleITK or MONAI (MetaTensor)",
        found=type(image).__name__,
        remedy="An array alone has no affine: nibabel.Nifti1Image(array, affine) gives it one.",
    )
