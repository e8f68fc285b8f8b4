"""Programs of others that `make test` does not have: Firefox, axe; 3D Slicer's picture. OHIF: `test_ohif`."""

from __future__ import annotations

import io
import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import Page
from support.segmentations import LESION
from support.slicer import Slicer
from support.slicer_view import slicer_view
from support.synthetic import BUNDLE

from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.geometry import Grid
from differseg_med.io.volumes import load_mask
from differseg_med.reports.run import write_part, write_results_page
from differseg_med.reports.views import part_of
from differseg_med.review.server import ReviewServer

PICTURES = os.environ.get("DIFFERSEG_PICTURES", "")
"""Folder for pictures of the docs; blank keeps them as they are."""


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
