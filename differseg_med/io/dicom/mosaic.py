"""Siemens mosaics: all slices of a volume side by side in one image, split by nibabel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, lps_to_ras
from differseg_med.io.dicom.files import Header, opened, quiet, read_dataset
from differseg_med.io.dicom.pixels import check_grey, undecodable


def is_mosaic(header: Header) -> bool:
    """Whether an image says that it is a mosaic."""
    kinds = header.tags.get("ImageType", ())
    return "MOSAIC" in (kinds if isinstance(kinds, tuple) else (kinds,))


def mosaic_grid(header: Header) -> Grid:
    """The grid of the volume ``(column, row, slice)`` in a mosaic.

    Raises:
        CaseError: if the private header that describes it is missing or damaged.
    """
    wrapper = _wrapper(header, pixels=False)
    return _grid(wrapper, header)


def read_mosaic(header: Header) -> NDArray[np.float32]:
    """The voxels ``(column, row, slice)`` of a mosaic, rescaled.

    Raises:
        CaseError: if it cannot be decoded.
    """
    check_grey(header)
    wrapper = _wrapper(header, pixels=True)
    try:
        with quiet():
            rows_first: Any = wrapper.get_data()
    except Exception as error:  # every decoder has errors of its own
        raise undecodable(header, error) from error
    return np.ascontiguousarray(np.asarray(rows_first).swapaxes(0, 1), dtype=np.float32)


def _wrapper(header: Header, *, pixels: bool) -> Any:
    try:
        with quiet():
            from nibabel.nicom.dicomwrappers import MosaicWrapper, wrapper_from_data  # warns when it is imported

            for _, file in opened([header.source]):
                wrapper = wrapper_from_data(read_dataset(file, pixels=pixels, every_tag=True))
    except CaseError:
        raise
    except Exception as error:  # damaged private headers lead anywhere
        raise _unknown(header) from error
    if not isinstance(wrapper, MosaicWrapper):
        raise _unknown(header)
    return wrapper


def _grid(wrapper: Any, header: Header) -> Grid:
    try:
        with quiet():
            swap = np.eye(4)[[1, 0, 2, 3]]  # nibabel counts rows first, we count columns first
            shape = wrapper.image_shape
            return Grid((shape[1], shape[0], shape[2]), lps_to_ras(wrapper.affine) @ swap)
    except Exception as error:  # damaged private headers lead anywhere
        raise _unknown(header) from error


def _unknown(header: Header) -> CaseError:
    return CaseError(
        "a Siemens mosaic without the private header that says where its slices are",
        file=header.source.path,
        remedy="Export the series again with private tags, or not as a mosaic.",
    )
