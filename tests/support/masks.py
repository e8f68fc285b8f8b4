"""Masks to measure: made, from nibabel's own test image, and the sarcoma cohort where it lies beside the project."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.testing import data_path
from scipy import ndimage

STS = Path(__file__).parents[3] / "shared" / "data" / "sts"


def blob(shape, center, radii):
    """An ellipsoid, radii in voxels."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    return (sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii)) <= 1).astype(np.uint8)


def random_masks(seed):
    """Two ragged, overlapping masks with holes and islands, and an anisotropic spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(8, 24, size=3).tolist())
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 1.2, 1.2, 1.2))
    smooth[1] = 0.6 * smooth[0] + 0.4 * smooth[1]
    spacing = tuple(rng.uniform(0.5, 4.0, size=3).tolist())
    return (smooth[0] > 0.05).astype(np.uint8), (smooth[1] > 0.05).astype(np.uint8), spacing


def anatomical_masks():
    """Two thresholds of a real image that comes with nibabel."""
    image = nib.load(Path(data_path) / "anatomical.nii")
    voxels = np.asarray(image.dataobj)
    low, high = np.percentile(voxels, (70, 80))
    return (voxels > low).astype(np.uint8), (voxels > high).astype(np.uint8), (2.0, 2.5, 3.0)


def sts_masks(cases=("STS_025", "STS_041", "STS_042")):
    """Real tumours, each with a shifted copy of itself as prediction."""
    for case in cases:
        image = nib.load(STS / case / "mask.nii.gz")
        reference = np.asarray(image.dataobj).astype(np.uint8)
        yield np.roll(reference, (4, -2, 1), (0, 1, 2)), reference, tuple(float(s) for s in image.header.get_zooms())


needs_sts = pytest.mark.skipif(not STS.is_dir(), reason="needs ../shared/data/sts, beside the project")
