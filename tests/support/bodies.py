"""Images of one made-up body on any grid, and where real patients are; helpers, not tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from differseg_med.io.itk import as_image
from support.synthetic import affine_of

STS = Path(__file__).parents[2] / "../shared/data/sts"
needs_sts = pytest.mark.skipif(not STS.is_dir(), reason="needs ../shared/data/sts, beside the project")

AFFINE = affine_of((2.0, 2.0, 2.5), (-60.0, -50.0, -60.0))
SHAPE = (60, 50, 48)


def body(affine=AFFINE, shape=SHAPE, offset=(0, 0, 0), other=False):
    """A smooth random body: the same in world space whatever the grid; ``other`` shows it as another scanner would."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 40, 40)), 2)
    field = (field - field.min()) / np.ptp(field)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3] - np.asarray(offset)
    place = (world + np.array([80, 80, 80])) / 4.0
    values = ndimage.map_coordinates(field, np.moveaxis(place, -1, 0), order=1, mode="nearest")
    return as_image(np.sin(values * 9) * 100 if other else values * 1000, affine)
