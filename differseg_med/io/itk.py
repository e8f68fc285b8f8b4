"""Volumes as SimpleITK images and back: the signs stand in `differseg_med.geometry`."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from differseg_med.geometry import FloatArray, Grid, affine_from_itk, affine_to_itk


def as_image(voxels: NDArray[Any], affine: FloatArray) -> sitk.Image:
    """A SimpleITK image (LPS) from voxels ``(i, j, k)`` and their RAS affine."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(voxels).T))
    spacing, origin, direction = affine_to_itk(affine)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def as_voxels(image: sitk.Image) -> tuple[NDArray[Any], Grid]:
    """Voxels ``(i, j, k)`` and RAS grid of a SimpleITK image."""
    voxels = sitk.GetArrayFromImage(image).T
    return voxels, Grid(voxels.shape, affine_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection()))


def empty_image(grid: Grid) -> sitk.Image:
    """An image without content that says where voxels shall be, for resampling."""
    image = sitk.Image([int(n) for n in grid.shape], sitk.sitkUInt8)
    spacing, origin, direction = affine_to_itk(grid.affine)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image
