"""DICOM SEG as the adapters read it that OHIF uses (@cornerstonejs/adapters on Node), beside dcmqi and dciodvfy."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from support import series
from support.segmentations import LESION, MASK, read_by_dcmqi, validated
from support.series import AXIAL, CORONAL, SAGITTAL, TURNED, by_row, positions, positions_in_seg, write_series
from support.synthetic import ROOT

from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.source import read_source
from differseg_med.io.labels import load_label

HERE = Path(__file__).parent
PICTURES = os.environ.get("DIFFERSEG_PICTURES", "")
"""Folder for pictures of the docs; blank keeps them as they are."""


def holes(mask: np.ndarray, slices: list[int]) -> np.ndarray:
    """The mask with these slices empty."""
    mask = mask.copy()
    mask[..., slices] = 0
    return mask


NINE = np.random.default_rng(0).integers(0, 2, (9, series.ROWS, 4), np.uint8)
"""4 frames of 63 pixels are 32 bytes, and as many if each began a new byte."""
SERIES = {
    "axial": (AXIAL, holes(MASK, [1, 3])),
    "sagittal": (SAGITTAL, holes(MASK, [1, 3])),
    "coronal": (CORONAL, holes(MASK, [1, 3])),
    "oblique": (TURNED, holes(MASK, [1, 3])),
    "single slice": (AXIAL, MASK[..., :1]),
    "empty": (AXIAL, np.zeros_like(MASK)),
    # 5 frames of 42 pixels are 27 bytes, 4 are 21, 3 are 16: both empty ones are left out.
    "odd length": (AXIAL, holes(MASK, [0, 4])),
    "odd length, no empty slice": (AXIAL, MASK),
    "as if frame by frame": (AXIAL, NINE),
}
BYTES = ("odd length, no empty slice", "as if frame by frame")
"""Series of which single bits would be misread."""


@dataclass(frozen=True)
class Written:
    """A SEG, the folder of its series, the world positions that it should have, and notes."""

    seg: Path
    folder: Path
    expected: np.ndarray
    notes: list[str]


def by_cornerstone(written: dict[str, Written], modules: Path) -> dict[str, dict[str, object]]:
    """What the adapters read: ``set`` (pixels by source image), ``label``, ``code``; or ``error``."""
    jobs = [{"seg": str(w.seg), "sources": [*map(str, sorted(w.folder.iterdir()))]} for w in written.values()]
    environment = {**os.environ, "DIFFERSEG_NODE_MODULES": str(modules)}
    words = ["node", str(HERE / "read_seg.mjs")]
    done = subprocess.run(words, input=json.dumps(jobs), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(written, json.loads(done.stdout.splitlines()[-1]), strict=True))


def where(found: dict[str, object], folder: Path) -> np.ndarray:
    """World positions of the pixels that are set, by the headers of their images, as `positions` gives them."""
    points = []
    images = {str((d := pydicom.dcmread(path)).SOPInstanceUID): d for path in folder.iterdir()}
    for uid, pixels in found["set"].items():
        image = images[uid]
        along, down = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
        rows, columns = np.divmod(np.array(pixels, int), int(image.Columns))
        spacing = np.array(image.PixelSpacing, float)
        origin = np.array(image.ImagePositionPatient, float)
        lps = origin + np.outer(columns * spacing[1], along) + np.outer(rows * spacing[0], down)
        points += (lps * (-1, -1, 1)).round(3).tolist()
    return by_row(np.array(points).reshape(-1, 3))


def single_bits(seg: Path) -> Path:
    """The frames of a SEG of bytes, as single bits."""
    dataset, path = pydicom.dcmread(seg), seg.with_name("bits.dcm")
    frames = dataset.pixel_array
    dataset.SegmentationType, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = "BINARY", 1, 1, 0
    del dataset.SegmentationFractionalType, dataset.MaximumFractionalValue
    dataset.PixelData = pydicom.pixels.utils.pack_bits(frames)
    dataset.save_as(path)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Every series as it comes, compressed, and as the bits that would be misread; and slices of a patient."""
    made: dict[str, Written] = {}
    for name, (orientation, mask) in SERIES.items():
        folder = tmp_path_factory.mktemp("series")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(series, "COLUMNS", mask.shape[0])
            images = write_series(folder / "ct", orientation, mask.shape[2])
        source = read_source(images)
        expected = np.array(positions(mask, source.grid.affine)).reshape(-1, 3)
        for rle in (False, True):
            seg = folder / ("rle.dcm" if rle else "mask.dcm")
            notes = save_dicom_seg(mask, source.grid.affine, source, seg, LESION, rle=rle)
            made[f"{name}, RLE" if rle else name] = Written(seg, images, expected, notes)
        if name in BYTES:
            made[f"{name}, bits"] = Written(single_bits(folder / "mask.dcm"), images, expected, [])
    made["patient"] = of_patient(tmp_path_factory.mktemp("patient"))
    return made


def of_patient(folder: Path) -> Written:
    """The contours of a radiologist on slices of a T1, two of them emptied so that single bits are understood."""
    with zipfile.ZipFile(ROOT / "tests" / "data" / "sts_041_slab.zip") as archive:
        archive.extractall(folder)
    images = folder / "MR_T1"
    mask = load_label(f"{next(folder.glob('RS/*'))}::GTV_Mass_MR_T1", [str(images)])
    voxels, affine = holes(mask[0].numpy().astype(np.uint8), [8, 9]), np.asarray(mask.affine, dtype=float)
    notes = save_dicom_seg(voxels, affine, read_source(images), folder / "mask.dcm", LESION)
    return Written(folder / "mask.dcm", images, positions(voxels, affine), notes)


@pytest.fixture(scope="module")
def found(written: dict[str, Written], node_modules: Path) -> dict[str, dict[str, object]]:
    return by_cornerstone(written, node_modules)


@pytest.mark.parametrize("rle", [False, True], ids=["as it comes", "RLE"])
@pytest.mark.parametrize("name", SERIES)
def test_ohif_dcmqi_and_dciodvfy_read_every_seg(
    name: str,
    rle: bool,
    written: dict[str, Written],
    found: dict[str, dict[str, object]],
    tmp_path: Path,
    require_program: Callable[..., Path],
):
    key = f"{name}, RLE" if rle else name
    one, answer = written[key], found[key]
    assert [note.split()[0] for note in one.notes] == (["FRACTIONAL"] if name in BYTES and not rle else [])
    assert pydicom.dcmread(one.seg).SegmentationType == ("FRACTIONAL" if name in BYTES or rle else "BINARY")
    np.testing.assert_allclose(where(answer, one.folder), one.expected, atol=2e-3)
    assert (answer["label"], answer["code"]) == (LESION.name, LESION.property_type.value)
    by_dcmqi = read_by_dcmqi(one.seg, tmp_path / "dcmqi")[0].reshape(-1, 3)
    np.testing.assert_allclose(by_dcmqi, one.expected, atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), one.seg) == []


def test_single_bits_that_are_misread(written: dict[str, Written], found: dict[str, dict[str, object]]):
    """Why those two are bytes: bits that highdicom reads are refused there, or, worse, shifted without a word."""
    odd, shifted = (f"{name}, bits" for name in BYTES)
    for name in (odd, shifted):
        np.testing.assert_allclose(positions_in_seg(written[name].seg), written[name].expected, atol=2e-3)
    assert "Unexpected 1-bit SEG PixelData length" in found[odd]["error"]
    places, expected = where(found[shifted], written[shifted].folder), written[shifted].expected
    assert places.shape != expected.shape or not np.allclose(places, expected, atol=2e-3)


def test_a_patient(written: dict[str, Written], found: dict[str, dict[str, object]]):
    one, answer = written["patient"], found["patient"]
    np.testing.assert_allclose(where(answer, one.folder), one.expected, atol=2e-3)
    if PICTURES:
        draw(answer, one.folder, Path(PICTURES) / "ohif_adapter.webp")


def draw(found: dict[str, object], folder: Path, path: Path) -> None:
    """Three slices with the rim of the pixels that the adapters set."""
    tiles = []
    images = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda d: float(d.ImagePositionPatient[2]))
    for image in images[1:8:3]:
        grey = image.pixel_array.astype(float)
        grey = np.clip(255 * grey / np.percentile(grey, 99), 0, 255).astype(np.uint8)
        mask = np.zeros(grey.size, bool)
        mask[found["set"][str(image.SOPInstanceUID)]] = True
        large = [np.kron(array, np.ones((4, 4), array.dtype)) for array in (grey, mask.reshape(grey.shape))]
        tile = np.stack([large[0]] * 3, axis=-1)
        tile[large[1] & ~ndimage.binary_erosion(large[1], iterations=2)] = (255, 159, 28)
        picture = Image.fromarray(tile)
        ImageDraw.Draw(picture).text((6, 4), f"{float(image.ImagePositionPatient[2]):.1f} mm", fill=(46, 196, 255))
        tiles.append(np.pad(np.asarray(picture), ((6, 6), (6, 6), (0, 0)), constant_values=255))
    Image.fromarray(np.concatenate(tiles, axis=1)).save(path)
