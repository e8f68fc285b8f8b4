"""Contours, segmentations and refusals for tests of labels; helpers, not tests."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from pydicom.sr.codedict import codes

from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label
from support.making import COLUMNS, ROWS, SLICES, affine_lps, rtstruct, save, slices, uid

OBLIQUE = (20, -10, 5)


def contour(points: np.ndarray, number: float, angles=OBLIQUE) -> np.ndarray:
    """LPS points (N, 3) of in-plane (column, row) indices on slice ``number``."""
    index = np.column_stack([points, np.full(len(points), number), np.ones(len(points))])
    return (index @ affine_lps(angles).T)[:, :3]


def drawn(tmp_path: Path, regions: dict, **settings) -> Path:
    return next(save(tmp_path / "rt", [rtstruct(regions, **settings)]).iterdir())


def assert_refused(cell, reference_images=(), *words: str) -> str:
    with pytest.raises(CaseError) as caught:
        load_label(cell, reference_images)
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    return text


def star(radius: float, center=(19.3, 17.6), corners: int = 11) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
    length = np.where(np.arange(2 * corners) % 2, radius, radius / 2)
    return np.asarray(center) + length[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def filled(points: np.ndarray) -> np.ndarray:
    """Pixels (column, row) whose center matplotlib finds inside."""
    grid = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij"), -1).reshape(-1, 2)
    return Polygon(points).contains_points(grid).reshape(COLUMNS, ROWS)


def seg(folder: Path, kind: str, pixels: np.ndarray, move: np.ndarray | None = None, **settings) -> Path:
    """A SEG of segments 'GTV' (and 'node') on the slices of `image`, moved by mm (LPS)."""
    source = slices(angles=OBLIQUE)
    for dataset in source:
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber = "", 1
        if move is not None:
            dataset.ImagePositionPatient = [float(f"{v:.10g}") for v in np.array(dataset.ImagePositionPatient) + move]
    manual = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    names = ["GTV", "node"][: pixels.shape[-1] if pixels.ndim == 4 else 1]
    described = [
        hd.seg.SegmentDescription(n, name, codes.SCT.Organ, codes.SCT.Liver, manual) for n, name in enumerate(names, 1)
    ]
    made = hd.seg.Segmentation(
        source, pixels, kind, described, uid("s"), 1, uid("i"), 1, "maker", "model", "1", "serial", **settings
    )
    folder.mkdir(exist_ok=True)
    made.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def blob(seed: int = 0) -> np.ndarray:
    """A random mask (slices, rows, columns), empty outside slices 2 and 4."""
    mask = np.random.default_rng(seed).random((SLICES, ROWS, COLUMNS)) < 0.3
    mask[[0, 1, 3, 5]] = False
    return mask
