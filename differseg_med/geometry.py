"""Voxel grids in the patient's space: the only place with LPS/RAS signs, grid comparison and tolerances.

An affine is a 4 x 4 matrix from voxel indices ``(i, j, k)`` to millimetres. Ours are RAS (x to the patient's right, y
to anterior, z to superior) as in NIfTI and nibabel; DICOM, ITK and NRRD use LPS, the same space with x and y negated.
A voxel's index names its center: voxel ``i`` reaches from ``i - 0.5`` to ``i + 0.5``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import ArrayLike, NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]

SAME_GRID_MM = 1e-3
"""Farthest distance in mm between matching voxels of one grid: float32 headers lose that much a few metres away."""

ALMOST_SAME_VOXELS = 0.05
"""Distance in voxels between matching voxels up to which resampling would blur more than it repairs."""

SHEAR_DEGREES = 0.1
"""How far from 90 degrees two axes of a grid may be. A tilted gantry gives 5 to 30; rounding in headers under 0.01."""

MIN_SPACING_MM = 1e-4
"""Smallest credible distance between voxels: below it (0.1 micrometre) an axis has collapsed."""

FARTHEST_MM = 1e6
"""Largest credible number in an affine: a kilometre."""

OVERLAP_SAMPLES = 40
"""Points per axis that measure an overlap: exact to about 1 percent of the smaller field of view."""

IMAGE_FRAME = 100.0
"""Height and width of a picture in its own space. A photograph has no millimetres: positions in it are percent of its
sides, so that maps of one scene in different resolutions cover each other."""

_FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a 3-D image are.

    Compare grids with :func:`same_grid`, which has a tolerance: ``==`` is identity. A broken affine can be stored, so
    that an audit can report it with :func:`check_affine`; the methods here need a sound one.

    Args:
        shape: number of voxels along i, j, k.
        affine: 4 x 4, from voxel indices to mm, RAS. Kept as a read-only float64 copy.

    Raises:
        ValueError: for another number of axes, or an affine that is not 4 x 4.
    """

    shape: tuple[int, ...]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid has three axes with at least one voxel each, got shape {shape}")
        if affine.shape != (4, 4):
            raise ValueError(f"the affine of a grid is a 4 x 4 matrix, got shape {affine.shape}")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along i, j, k in mm."""
        i, j, k = voxel_sizes(self.affine).tolist()
        return i, j, k

    @property
    def axcodes(self) -> tuple[str, str, str]:
        """The nearest direction of the patient that each axis runs towards, for example ``('L', 'P', 'S')``."""
        i, j, k = aff2axcodes(self.affine)
        return i, j, k

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the field of view along i, j, k in mm, border voxels whole."""
        i, j, k = (n * mm for n, mm in zip(self.shape, self.spacing_mm))
        return i, j, k

    @property
    def diagonal_mm(self) -> float:
        """Longest distance within an unsheared field of view, in mm."""
        return float(np.linalg.norm(self.extent_mm))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    def world(self, indices: ArrayLike) -> FloatArray:
        """World positions (..., 3) in mm, RAS, of voxel indices (..., 3), fractions allowed."""
        points: FloatArray = apply_affine(self.affine, indices)
        return points

    def indices(self, points: ArrayLike) -> FloatArray:
        """Voxel indices (..., 3), with fractions, of world positions (..., 3) in mm, RAS."""
        indices: FloatArray = apply_affine(np.linalg.inv(self.affine), points)
        return indices

    def corners(self) -> FloatArray:
        """The outer corners (8, 3) of the field of view in mm, RAS: half a voxel outside the outermost centers."""
        return self.world(list(product(*((-0.5, n - 0.5) for n in self.shape))))


def ras_to_lps(affine: ArrayLike) -> FloatArray:
    """The LPS affine (4, 4) of DICOM, ITK and NRRD for a RAS affine of NIfTI: same voxels, world x and y negated."""
    return _FLIP_XY @ np.asarray(affine, dtype=np.float64)


def lps_to_ras(affine: ArrayLike) -> FloatArray:
    """The RAS affine (4, 4) of NIfTI for an LPS affine of DICOM, ITK or NRRD."""
    return ras_to_lps(affine)  # negating twice gives the original: one sign rule for both directions


def image_affine(height: int, width: int) -> FloatArray:
    """The affine (4, 4) of a picture ``(height, width, 1)``: corners at 0 and `IMAGE_FRAME`.

    The axes keep their order and sense under RAS, so that networks see pictures as people do.
    """
    spacing = (IMAGE_FRAME / height, IMAGE_FRAME / width, 1.0)
    return from_matvec(np.diag(spacing), (spacing[0] / 2, spacing[1] / 2, 0.0))


def lps_points_to_ras(points: ArrayLike) -> FloatArray:
    """World positions or directions (..., 3) of DICOM, ITK and NRRD (LPS) in RAS."""
    return np.asarray(points, dtype=np.float64) * np.diag(_FLIP_XY)[:3]


def affine_from_itk(spacing: ArrayLike, origin: ArrayLike, direction: ArrayLike) -> FloatArray:
    """The RAS affine (4, 4) of an ITK or SimpleITK image.

    Args:
        spacing: 3 numbers in mm.
        origin: LPS position of the first voxel's center in mm.
        direction: 9 numbers, row by row: the columns are the unit vectors of the axes in LPS.
    """
    cosines = np.asarray(direction, dtype=np.float64).reshape(3, 3)
    return lps_to_ras(
        from_matvec(cosines * np.asarray(spacing, dtype=np.float64), np.asarray(origin, dtype=np.float64))
    )


def affine_to_itk(affine: ArrayLike) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Spacing (3, mm), origin (3, mm, LPS), direction (9, by rows, LPS) for SimpleITK from a RAS affine (4, 4)."""
    lps = ras_to_lps(affine)
    spacing = voxel_sizes(lps)
    return tuple(spacing.tolist()), tuple(lps[:3, 3].tolist()), tuple((lps[:3, :3] / spacing).ravel().tolist())


def affine_from_dicom(orientation: ArrayLike, spacing: ArrayLike, origin: ArrayLike, step: ArrayLike) -> FloatArray:
    """The RAS affine (4, 4) of a stack of DICOM slices; voxel ``(i, j, k)`` is column i of row j of slice k.

    Args:
        orientation: ImageOrientationPatient: 3 numbers along a row (i), 3 along a column (j), LPS.
        spacing: PixelSpacing in mm: the distance of rows (along j) first.
        origin: ImagePositionPatient of the first slice in mm, LPS.
        step: from one slice to the next in mm, LPS.
    """
    along_row, along_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = np.asarray(spacing, dtype=np.float64)
    columns = np.stack([along_row * between_columns, along_column * between_rows, np.asarray(step, np.float64)], axis=1)
    return lps_to_ras(from_matvec(columns, np.asarray(origin, dtype=np.float64)))


def check_affine(affine: ArrayLike) -> str | None:
    """What is wrong with an affine (4, 4), in words with numbers; None if it is that of a regular grid of boxes."""
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        return f"the affine has shape {matrix.shape} instead of (4, 4)"
    if not np.isfinite(matrix).all():
        return "the affine contains values that are not finite numbers"
    if np.abs(matrix).max() > FARTHEST_MM:
        return f"the affine contains {np.abs(matrix).max():.3g} mm, more than any scanner can mean"
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        return f"the last row of the affine is {matrix[3].tolist()} instead of [0, 0, 0, 1]"
    spacing = voxel_sizes(matrix)
    if spacing.min() < MIN_SPACING_MM:
        return f"the voxel spacing is {_times(spacing.tolist(), '.3g')} mm: an axis has no length"
    if abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:  # all axes in one plane: shear alone does not see that
        return "the affine cannot be inverted: its axes lie in one plane"
    shear = shear_degrees(matrix)
    if shear > SHEAR_DEGREES:
        return f"the axes are {90 - shear:.2f} degrees apart instead of 90 (tolerance {SHEAR_DEGREES} degrees)"
    return None


def shear_degrees(affine: ArrayLike) -> float:
    """How far the worst pair of axes of an affine (4, 4) is from a right angle, in degrees."""
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines = matrix / np.linalg.norm(matrix, axis=0)
    worst = np.abs(cosines.T @ cosines - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(worst, 1.0))))


def grid_distance_mm(a: Grid, b: Grid) -> float:
    """Farthest distance in mm between voxels of equal index; infinite for different shapes.

    The corners decide, as affine maps differ most there: a rotation counts by how far it moves voxels.
    """
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a.corners() - b.corners(), axis=1).max())


def same_grid(a: Grid, b: Grid, *, tolerance_mm: float = SAME_GRID_MM) -> bool:
    """Whether every voxel of ``a`` is the voxel of ``b`` with the same index, within ``tolerance_mm``."""
    return grid_distance_mm(a, b) <= tolerance_mm


def almost_same_grid(a: Grid, b: Grid) -> bool:
    """Whether the grids differ by so little (``ALMOST_SAME_VOXELS``) that resampling would only blur."""
    return same_grid(a, b, tolerance_mm=max(SAME_GRID_MM, ALMOST_SAME_VOXELS * min(a.spacing_mm + b.spacing_mm)))


def reordered(voxels: NDArray[Any], grid: Grid, like: Grid) -> tuple[NDArray[Any], Grid]:
    """Exchange and reverse the axes of a volume so that they run as those of another grid; nothing is interpolated.

    Args:
        voxels: ``(i, j, k)`` on ``grid``.
        grid: where they are.
        like: a grid with other axes.

    Returns:
        The same voxels in the same places, stored along the axes of ``like``, and their grid.
    """
    turn = io_orientation(np.linalg.inv(like.affine) @ grid.affine)
    turned: NDArray[Any] = apply_orientation(voxels, turn)
    return turned, Grid(turned.shape, grid.affine @ inv_ornt_aff(turn, grid.shape))


def lattice_map(source: Grid, target: Grid, *, left_out: bool = False) -> NDArray[np.int64] | None:
    """How voxels of ``source`` become voxels of ``target`` if both lie on one lattice, whole or in part.

    Args:
        source: a grid, for example that of a label.
        target: the grid of an image.
        left_out: whether ``source`` may lack slices: its step along k is then any whole number of the target's; a
            single slice has none, whatever its header says.

    Returns:
        A 4 x 4 matrix of whole numbers from indices of ``source`` to indices of ``target`` (which may lie outside it);
        None if voxels of the two do not coincide within ``ALMOST_SAME_VOXELS``.
    """
    exact = np.linalg.inv(target.affine) @ source.affine
    if left_out and source.shape[2] == 1:
        exact[:3, 2] /= np.abs(exact[:3, 2]).max()
    whole = exact.round()
    steps = np.abs(whole[:3, :3]).sum(axis=0)
    if not _is_reordering(whole) or (steps[:2] != 1).any() or (steps[2] != 1 and not left_out):
        return None
    ends = np.array(list(product(*((0, n - 1) for n in source.shape))))
    if np.abs(apply_affine(exact, ends) - apply_affine(whole, ends)).max() > ALMOST_SAME_VOXELS:
        return None
    return whole.astype(np.int64)


def lattice_offset_mm(source: Grid, target: Grid) -> tuple[float, float, float] | None:
    """How far voxels of ``source`` lie from the nearest of ``target``, along the axes of ``target`` in mm.

    Returns:
        Three distances of half a voxel at most; None if the grids differ by more than a shift (spacing, rotation).
    """
    exact = np.linalg.inv(target.affine) @ source.affine
    whole = exact.round()
    drift = np.abs(exact - whole)[:3, :3] @ (np.array(source.shape) - 1)
    if not _is_reordering(whole) or np.abs(whole[:3, :3]).max() != 1 or drift.max() > ALMOST_SAME_VOXELS:
        return None
    i, j, k = ((exact - whole)[:3, 3] * target.spacing_mm).tolist()
    return i, j, k


def _is_reordering(whole: FloatArray) -> bool:
    """Whether an affine (4, 4) of whole numbers only exchanges, reverses and spreads axes."""
    used = whole[:3, :3] != 0
    return bool((used.sum(axis=0) == 1).all() and (used.sum(axis=1) == 1).all())


def rotation_degrees(a: Grid, b: Grid) -> float:
    """Angle between the axes of two grids in degrees, whichever axis comes first and whichever way it runs."""
    relative = np.linalg.inv(a.affine[:3, :3] / a.spacing_mm) @ (b.affine[:3, :3] / b.spacing_mm)
    axes = io_orientation(from_matvec(relative))  # the row of each input axis: nearest axis of a, and its sign
    nearest = np.zeros((3, 3))
    for column, (row, sign) in enumerate(axes):
        nearest[int(row), column] = sign
    # The chord is precise at small angles, where the arc cosine of the trace is not.
    chord = np.linalg.norm(relative @ nearest.T - np.eye(3))
    return float(np.degrees(2 * np.arcsin(min(chord / (2 * np.sqrt(2)), 1.0))))


def overlap_fraction(a: Grid, b: Grid) -> float:
    """Share of the field of view of ``a`` that ``b`` covers in world space, 0 to 1. The grids may be oblique.

    Points spread evenly over the smaller of the two fields of view are looked up in the larger, so that a thin slab in
    a whole-body image is not missed between points. Accurate to about 1 percent of the smaller field of view.
    """
    small, large = sorted((a, b), key=_volume_mm3)
    steps = (np.arange(OVERLAP_SAMPLES) + 0.5) / OVERLAP_SAMPLES
    lattice = np.stack(np.meshgrid(*(steps * n - 0.5 for n in small.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    found = large.indices(small.world(lattice))
    inside = ((found >= -0.5) & (found <= np.array(large.shape) - 0.5)).all(axis=1)
    return min(float(inside.mean()) * _volume_mm3(small) / _volume_mm3(a), 1.0)


def describe(grid: Grid) -> str:
    """Shape, spacing and orientation of a grid in words, for messages."""
    return f"{_times(grid.shape, 'd')} voxels of {_times(grid.spacing_mm, '.2f')} mm, {''.join(grid.axcodes)}"


def differences(grid: Grid, target: Grid) -> str:
    """How the voxels of a grid differ from those of another, in words."""
    words = describe(grid)
    offset = lattice_offset_mm(grid, target)
    if offset is not None and max(map(abs, offset)) > SAME_GRID_MM:
        return f"{words}, {_times([abs(mm) for mm in offset], '.2f')} mm from the nearest voxels"
    if grid.shape == target.shape:
        return f"{words}, up to {grid_distance_mm(grid, target):.2f} mm away"
    return words


def _volume_mm3(grid: Grid) -> float:
    return float(np.prod(grid.shape)) * grid.voxel_volume_mm3


def _times(numbers: tuple[float, ...] | list[float], spec: str) -> str:
    return " x ".join(format(number, spec) for number in numbers)
