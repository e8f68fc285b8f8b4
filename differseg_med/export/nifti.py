"""Masks as NIfTI files that were read back before they got their name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.export.checks import check_read_back, checked, differs
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import FloatArray, Grid, almost_same_grid, same_grid
from differseg_med.io.headers import read_header
from differseg_med.io.nifti import nifti_image
from differseg_med.io.nifti_header import NiftiHeader
from differseg_med.io.voxels import read_voxels


def save_nifti(
    mask: NDArray[np.uint8] | NDArray[np.bool_],
    affine: FloatArray,
    path: str | Path,
    *,
    reference_header: NiftiHeader | None = None,
) -> Path:
    """Save a binary mask, read it back, compare, and only then give it its name.

    The header holds the grid and the word ``differseg_med``; nothing of the reference's free text is copied.

    Args:
        mask: ``(H, W, D)`` of 0 and 1, on the grid of ``affine``.
        affine: 4 x 4, from voxel indices to mm, RAS.
        path: the file to write, ``.nii.gz`` or ``.nii``; an older file stays until the new one has been checked.
        reference_header: of the image that the mask belongs to, if that is a NIfTI. The mask then says where it is in
            the same words (both transforms, their codes, distances, unit), so that every program puts the two together,
            also where programs disagree about such a header.

    Returns:
        The path of the file.

    Raises:
        CaseError: if the mask or the affine cannot be stored faithfully, or the file does not hold what was written.
    """
    path = Path(path)
    suffix = next((ending for ending in (".nii.gz", ".nii") if path.name.endswith(ending)), None)
    if suffix is None:
        raise CaseError("a NIfTI mask needs another file name", file=path, expected=".nii.gz or .nii", found=path.name)
    voxels, grid = checked(mask, affine, path)
    like = reference_header
    if like is not None and not same_grid(Grid(like.shape, like.affine), grid):
        like = None
    image = nifti_image(voxels, grid.affine) if like is None else _image_like(like, voxels)
    image.header["descrip"] = b"differseg_med"
    with exporting(path, suffix) as temporary:
        nib.save(image, temporary)
        _verify(temporary, voxels, grid, path, like)
    return path


PLACE = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
"""Fields of a NIfTI header that say where its voxels are, beside the first four of pixdim."""


def _image_like(like: NiftiHeader, voxels: NDArray[np.uint8]) -> nib.Nifti1Image:
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(np.uint8)
    header["pixdim"][:4] = like.fields["pixdim"][:4]
    for name in PLACE:
        header[name] = like.fields[name]
    return nib.Nifti1Image(voxels, None, header)


def _place(header: NiftiHeader) -> dict[str, NDArray[np.float32]]:
    """What a header says of the place of its voxels, in the precision of NIfTI-1."""
    stated = {name: np.asarray(header.fields[name], dtype=np.float32) for name in PLACE}
    return stated | {"pixdim": np.asarray(header.fields["pixdim"][:4], dtype=np.float32)}


def _verify(temporary: Path, mask: NDArray[np.uint8], grid: Grid, path: Path, like: NiftiHeader | None) -> None:
    """Compare the file on disk with the mask that should be in it."""
    header = read_header(temporary)
    found = header.nifti
    assert found is not None
    check_read_back(read_voxels(header), header.grid, mask, grid, path)
    if like is not None:
        if not all(np.array_equal(_place(found)[name], value) for name, value in _place(like).items()):
            raise differs("it does not say where it is as its reference does", path)
    elif int(found.fields["qform_code"]) and not almost_same_grid(Grid(grid.shape, found.fields.get_qform()), grid):
        raise differs("its qform and its sform differ", path)


def write_nifti(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``nifti``, see `save_nifti`."""
    save_nifti(segmented.mask, segmented.grid.affine, path, reference_header=segmented.nifti_header)
    return []
