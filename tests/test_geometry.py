"""Geometry is judged by where voxels are in the patient, never by comparing matrices with the code that made them."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from differseg_med.geometry import (
    Grid,
    affine_from_itk,
    affine_to_itk,
    almost_same_grid,
    check_affine,
    grid_distance_mm,
    lattice_map,
    lattice_offset_mm,
    lps_to_ras,
    overlap_fraction,
    ras_to_lps,
    rotation_degrees,
    same_grid,
    shear_degrees,
)

ORIENTATIONS = [
    tuple(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)
]  # 6 orders x 8 signs = 48
SHAPE = (11, 7, 5)
SPACING = (0.7, 1.3, 4.0)


def box(shape=SHAPE, spacing=SPACING, origin=(0.0, 0.0, 0.0), angles=(0.0, 0.0, 0.0)) -> Grid:
    """A grid turned by Euler angles (z, y, x, degrees) about its first voxel."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*np.radians(angles)) * spacing
    affine[:3, 3] = origin
    return Grid(shape, affine)


def stored_as(grid: Grid, codes: tuple[str, ...]) -> tuple[Grid, np.ndarray]:
    """The same voxels stored along other axes, and the orientation that nibabel used."""
    ornt = axcodes2ornt(codes)
    shape = np.empty(3, int)
    shape[ornt[:, 0].astype(int)] = grid.shape
    return Grid(tuple(shape), grid.affine @ inv_ornt_aff(ornt, grid.shape)), ornt


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -10, 5)], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS, ids="".join)
def test_orientation_keeps_the_marked_voxel_in_place(codes, angles):
    original = box(origin=(-90.0, 126.0, -72.0), angles=angles)
    marked = np.zeros(SHAPE)
    marked[9, 1, 3] = 1
    grid, ornt = stored_as(original, codes)
    flipped = [axis for axis in range(3) if ornt[axis, 1] < 0]
    moved = np.flip(marked, flipped).transpose(np.argsort(ornt[:, 0]))
    (index,) = np.argwhere(moved)
    np.testing.assert_allclose(grid.world(index), original.world((9, 1, 3)), atol=1e-9)
    np.testing.assert_allclose(grid.indices(original.world((9, 1, 3))), index, atol=1e-9)
    assert sorted(grid.corners().round(6).tolist()) == sorted(original.corners().round(6).tolist())
    assert rotation_degrees(grid, original) == pytest.approx(0, abs=1e-5)
    assert overlap_fraction(grid, original) == 1
    assert same_grid(grid, original) == (codes == ("R", "A", "S"))
    assert sorted(grid.spacing_mm) == pytest.approx(sorted(SPACING))


@pytest.mark.parametrize("codes", ORIENTATIONS, ids="".join)
def test_axcodes_name_the_direction_that_points_move(codes):
    grid, _ = stored_as(box(angles=(8, 5, -5)), codes)
    # nibabel's ornt maps input axes to output axes: find each axis's direction by walking one voxel along it.
    steps = grid.world(np.eye(3)) - grid.world([0, 0, 0])
    walked = tuple("LPIRAS"[np.abs(step).argmax() + 3 * (step[np.abs(step).argmax()] > 0)] for step in steps)
    assert grid.axcodes == walked


@pytest.mark.parametrize("codes", ORIENTATIONS, ids="".join)
def test_itk_agrees_on_every_point(codes):
    grid, _ = stored_as(box(origin=(12.5, -3.0, 801.0), angles=(20, -10, 5)), codes)
    image = sitk.Image([int(n) for n in grid.shape], sitk.sitkUInt8)
    spacing, origin, direction = affine_to_itk(grid.affine)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    for index in [(0, 0, 0), (1, 2, 3), (4, 0, 2)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(grid.world(index), lps * [-1, -1, 1], atol=1e-6)
    again = affine_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert same_grid(Grid(grid.shape, again), grid)


def test_lps_negates_x_and_y_and_nothing_else():
    affine = np.arange(16.0).reshape(4, 4)
    assert ras_to_lps(affine).tolist() == [[0, -1, -2, -3], [-4, -5, -6, -7], [8, 9, 10, 11], [12, 13, 14, 15]]
    np.testing.assert_array_equal(lps_to_ras(ras_to_lps(affine)), affine)


def test_measures_in_mm():
    grid = box(shape=(10, 20, 30), spacing=(1, 2, 0.5), origin=(5, 6, 7), angles=(90, 0, 0))
    assert grid.extent_mm == pytest.approx((10, 40, 15))
    assert grid.diagonal_mm == pytest.approx(43.874822)  # sqrt(100 + 1600 + 225)
    assert grid.voxel_volume_mm3 == pytest.approx(1)
    assert grid.axcodes == ("A", "L", "S")  # a quarter turn about z: i runs to anterior, j to the left
    np.testing.assert_allclose(grid.corners().min(0), [5 - 39, 6 - 0.5, 7 - 0.25], atol=1e-9)
    np.testing.assert_allclose(grid.corners().max(0), [5 + 1, 6 + 9.5, 7 + 14.75], atol=1e-9)


def test_grid_owns_its_affine():
    affine = np.eye(4, dtype=np.float32)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 7
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7


@pytest.mark.parametrize(("shape", "affine"), [((4, 4), np.eye(4)), ((4, 4, 0), np.eye(4)), ((4, 4, 4), np.eye(3))])
def test_grid_refuses_other_shapes(shape, affine):
    with pytest.raises(ValueError, match="got shape"):
        Grid(shape, affine)


@pytest.mark.parametrize(
    "other",
    [
        box(shape=(11, 7, 6)),
        box(shape=(7, 11, 5)),
        box(origin=(0.002, 0, 0)),
        box(origin=(0, 0, 4.0)),
        box(spacing=(0.7, 1.3, 4.01)),
        box(angles=(0.1, 0, 0)),
        Grid(SHAPE, np.diag([-1, -1, 1, 1]) @ box().affine),
        Grid(SHAPE, box().affine @ inv_ornt_aff([[0, -1], [1, 1], [2, 1]], SHAPE)),
    ],
    ids=[
        "longer",
        "axes swapped",
        "2 um",
        "one slice",
        "spacing",
        "tenth of a degree",
        "LPS taken for RAS",
        "mirrored",
    ],
)
def test_unequal_grids_are_unequal(other):
    assert not same_grid(box(), other)
    assert not same_grid(other, box())
    assert same_grid(other, other)


def test_tolerance_is_a_distance_of_voxels():
    assert same_grid(box(), box(origin=(0.0009, 0, 0)))
    # 0.5 mm per 1000 mm: nothing near the origin of the rotation, more than the tolerance at the far end.
    long = box(shape=(1000, 4, 4), spacing=(1, 1, 1))
    turned = box(shape=(1000, 4, 4), spacing=(1, 1, 1), angles=(np.degrees(5e-4), 0, 0))
    assert grid_distance_mm(long, turned) == pytest.approx(0.5, rel=0.01)
    assert grid_distance_mm(box(), box(shape=(1, 1, 1))) == np.inf


def test_almost_same_is_a_twentieth_of_the_smallest_voxel_edge():
    assert almost_same_grid(box(), box(origin=(0, 0, 0.034)))
    assert not almost_same_grid(box(), box(origin=(0, 0, 0.036)))  # 0.05 * 0.7 mm = 0.035 mm
    assert not almost_same_grid(box(), box(shape=(11, 7, 6)))


def test_overlap_of_known_boxes():
    cube = box(shape=(10, 10, 10), spacing=(1, 1, 1))
    assert overlap_fraction(cube, box(shape=(10, 10, 10), spacing=(1, 1, 1), origin=(5, 0, 0))) == pytest.approx(0.5)
    assert overlap_fraction(cube, box(shape=(10, 10, 10), spacing=(1, 1, 1), origin=(5, 5, 5))) == pytest.approx(0.125)
    assert overlap_fraction(cube, box(shape=(5, 5, 5), spacing=(2, 2, 2), origin=(0.5, 0.5, 0.5))) == pytest.approx(1)
    assert overlap_fraction(cube, box(shape=(10, 10, 10), spacing=(1, 1, 1), origin=(10, 0, 0))) == 0
    large = box(shape=(20, 20, 20), spacing=(1, 1, 1))
    assert overlap_fraction(cube, large) == 1
    assert overlap_fraction(large, cube) == pytest.approx(0.125)


def test_overlap_of_turned_squares_is_the_octagon():
    # Two unit squares with one center, 45 degrees apart, share a regular octagon of area 2 (sqrt(2) - 1) = 0.8284.
    straight = Grid((100, 100, 10), np.array([[1, 0, 0, -49.5], [0, 1, 0, -49.5], [0, 0, 1, 0], [0, 0, 0, 1]]))
    turn = np.eye(4)
    turn[:3, :3] = euler2mat(np.pi / 4)
    assert overlap_fraction(straight, Grid((100, 100, 10), turn @ straight.affine)) == pytest.approx(0.8284, abs=0.01)


def test_overlap_sees_a_thin_slab_in_a_long_image():
    body = box(shape=(500, 500, 2000), spacing=(1, 1, 1))
    slab = box(shape=(500, 500, 4), spacing=(1, 1, 1), origin=(0, 0, 1234))
    assert overlap_fraction(slab, body) == 1
    assert overlap_fraction(body, slab) == pytest.approx(0.002)


@pytest.mark.parametrize("angle", [0.0, 0.3, 12.0, -40.0])
def test_rotation_is_the_angle_that_was_turned(angle):
    for codes in ORIENTATIONS[::7]:
        turned, _ = stored_as(box(angles=(0, angle, 0)), codes)
        assert rotation_degrees(box(), turned) == pytest.approx(abs(angle), abs=1e-5)


def sheared(degrees: float) -> np.ndarray:
    affine = box().affine.copy()
    affine[1, 2] = affine[2, 2] * np.tan(np.radians(degrees))
    return affine


def with_entry(row: int, column: int, value: float) -> np.ndarray:
    affine = np.eye(4)
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (with_entry(0, 3, np.nan), "not finite"),
        (with_entry(2, 2, np.inf), "not finite"),
        (with_entry(1, 1, 0.0), "an axis has no length"),
        (with_entry(0, 3, 3e38), "3e+38"),
        (with_entry(3, 0, 1.0), "last row"),
        (np.eye(3), r"(3, 3)"),
        (np.array([[1, 1, 0, 0], [0, 1e-9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "one plane"),
        (np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), "one plane"),
        (sheared(15.0), "75.00 degrees apart"),
        (sheared(0.2), "89.80 degrees apart"),
    ],
)
def test_broken_affines_are_named(affine, words):
    problem = check_affine(affine)
    assert problem is not None
    assert words in problem


@pytest.mark.parametrize("codes", ORIENTATIONS[::5], ids="".join)
def test_sound_affines_pass(codes):
    grid, _ = stored_as(box(angles=(20, -10, 5)), codes)
    assert check_affine(grid.affine) is None
    assert check_affine(grid.affine.astype(np.float32)) is None
    assert check_affine(sheared(0.05)) is None
    assert shear_degrees(sheared(7.0)) == pytest.approx(7.0)


@pytest.mark.parametrize("codes", ORIENTATIONS[::5], ids="".join)
def test_a_shifted_lattice_in_mm_along_the_axes_of_the_target(codes):
    target = box(angles=(20, -10, 5))
    moved = target.world([2.4, -3.2, 1.0])  # voxel (0, 0, 0) there: 0.4 and -0.2 voxels off
    part = Grid((4, 3, 2), np.column_stack([target.affine[:, :3], [*moved, 1]]))
    offset = lattice_offset_mm(stored_as(part, codes)[0], target)
    assert offset == pytest.approx((0.4 * 0.7, -0.2 * 1.3, 0), abs=1e-6)
    assert lattice_map(part, target) is None


@pytest.mark.parametrize("grid", [box(spacing=(0.7, 1.3, 3.8)), box(angles=(3, 0, 0)), box(spacing=(0.7, 1.3, 8.0))])
def test_other_spacings_and_rotations_are_no_shift(grid):
    assert lattice_offset_mm(grid, box()) is None
    assert lattice_map(grid, box()) is None


def test_slices_that_were_left_out():
    sparse = box(shape=(11, 7, 3), spacing=(0.7, 1.3, 8.0), origin=(0, 0, 4))
    to_target = lattice_map(sparse, box(), left_out=True)
    assert (to_target @ [5, 6, 2, 1]).tolist() == [5, 6, 5, 1]
    assert lattice_map(box(spacing=(0.7, 2.6, 4.0)), box(), left_out=True) is None
