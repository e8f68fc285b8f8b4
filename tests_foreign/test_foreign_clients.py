"""Programs of others that `make test` does not have: OHIF's reader of SEG, Firefox, axe; 3D Slicer's picture."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from support.browser import Page
from support.segmentations import LESION, MASK, read_by_dcmqi, validated
from support.series import AXIAL, CORONAL, SAGITTAL, TURNED, by_row, positions, write_series
from support.slicer import Slicer
from support.slicer_view import slicer_view
from support.synthetic import BUNDLE, ROOT

from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.source import read_source
from differseg_med.geometry import Grid
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_mask
from differseg_med.reports.run import write_part, write_results_page
from differseg_med.reports.views import part_of
from differseg_med.review.server import ReviewServer

HERE = Path(__file__).parent
PICTURES = os.environ.get("DIFFERSEG_PICTURES", "")
"""Folder for pictures of the docs; blank keeps them as they are."""


def holes(mask: np.ndarray, slices: list[int]) -> np.ndarray:
    """The mask with these slices empty."""
    mask = mask.copy()
    mask[..., slices] = 0
    return mask


SERIES = {
    "axial": (AXIAL, holes(MASK, [1, 3]), 5),
    "sagittal": (SAGITTAL, holes(MASK, [1, 3]), 5),
    "coronal": (CORONAL, holes(MASK, [1, 3]), 5),
    "oblique": (TURNED, holes(MASK, [1, 3]), 5),
    "single slice": (AXIAL, MASK[..., :1], 1),
    "empty": (AXIAL, np.zeros_like(MASK), 5),
    # 5 frames of 42 pixels are 27 bytes, 4 are 21, 3 are 16: both empty ones are left out.
    "odd length": (AXIAL, holes(MASK, [0, 4]), 5),
}


def by_cornerstone(seg: Path, folder: Path, modules: Path) -> dict[str, object]:
    """What the adapters that OHIF uses read: ``set`` (pixels by source image), ``label``, ``code``."""
    words = ["node", str(HERE / "read_seg.mjs"), str(seg), *map(str, sorted(folder.iterdir()))]
    environment = {**os.environ, "DIFFERSEG_NODE_MODULES": str(modules)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


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


@pytest.mark.parametrize("name", SERIES)
def test_ohif_s_adapters_dcmqi_and_dciodvfy_read_every_seg(name, tmp_path, node_modules, require_program):
    orientation, mask, slices = SERIES[name]
    folder = write_series(tmp_path / "ct", orientation)
    for path in sorted(folder.iterdir())[slices:]:
        path.unlink()
    source = read_source(folder)
    seg = tmp_path / "mask.dcm"
    save_dicom_seg(mask, source.grid.affine, source, seg, LESION)
    expected = np.array(positions(mask, source.grid.affine)).reshape(-1, 3)
    found = by_cornerstone(seg, folder, node_modules)
    np.testing.assert_allclose(where(found, folder), expected, atol=2e-3)
    assert (found["label"], found["code"]) == (LESION.name, LESION.property_type.value)
    np.testing.assert_allclose(read_by_dcmqi(seg, tmp_path / "dcmqi")[0].reshape(-1, 3), expected, atol=2e-3)
    assert validated(require_program("dciodvfy", "dicom3tools"), seg) == []


def test_ohif_s_adapters_read_a_patient(tmp_path: Path, node_modules: Path):
    """The contours of a radiologist on slices of a T1, two of them emptied so that the length is even."""
    with zipfile.ZipFile(ROOT / "tests" / "data" / "sts_041_slab.zip") as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "MR_T1"
    mask = load_label(f"{next(tmp_path.glob('RS/*'))}::GTV_Mass_MR_T1", [str(folder)])
    source, voxels = read_source(folder), holes(mask[0].numpy().astype(np.uint8), [8, 9])
    save_dicom_seg(voxels, np.asarray(mask.affine, dtype=float), source, tmp_path / "mask.dcm", LESION)
    found = by_cornerstone(tmp_path / "mask.dcm", folder, node_modules)
    np.testing.assert_allclose(where(found, folder), positions(voxels, np.asarray(mask.affine)), atol=2e-3)
    if PICTURES:
        draw(found, folder, Path(PICTURES) / "ohif_adapter.webp")


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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a case that can be looked through, and one that failed."""
    folder = tmp_path_factory.mktemp("results")
    mask = np.zeros((30, 30, 20), np.uint8)
    mask[10:20, 8:22, 6:14] = 1
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    image = np.random.default_rng(0).normal(size=(1, *mask.shape)).astype(np.float32)
    write_part(folder / "a", part_of(image, affine, ("t1",), mask, Grid(mask.shape, affine)))
    rows = [
        {"case_id": "a", "status": "done", "modalities": "t1", "volume_ml": "13.4", "flags": "touches the border"},
        {"case_id": "b", "status": "failed", "reason": "there is no such file"},
    ]
    write_results_page(rows, folder)
    (folder / "summary.csv").write_text("case_id,status,reason\r\na,done,\r\nb,failed,no file\r\n", newline="")
    return folder


AXE = "axe.run(document, {resultTypes: ['violations']}).then(f => f.violations.map(v => `${v.impact} ${v.id}`))"


def test_axe_finds_nothing_on_pages(browser: Page, node_modules: Path, results: Path):
    axe = (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    with ReviewServer(results) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for page in (results / "report.html", server.address):
            for scheme in ("light", "dark"):
                browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                browser.open(page)
                browser.wait("document.body.dataset.shown !== ''")
                browser.run(f"{axe}; 0")
                assert browser.run(AXE) == [], (str(page), scheme)
        server.shutdown()


def test_firefox_shows_the_report(results: Path, tmp_path: Path, require_program):
    """Without a window: a picture of the page that is not blank."""
    picture = tmp_path / "page.png"
    words = [require_program("firefox-esr"), "--headless", "--profile", str(tmp_path / "profile"), "--no-remote"]
    (tmp_path / "profile").mkdir()
    page = (results / "report.html").as_uri()
    done = subprocess.run(
        [*words, f"--screenshot={picture}", "--window-size=1200,900", page],
        capture_output=True,
        check=False,
        timeout=240,
        env={**os.environ, "HOME": str(tmp_path), "MOZ_HEADLESS": "1"},
    )
    assert picture.is_file(), done.stderr[-1000:]
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")).astype(int)
    assert (pixels.sum(axis=-1) < 200).mean() > 0.002  # text
    orange = (pixels[..., 0] - pixels[..., 2] > 100) & (pixels[..., 0] > pixels[..., 1] + 30)
    assert orange.sum() > 50  # the outline in the picture of the case


def test_the_one_kind_that_ohif_s_adapters_refuse_is_told(tmp_path: Path, node_modules: Path):
    """An odd number of bytes and no empty frame to leave out: a note says so; a newer version may read it."""
    folder = write_series(tmp_path / "ct", AXIAL)
    source = read_source(folder)
    (note,) = save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    assert "may refuse its odd packed length" in note
    with pytest.raises(RuntimeError, match="Unexpected 1-bit SEG PixelData length"):
        by_cornerstone(tmp_path / "mask.dcm", folder, node_modules)


def test_slicer_draws_the_mask_on_its_image(tmp_path: Path):
    """Slicer's own slice view, without a window: the segment's outline in its colour around the mask."""
    slicer = Slicer()
    image = BUNDLE / "sample" / "STS_041" / "t1.nii.gz"
    mask = load_mask(BUNDLE / "sample" / "STS_041" / "mask.nii.gz")
    voxels, affine = mask[0].numpy().astype(np.uint8), np.asarray(mask.affine, dtype=float)
    info = replace(LESION, color=(255, 159, 28))
    volume = slicer.load_volume(image)
    node = slicer.load_segmentation(save_seg_nrrd(voxels, affine, tmp_path / "mask.seg.nrrd", info))
    picture = slicer_view(slicer, volume, node, tmp_path / "view.png")
    orange = (picture[..., 0] - picture[..., 2] > 120) & (picture[..., 0] > picture[..., 1] + 50)
    assert 100 < orange.sum() < 0.05 * orange.size
    if PICTURES:
        Image.open(tmp_path / "view.png").convert("RGB").save(Path(PICTURES) / "slicer_view.webp", quality=85)
