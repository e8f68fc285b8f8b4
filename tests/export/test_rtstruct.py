"""RTSTRUCT: contours on their slices, holes by a channel; programs that fill them in other ways get the same voxels."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from support.segmentations import LESION, validated
from support.series import AXIAL, COLUMNS, CORONAL, ROWS, SAGITTAL, SLICES, TURNED, positions, write_series

from differseg_med.errors import CaseError
from differseg_med.export.outlines import outlines
from differseg_med.export.rtstruct import save_rtstruct, write_rtstruct
from differseg_med.export.segmented import Segmented
from differseg_med.export.source import read_source
from differseg_med.geometry import Grid
from differseg_med.io.labels import load_label
from differseg_med.transforms.grids import grid_of

MASK = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
MASK[1:-1, 1:-1, 1:] = 1
MASK[2:-2, 2:-2, 2] = 0  # a hole
MASK[0, 0, 2] = 1  # and a voxel that touches the rest by a corner


def filled_by_matplotlib(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Even and odd crossings of a ray from each center, counted over all rings."""
    centers = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    inside = np.zeros(len(centers), bool)
    for ring in rings:
        inside ^= Polygon(np.concatenate([ring, ring[:1]])).contains_points(centers)
    return inside.reshape(shape)


@pytest.mark.parametrize("seed", range(6))
def test_outlines_hold_the_centers_of_a_slice_and_no_others(seed):
    """Noise of all sizes: specks, holes within holes, pieces that touch by a corner, and at the border."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(23, 31)), seed / 4)
    frame = (noise > np.median(noise)).astype(np.uint8)
    rings = outlines(frame)
    assert len(rings) > 1
    np.testing.assert_array_equal(filled_by_matplotlib(rings, frame.shape), frame > 0)
    for ring in rings:  # each alone is a polygon that fills one piece: none is a hole that others would have to cut out
        assert filled_by_matplotlib([ring], frame.shape)[frame == 0].sum() == 0


def test_a_hole_is_joined_by_a_channel_between_rows_of_centers():
    frame = np.zeros((7, 9), np.uint8)
    frame[1:6, 1:8] = 1
    frame[3, 2], frame[3, 5] = 0, 0  # the channel of the left hole ends at the right one
    (ring,) = outlines(frame)
    channel = ring[np.isin(ring[:, 0] % 1, (0.25,))]
    assert sorted(map(tuple, channel.tolist())) == sorted(2 * [(3.25, 2.25), (3.25, 4.75), (3.25, 5.25), (3.25, 7.5)])
    scaled = Image.new("1", (90, 70))  # PIL fills pixels, so it is shown a tenfold picture
    ImageDraw.Draw(scaled).polygon([(10 * x + 5, 10 * y + 5) for y, x in ring.tolist()], fill=1)
    np.testing.assert_array_equal(np.asarray(scaled)[5::10, 5::10], frame > 0)


@pytest.mark.parametrize(
    "orientation", [AXIAL, SAGITTAL, CORONAL, TURNED], ids=["axial", "sagittal", "coronal", "oblique"]
)
def test_contours_give_the_mask_again(orientation, tmp_path, require_program):
    folder, path = write_series(tmp_path / "ct", orientation), tmp_path / "mask.dcm"
    source = read_source(folder)
    assert save_rtstruct(MASK, source.grid.affine, source, path, LESION) == []
    label = load_label(f"{path}::{LESION.name}", [folder])
    found = positions(label[0].numpy() > 0, grid_of(label).affine)
    np.testing.assert_allclose(found, positions(MASK, source.grid.affine), atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), path, "RTStructureSet") == []
    read, images = pydicom.dcmread(path), {d.SOPInstanceUID: d for d in source.datasets}
    assert read.StudyInstanceUID == source.datasets[0].StudyInstanceUID
    for contour in read.ROIContourSequence[0].ContourSequence:  # in the plane of the image that each refers to
        image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
        assert np.abs(points @ np.cross(row, column)).max() < 1e-3


def test_an_empty_mask_is_a_region_without_contours(tmp_path):
    folder, path = write_series(tmp_path / "ct", TURNED), tmp_path / "mask.dcm"
    source = read_source(folder)
    save_rtstruct(np.zeros_like(MASK), source.grid.affine, source, path, LESION)
    label = load_label(str(path), [folder])
    assert label.shape[1:] == source.grid.shape
    assert not label.any()


def test_nothing_is_written_without_dicom_images(tmp_path):
    image = tmp_path / "t1.nii.gz"
    image.write_bytes(b"x")
    segmented = Segmented(MASK, Grid(MASK.shape, np.eye(4)), LESION, {"t1": image}, "t1")
    with pytest.raises(CaseError, match="an RTSTRUCT refers to the DICOM images under it"):
        write_rtstruct(segmented, tmp_path / "mask.dcm")
    assert not (tmp_path / "mask.dcm").exists()
