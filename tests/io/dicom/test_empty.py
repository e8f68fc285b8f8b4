"""Labels that hold nothing: empty masks on the image's grid, with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.drawing import OBLIQUE, assert_refused, blob, drawn, seg
from support.making import COLUMNS, ROWS, SLICES, save, slices, uid

from differseg_med.io.labels import load_label


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "image", slices(angles=OBLIQUE))


def changed(path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def test_a_region_without_contours_is_empty_on_the_image_that_it_names(tmp_path, image):
    other = save(tmp_path / "other", slices(np.zeros((3, 8, 9), np.int16), series="other"))
    path = drawn(tmp_path, {"GTV": []}, referenced=uid("series", "series"))
    label = load_label(f"{path}::GTV", [other, image])
    assert label.shape[1:] == (COLUMNS, ROWS, SLICES)
    assert not label.any()
    assert label.meta["notes"] == ["ROI GTV has no contours: taken as empty"]
    assert_refused(f"{path}::GTV", [], "only its image could say how large")
    points = changed(path, lambda dataset: _point(dataset.ROIContourSequence[0]))
    assert_refused(f"{points}::GTV", [image], "has no closed contour")


def _point(drawn_region):
    item = pydicom.Dataset()
    item.ContourGeometricType, item.ContourData = "POINT", [1, 2, 3]
    drawn_region.ContourSequence = [item]


def test_a_seg_without_frames_is_empty(tmp_path, image):
    path = seg(tmp_path, "BINARY", blob().astype(np.uint8))

    def emptied(dataset):
        for keyword in ("PerFrameFunctionalGroupsSequence", "NumberOfFrames", "PixelData"):
            del dataset[keyword]

    label = load_label(f"{changed(path, emptied)}::gtv", [image])
    assert label.shape[1:] == (COLUMNS, ROWS, SLICES)
    assert not label.any()
    assert label.meta["notes"] == ["the DICOM SEG has no frames: segment GTV is taken as empty"]
    assert_refused(f"{path}::liver", [image], "there is no segment 'liver'", "GTV (1)")
