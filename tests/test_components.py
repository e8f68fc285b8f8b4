"""Connected components against MONAI, scikit-image and by hand; the box around the foreground."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage
from skimage import measure

from differseg_med.components import (
    HOPS,
    component_sizes,
    foreground_box,
    foreground_center,
    joint_box,
    label_components,
    large_components,
    largest_component,
)


def masks(number: int, dimensions: int = 3) -> list[np.ndarray]:
    """Random masks of all sizes down to one voxel, sparse ones with many components of one size, one without any."""
    rng = np.random.default_rng(0)
    made = [rng.random(rng.integers(1, 18, dimensions)) < rng.choice([0.03, 0.08, 0.2, 0.4]) for _ in range(number)]
    return [*made, np.zeros((3, 4, 5)[:dimensions], bool), np.ones((3, 4, 5)[:dimensions], bool)]


@pytest.mark.parametrize(("connectivity", "hops"), HOPS.items())
def test_the_largest_is_the_one_that_monai_keeps_ties_too(connectivity, hops):
    monai, ties = KeepLargestConnectedComponent(connectivity=hops), 0
    for mask in masks(150):
        expected = monai(torch.from_numpy(mask.astype(np.float32))[None])[0].numpy() > 0
        np.testing.assert_array_equal(largest_component(mask, connectivity), expected)
        sizes = component_sizes(mask, connectivity)
        ties += sizes[:1] == sizes[1:2] != []
    assert ties > 10


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("connectivity", "hops"), HOPS.items())
def test_labels_and_sizes_are_those_of_scikit_image(connectivity, hops, dimensions):
    for mask in masks(60, dimensions):
        expected = measure.label(mask, connectivity=min(hops, dimensions))
        labels, number = label_components(mask, connectivity)
        np.testing.assert_array_equal(labels, expected)
        sizes = np.bincount(expected.ravel())[1:]
        assert component_sizes(mask, connectivity) == sorted(sizes.tolist(), reverse=True)
        assert number == len(sizes)
        kept = np.isin(expected, 1 + np.flatnonzero(sizes >= 3))
        np.testing.assert_array_equal(large_components(mask, 3, connectivity), kept)


def test_a_face_an_edge_and_a_corner_are_told_apart():
    for other, sizes in {(0, 0, 1): (2, 2, 2), (0, 1, 1): (1, 2, 2), (1, 1, 1): (1, 1, 2)}.items():
        mask = np.zeros((4, 4, 4), np.uint8)
        mask[1, 1, 1] = mask[tuple(np.add(1, other))] = 1
        assert tuple(component_sizes(mask, n)[0] for n in (6, 18, 26)) == sizes
    for wrong in (1, 3, 8, 27):
        with pytest.raises(ValueError, match=r"one of \[6, 18, 26\]"):
            largest_component(mask, wrong)


def test_boxes_hold_the_foreground_and_nothing_more():
    for mask in [*masks(80), *masks(40, 2)]:
        box, where = foreground_box(mask), np.argwhere(mask)
        if not len(where):
            assert box is None
            continue
        low, high = where.min(axis=0), where.max(axis=0) + 1
        assert box == tuple(map(slice, low.tolist(), high.tolist()))
        wider = foreground_box(mask.astype(np.float32), [2] * mask.ndim)
        assert wider == tuple(slice(max(0, a - 2), b + 2) for a, b in zip(low.tolist(), high.tolist()))
        assert foreground_box(mask, 2) == wider


def test_a_joint_box_holds_both_and_ignores_empty_masks():
    first, second, empty = np.zeros((3, 6, 7, 8), bool)
    first[1, 2, 3] = second[4, 1, 6] = True
    assert joint_box(first, second) == (slice(1, 5), slice(1, 3), slice(3, 7))
    assert joint_box(first, empty) == joint_box(empty, first) == foreground_box(first)
    assert joint_box(empty, empty) is None


def test_center_of_the_foreground_is_the_mean_of_its_indices():
    mask = np.random.default_rng(5).random((7, 9, 4)) > 0.8
    np.testing.assert_allclose(foreground_center(mask), ndimage.center_of_mass(mask))
    np.testing.assert_allclose(foreground_center(mask[..., 0].astype(np.uint8)), ndimage.center_of_mass(mask[..., 0]))
    assert foreground_center(np.zeros((3, 4, 5), np.uint8)) is None


def test_more_components_than_two_bytes_can_number_are_counted_all_the_same():
    mask = np.zeros((90, 90, 90), dtype=np.uint8)
    mask[::2, ::2, ::2] = 1  # 45 ** 3 voxels that do not touch
    mask[89, 88, 88] = 1  # beside the last of them
    labels, number = label_components(mask, 6)
    assert number == 45**3 == labels.max()
    kept = largest_component(mask, 6)
    assert np.argwhere(kept).tolist() == [[88, 88, 88], [89, 88, 88]]
