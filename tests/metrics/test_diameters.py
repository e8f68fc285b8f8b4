"""Longest diameters against marching cubes of scikit-image, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes

from differseg_med.metrics.diameters import longest_in_planes_mm, longest_mm

AFFINE = np.array([[0.0, -1.1, 0.2, 5], [0.8, 0.0, -0.4, -7], [0.1, 0.3, 3.2, 90], [0, 0, 0, 1]])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_longest_distance_on_the_mesh(seed):
    """IBSI's definition: the largest distance between any two corners of the mesh at half of the mask."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(14, 11, 9)), seed / 2)
    mask = (noise > np.quantile(noise, 0.9)).astype(np.uint8)
    corners = marching_cubes(np.pad(mask, 1).astype(float), 0.5)[0] - 1
    assert longest_mm(mask, AFFINE) == pytest.approx(pdist(apply_affine(AFFINE, corners)).max(), rel=1e-5)


def test_by_hand():
    mask = np.zeros((6, 5, 4), np.uint8)
    assert longest_mm(mask, AFFINE) == 0
    assert longest_in_planes_mm([mask[..., 0], mask[..., 1]], (1, 1)) == (0, 0)
    mask[2, 3, 1] = 1  # of one voxel its longest side
    assert longest_mm(mask, np.diag([2.0, 3.0, 7.0, 1])) == 7
    mask[:, 3, 1] = 1  # six in a row of 2 mm: between faces of the first and the last
    assert longest_mm(mask, np.diag([2.0, 3.0, 7.0, 1])) == pytest.approx(np.hypot(10, 7))
    frame = np.zeros((8, 8), np.uint8)
    frame[1:6, 2] = 1  # five rows of 3 mm
    assert longest_in_planes_mm([mask[0], frame], (3, 4)) == (pytest.approx(15), 1)
    frame[5, 3] = 1  # (0.5, 2) to (5.5, 3): 15 mm down, 4 mm across
    assert longest_in_planes_mm([mask[0], frame], (3, 4)) == (pytest.approx(np.hypot(15, 4)), 1)
