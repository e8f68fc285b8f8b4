"""A label goes to the voxels of its image that are in the same places, whichever way its own are stored."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.synthetic import OBLIQUE, ORIENTATIONS, Volume, affine_of, stored_as, write_nifti

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.io.placing import place

SHAPE = (9, 8, 7)
PART = (slice(2, 7), slice(1, 6), slice(3, 7))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "image.nii", stored_as(Volume(np.zeros(SHAPE), affine_of(angles=OBLIQUE)), "PIR"))


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.3


def part(mask: np.ndarray) -> Volume:
    start = affine_of(angles=OBLIQUE) @ [2, 1, 3, 1]
    return Volume(mask[PART], np.column_stack([affine_of(angles=OBLIQUE)[:, :3], start]))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_part_of_the_lattice_stored_in_any_way(tmp_path, image, codes):
    label = stored_as(part(voxels()), codes)
    mask, grid, notes = place(label.data, Grid(label.data.shape, label.affine), [image], tmp_path / "seg")
    target = nib.load(image)
    assert mask.shape == target.shape
    assert_allclose(grid.affine, target.affine, atol=1e-4)
    assert_allclose(Volume(mask, grid.affine).foreground(), label.foreground(), atol=2e-3)
    assert notes == ()


def test_what_reaches_out_of_the_image_is_counted(tmp_path, image):
    label = part(voxels())
    grid = Grid(label.data.shape, label.affine @ [[1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mask, _, notes = place(label.data, grid, [image], tmp_path / "seg")
    kept = int(label.data[:3].sum())  # columns 6 to 8 of 9
    assert int(mask.sum()) == kept
    assert notes == (f"{int(label.data.sum()) - kept} voxels of the label lie outside the image",)


def test_the_image_that_holds_the_label_of_two_on_one_lattice(tmp_path, image):
    beside = affine_of(angles=OBLIQUE) @ [[1, 0, 0, 40], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    other = write_nifti(tmp_path / "other.nii", Volume(np.zeros(SHAPE), beside))
    label = part(voxels())
    grid = Grid(label.data.shape, label.affine)
    for cells in ([image, other], [other, image]):
        mask, found, _ = place(label.data, grid, cells, tmp_path / "seg")
        assert_array_equal(found.affine, nib.load(image).affine)
        assert int(mask.sum()) == int(label.data.sum())
    with pytest.raises(CaseError, match=f"none of its {int(label.data.sum())} voxels inside"):
        place(label.data, grid, [other], tmp_path / "seg")


def test_a_finer_label_stays_as_it_is_unless_it_lies_elsewhere(tmp_path, image):
    fine = affine_of(angles=OBLIQUE) @ np.diag([0.5, 0.5, 1, 1])
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 2, 2] = True
    same, grid, notes = place(mask, Grid(SHAPE, fine), [image], tmp_path / "seg")
    assert_array_equal(same, mask)
    assert_array_equal(grid.affine, fine)
    assert notes == ("not on the voxels of image.nii: 9 x 8 x 7 voxels of 0.75 x 0.85 x 3.10 mm, RAS",)
    fine[:3, 3] += 100
    with pytest.raises(CaseError, match="the label lies outside of the image"):
        place(mask, Grid(SHAPE, fine), [image], tmp_path / "seg")


def test_an_empty_label_is_placed_like_others(tmp_path, image):
    label = part(np.zeros(SHAPE, bool))
    mask, grid, notes = place(label.data, Grid(label.data.shape, label.affine), [image], tmp_path / "seg")
    assert mask.shape == grid.shape == nib.load(image).shape
    assert not mask.any()
    assert notes == ()
