"""Back to the grid of the file: positions, thresholds, small components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates
from support.synthetic import OBLIQUE, Volume, affine_of, label_volume, stored_as

from differseg_med.geometry import Grid
from differseg_med.keys import PRED
from differseg_med.transforms import resampling
from differseg_med.transforms.restoring import RestoreGridd, postprocessing, resample_mask


def image_on(affine: np.ndarray, shape: tuple[int, ...], original: Volume) -> MetaTensor:
    """The network's input: on its own grid, remembering that of the file."""
    meta = {"original_affine": original.affine, "spatial_shape": np.array(original.data.shape)}
    return MetaTensor(torch.ones(2, *shape), affine=affine, meta=meta)


@pytest.mark.parametrize("slab", [1 << 22, 300], ids=["whole", "slabs"])
@pytest.mark.parametrize("turned", [False, True], ids=["parallel", "turned"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_a_probability_goes_where_scipy_puts_it(codes, turned, slab, monkeypatch):
    """Grids with parallel axes are interpolated axis by axis, others voxel by voxel, both slab by slab."""
    monkeypatch.setattr(resampling, "SLAB_VOXELS", slab)
    own = affine_of((2.0, 2.0, 2.5), (-33, 38, -724), OBLIQUE)
    probability = np.random.default_rng(0).random((19, 18, 14)).astype(np.float32)
    original = stored_as(label_volume(*(() if turned else (OBLIQUE,))), codes)
    image = image_on(own, probability.shape, original)
    found = RestoreGridd(PRED)({"image": image, PRED: torch.from_numpy(probability)[None]})[PRED]
    index = np.stack(np.meshgrid(*map(np.arange, original.data.shape), indexing="ij"), axis=-1)
    where = apply_affine(np.linalg.inv(own), apply_affine(original.affine, index))
    expected = map_coordinates(probability, np.moveaxis(where, -1, 0), order=1, mode="nearest")
    assert found.shape == (1, *original.data.shape)
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    np.testing.assert_allclose(found.affine, original.affine)


def test_a_volume_on_the_same_grid_keeps_its_values():
    """Also where there is no data: interpolation with a weight of zero would spread it."""
    volume = torch.rand(3, 4, 5)
    volume[1, 2, 3] = float("nan")
    assert resampling.resample_linear(volume, np.eye(4), (3, 4, 5)) is volume
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 2
    torch.testing.assert_close(
        resampling.resample_linear(volume, mirror, (3, 4, 5)), volume.flip(0), equal_nan=True, rtol=0, atol=0
    )


def post(logits: torch.Tensor, original: Volume, **settings) -> np.ndarray:
    image = image_on(original.affine, original.data.shape, original)
    return np.asarray(postprocessing(**settings)({"image": image, PRED: logits[None]})[PRED][0])


def test_threshold_is_on_the_probability():
    original = label_volume()
    logits = torch.zeros(original.data.shape)
    logits[3, 4, 5], logits[6, 7, 8] = -0.84, 0.85  # probabilities 0.3015 and 0.7006
    logits -= 1e-3
    assert np.argwhere(post(logits, original)).tolist() == [[6, 7, 8]]
    assert post(logits, original, threshold=0.71).sum() == 0
    assert post(logits, original, threshold=0.3).all()
    assert not post(logits, original, threshold=0.302)[3, 4, 5]


def test_small_components_go_by_volume_not_by_voxels():
    original = label_volume()  # 1.5 x 1.7 x 3.1 mm: 7.905 mm3 per voxel
    logits = torch.full(original.data.shape, -9.0)
    logits[2:4, 2:4, 2:4] = 9  # 8 voxels, 63.2 mm3
    logits[10:13, 10:13, 5:8] = 9  # 27 voxels, 213.4 mm3
    assert post(logits, original).sum() == 35
    assert post(logits, original, min_component_ml=0.060).sum() == 35
    assert post(logits, original, min_component_ml=0.066).sum() == 27
    assert post(logits, original, min_component_ml=0.210).sum() == 27
    assert post(logits, original, min_component_ml=0.220).sum() == 0


def test_only_the_largest_component_stays_and_connectivity_says_what_that_is():
    """27 voxels and 2 that touch them by a corner, against 28: which is larger depends on what counts as touching."""
    original = label_volume()
    logits = torch.full(original.data.shape, -9.0)
    logits[2:5, 2:5, 2:5] = 9  # 27 voxels
    logits[5:7, 5, 5] = 9  # 2 more, by a corner
    logits[10:14, 10:17, 6] = 9  # 28 voxels
    for settings, voxels, place in (
        ({}, 29, (5, 5, 5)),
        ({"connectivity": 26}, 29, (5, 5, 5)),
        ({"connectivity": 18}, 28, (10, 10, 6)),
        ({"connectivity": 6}, 28, (10, 10, 6)),
    ):
        found = post(logits, original, largest_only=True, **settings)
        assert (found.sum(), found[place]) == (voxels, 1), settings
    assert post(torch.full(original.data.shape, -9.0), original, largest_only=True).sum() == 0


def test_small_components_by_connectivity():
    original = label_volume()  # 7.905 mm3 per voxel
    logits = torch.full(original.data.shape, -9.0)
    logits[2:4, 2:4, 2:4] = 9  # 8 voxels
    logits[4, 4, 2] = 9  # 1 more, by an edge
    limit = {"min_component_ml": 8.5 * 0.007905}
    assert [post(logits, original, **limit, connectivity=n).sum() for n in (6, 18, 26)] == [0, 9, 9]
    assert post(logits, original, **limit).sum() == 9
    with pytest.raises(ValueError, match="connectivity is the number of neighbours"):
        postprocessing(**limit, connectivity=1)


def test_resampling_a_mask_takes_the_nearest_voxel_and_nothing_outside():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[3, 1:3, 2] = 1
    source = Grid((4, 4, 4), np.diag([2.0, 2, 2, 1]))
    fine = np.diag([1.0, 1, 1, 1])
    fine[:3, 3] = -0.5  # two voxels of 1 mm in each of 2 mm
    target = Grid((12, 8, 8), fine)
    found = resample_mask(mask, source, target)
    expected = np.zeros((12, 8, 8), np.uint8)
    expected[6:8, 2:6, 4:6] = 1
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


def test_resampling_to_the_same_grid_along_other_axes_changes_no_position():
    label = label_volume(OBLIQUE)
    other = stored_as(label, "SAL")
    found = resample_mask(
        label.data.astype(np.uint8), Grid(label.data.shape, label.affine), Grid(other.data.shape, other.affine)
    )
    np.testing.assert_array_equal(found, other.data)


@pytest.mark.parametrize("off", [(0.5, 0.5, 0), (-0.5, 0, 0.5)])
def test_a_mask_half_a_voxel_off_keeps_its_shape(off):
    """No voxel is taken twice and none is left out, although both neighbours of each are equally near."""
    spacing = np.array([0.976562, 0.976562, 3.27])
    source = np.diag([*spacing, 1])
    source[:3, 3] = 101.56233, -27.343849, 588.32825
    target = source.copy()
    target[:3, 3] += spacing * off
    mask = np.zeros((30, 28, 12), np.uint8)
    mask[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).integers(0, 2, (24, 22, 6))
    found = resample_mask(mask, Grid(mask.shape, source), Grid(mask.shape, target))
    np.testing.assert_array_equal(found, np.roll(mask, [-1 if o > 0 else 0 for o in off], axis=(0, 1, 2)))
