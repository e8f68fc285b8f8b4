"""Slices missing, unevenly spaced, tilted or out of line: refused with positions, resampled where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.making import (
    COLUMNS,
    ORIGIN,
    ROWS,
    SLICES,
    STEP,
    affine_lps,
    assert_refused,
    axes,
    ds,
    ras,
    save,
    slices,
    stored,
)

from differseg_med.errors import CaseError
from differseg_med.geometry import shear_degrees
from differseg_med.io.dicom.reader import read_grid, read_volume

VALUES = stored().transpose(2, 1, 0).astype(np.float32)  # (column, row, slice)


def test_a_missing_slice_is_named(tmp_path):
    made = slices()
    del made[3]
    between = f"1 between {ORIGIN[2] + 2 * STEP:.2f} and {ORIGIN[2] + 4 * STEP:.2f} mm"
    text = assert_refused(save(tmp_path, made), "slices are missing", between, "2.50 mm apart")
    assert "+resample" not in text
    assert_refused(f"{tmp_path}::+resample", "slices are missing")


def test_a_slice_at_the_end_more_or_less_is_a_volume(tmp_path):
    volume = read_volume(save(tmp_path, slices()[:-1]))
    assert_array_equal(volume.data, (VALUES - 1024)[..., :-1])


def test_uneven_spacing_is_refused_and_resampled_on_request(tmp_path):
    depth = np.array([0, 2.5, 5.0, 8.2, 10.0, 12.5])
    ramp = np.broadcast_to(np.rint(depth * 100).astype(np.int16)[:, None, None], (SLICES, ROWS, COLUMNS))
    folder = save(tmp_path, slices(ramp, ORIGIN + depth[:, None] * [0, 0, 1]))
    assert_refused(folder, "unevenly spaced, 1.80 to 3.20 mm apart", "3.20 mm at -305.25 mm", "+resample")
    volume = read_volume(f"{folder}::+resample")
    assert volume.grid.shape == (COLUMNS, ROWS, SLICES)
    assert_allclose(volume.data[3, 3], np.arange(6) * 250.0 - 1024, atol=1e-3)  # linear in space, whatever the slices
    assert any("resampled as asked" in note for note in volume.notes)


def thin_and_thick(depth: np.ndarray) -> list:
    """A head CT of old: slices of 2.5 mm through the base of the skull, of 5 mm above; values linear in space."""

    def thicken(dataset, number):
        dataset.SliceThickness = "2.5" if depth[number] < 8 else "5"

    ramp = np.broadcast_to(np.rint(depth * 100).astype(np.int16)[:, None, None], (len(depth), ROWS, COLUMNS))
    return slices(ramp, ORIGIN + depth[:, None] * [0, 0, 1], change=thicken)


def test_thick_slices_beside_thin_ones_are_no_missing_slices(tmp_path):
    depth = np.array([0, 2.5, 5.0, 7.5, 12.5, 17.5, 22.5])
    folder = save(tmp_path / "a", thin_and_thick(depth))
    assert "missing" not in assert_refused(folder, "unevenly spaced", "5.00 mm at -302.75 mm", "+resample")
    volume = read_volume(f"{folder}::+resample")
    assert_allclose(volume.grid.spacing_mm, (0.75, 1.5, 2.5))
    assert_allclose(volume.data[3, 3], np.arange(10) * 250.0 - 1024, atol=1e-3)
    hole = save(tmp_path / "b", thin_and_thick(np.delete(depth, 5)))
    text = assert_refused(f"{hole}::+resample", "unevenly spaced", "nobody knows what lies in a gap of 10.00 mm")
    assert "+resample" not in text


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -10, 5)])
def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path, angles):
    tilt = np.radians(12.0)
    _, column, normal = axes(angles)
    way = normal * np.cos(tilt) + column * np.sin(tilt)
    along = ORIGIN + np.arange(SLICES)[:, None] * STEP / np.cos(tilt) * way
    folder = save(tmp_path, slices(positions=along, angles=angles))
    assert_refused(folder, "tilted", "12.0 degrees", "+resample")
    with pytest.raises(CaseError, match=r"12\.0 degrees"):
        read_grid(folder)


def test_a_tilted_gantry_is_resampled_on_request(tmp_path):
    """A field that is linear in the patient's space must be the same field on the new grid."""
    tilt, field = np.radians(15.0), np.array([3.0, -2.0, 5.0])
    positions = ORIGIN + np.arange(SLICES)[:, None] * STEP * np.array([0, np.tan(tilt), 1])
    affine = affine_lps()
    index = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="xy"), -1)
    places = index[..., :1] * affine[:3, 0] + index[..., 1:] * affine[:3, 1]
    pixels = np.array([(places + position - ORIGIN) @ field for position in positions])
    folder = save(tmp_path, slices(np.rint(pixels * 10).astype(np.int16), positions))
    volume = read_volume(f"{folder}::+resample")
    assert shear_degrees(volume.grid.affine) < 1e-6
    assert_allclose(volume.grid.spacing_mm, (0.75, 1.5, STEP), atol=1e-6)
    inside = np.argwhere(volume.data > volume.data.min())
    world = ras(volume.grid.world(inside))
    expected = (world - ORIGIN) @ field * 10 - 1024
    error = np.abs(volume.data[tuple(inside.T)] - expected)
    assert np.quantile(error, 0.9) < 1.0  # the rest are borders, mixed with what lies outside
    assert len(inside) > 0.8 * volume.data.size


def test_tilted_with_uneven_gaps_says_both(tmp_path):
    depth = np.array([0, 2.5, 5.0, 8.2, 10.0, 12.5])[:, None]
    folder = save(tmp_path, slices(positions=ORIGIN + depth * [0, 0.2, 1]))
    assert_refused(folder, "unevenly spaced", "tilted", "11.3 degrees")


def test_a_slice_out_of_line(tmp_path):
    def move(dataset, number):
        if number == 2:
            dataset.ImagePositionPatient = ds(ORIGIN + np.array([0.4, 0, 2 * STEP]))

    assert_refused(save(tmp_path, slices(change=move)), "do not lie behind each other", "-305.25 mm is 0.40 mm aside")


def test_rounded_positions_are_no_fault(tmp_path):
    def rounded(dataset, number):
        dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]

    volume = read_volume(save(tmp_path, slices(angles=(20, -10, 5), change=rounded)))
    assert np.abs(volume.grid.affine - ras(affine_lps((20, -10, 5)))).max() < 0.01
