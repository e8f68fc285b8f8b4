"""``report.html`` as a person meets it: in a real browser, without a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from PIL import Image
from scipy import ndimage
from support.browser import Page
from support.synthetic import affine_of, label_volume, stored_as, tumour_images

from differseg_med.geometry import Grid
from differseg_med.reports.run import PART, write_part, write_results_page
from differseg_med.reports.views import LEVELS, SIZE, part_of

pytestmark = pytest.mark.usefixtures("all_pixels")

LABEL = stored_as(label_volume((20.0, -10.0, 5.0)), "PSR")  # the mask's file is oblique and has its axes mixed up
MASK, GRID = LABEL.data.astype(np.uint8), Grid(LABEL.data.shape, LABEL.affine)
AFFINE = affine_of((2.0, 2.0, 2.0), (-50.0, 30.0, -740.0))
SHAPE = (40, 40, 40)
ROW = {"status": "done", "reason": "", "modalities": "t1+pet", "volume_ml": "3.1", "flags": "", "notes": ""}


def image(channels: int = 2, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)


def write_case(folder: Path, case: str, mask: np.ndarray = MASK) -> None:
    write_part(folder / case, part_of(image(), AFFINE, ("t1", "pet"), mask, GRID))
    (folder / case / "mask.nii.gz").write_bytes(b"")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a good case, an empty mask and a failure."""
    folder = tmp_path_factory.mktemp("results")
    write_case(folder, "a 1")
    write_case(folder, "b", np.zeros_like(MASK))
    rows = [
        {"case_id": "a 1", **ROW, "flags": "touches the border; volume 3 ml"},
        {"case_id": "b", **ROW, "flags": "the mask is empty"},
        {"case_id": "c", **ROW, "status": "failed", "reason": "<script>document.title = 'x'</script> & no image"},
    ]
    write_results_page(rows, folder)
    return folder


def open_viewer(browser: Page, results: Path, case: str) -> tuple[float, float, float, float]:
    """Click the case's button, in a page that may be open already; returns left, top, width, height of the canvas."""
    if browser.run("location.href") != (results / "report.html").as_uri():
        browser.open(results / "report.html")
    browser.run("document.getElementById('opacity').value = 0.5; document.getElementById('style').value = 'filled'")
    browser.run(f"document.querySelector('button[data-open=\"{case}\"]').click()")
    browser.wait(f"document.getElementById('viewer').dataset.shown === '{case}'")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = "(r => [r.x, r.y, r.width, r.height])(document.getElementById('canvas').getBoundingClientRect())"
    left, top, width, height = browser.run(box)
    return left, top, width, height


def mask_pixels(browser: Page, box: tuple[float, float, float, float]) -> np.ndarray:
    """Where the canvas shows the mask's orange, ``(N, 2)`` as x, y of the window."""
    left, top, width, height = map(int, box)
    picture = browser.picture()[top : top + height, left : left + width].astype(int)
    orange = (picture[..., 0] - picture[..., 2] > 60) & (picture[..., 0] > picture[..., 1])
    return np.argwhere(orange)[:, ::-1] + (left, top)


def crosshair(browser: Page) -> np.ndarray:
    """RAS in mm, as the page says it."""
    text = browser.run("document.getElementById('place').textContent")
    return np.array([float(number) for number in re.findall(r"-?\d+\.\d", text)])


def test_opens_without_errors_and_asks_nobody_for_anything(browser: Page, results: Path):
    browser.errors.clear()
    browser.requested.clear()
    open_viewer(browser, results, "a 1")
    assert browser.errors == []
    assert [url[:40] for url in browser.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.run("document.title") == "Segmentation"  # the script in the reason did not run
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 200)")


def test_mask_is_visible_and_can_be_faded(browser: Page, results: Path):
    box = open_viewer(browser, results, "a 1")
    np.testing.assert_allclose(crosshair(browser), LABEL.foreground().mean(axis=0), atol=0.06)
    visible = len(mask_pixels(browser, box))
    assert visible > 2000
    browser.run("(o => { o.value = 0; o.oninput(); })(document.getElementById('opacity'))")
    assert len(mask_pixels(browser, box)) < visible / 100
    empty = open_viewer(browser, results, "b")
    assert len(mask_pixels(browser, empty)) == 0


def test_a_click_on_the_mask_moves_the_crosshair_into_the_mask(browser: Page, results: Path):
    """World position by world position: what is orange on the screen is foreground in the file."""
    box = open_viewer(browser, results, "a 1")
    pixels = mask_pixels(browser, box)
    planes, count = ndimage.label(ndimage.binary_dilation(_as_picture(pixels), iterations=8))
    assert count == 3
    near = ndimage.binary_dilation(MASK, np.ones((3, 3, 3)))
    for plane in range(1, count + 1):
        own = pixels[planes[pixels[:, 1], pixels[:, 0]] == plane]
        before = crosshair(browser)
        x, y = map(int, own[np.argmin(own @ (1, 1))])  # the upper left end of the mask in this plane
        browser.click(x + 2, y + 2)
        after = crosshair(browser)
        assert np.linalg.norm(after - before) > 3
        i, j, k = np.rint(GRID.indices(after)).astype(int)
        assert near[i, j, k]
        open_viewer(browser, results, "a 1")


def _as_picture(pixels: np.ndarray) -> np.ndarray:
    picture = np.zeros(pixels.max(axis=0)[::-1] + 20, dtype=bool)
    picture[pixels[:, 1], pixels[:, 0]] = True
    return picture


def test_modalities_and_cases_can_be_changed_also_by_the_impatient(browser: Page, results: Path):
    box = open_viewer(browser, results, "a 1")
    first = browser.picture().astype(int)
    assert browser.run("[...document.getElementById('modality').options].map(o => o.value)") == ["t1", "pet"]
    browser.run("(m => { m.value = 'pet'; return m.onchange(); })(document.getElementById('modality'))")
    assert len(mask_pixels(browser, box)) > 2000
    assert np.abs(browser.picture().astype(int) - first).mean() > 1
    # Without waiting: another modality, the next case, and back.
    clicks = "m.value = 't1'; m.onchange(); ['next', 'previous'].forEach(b => document.getElementById(b).click())"
    browser.run(f"(m => {{ {clicks} }})(document.getElementById('modality'))")
    browser.wait("document.getElementById('viewer').dataset.shown === 'a 1'")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert np.abs(browser.picture().astype(int) - first).mean() < 0.5


KEYS = {
    "ArrowUp": (0, 0, 1),
    "ArrowDown": (0, 0, -1),
    "ArrowLeft": (1, 0, 0),  # the patient's right is on the left
    "ArrowRight": (-1, 0, 0),
    "PageUp": (0, 1, 0),
    "PageDown": (0, -1, 0),
}


def press(browser: Page, key: str) -> None:
    browser.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
    browser.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_keys_go_to_the_next_slice_of_each_plane(browser: Page, results: Path):
    open_viewer(browser, results, "a 1")
    press(browser, "ArrowUp")  # from between the voxels to the middle of one
    for key, direction in KEYS.items():
        before = crosshair(browser)
        press(browser, key)
        moved = crosshair(browser) - before  # voxels of 2 mm, turned a little
        assert np.linalg.norm(moved) == pytest.approx(2, abs=0.15), key
        assert np.argmax(np.abs(moved)) == np.argmax(np.abs(direction)), key
        assert moved @ direction > 1.5, key
    press(browser, "n")
    browser.wait("document.getElementById('viewer').dataset.shown === 'b'")
    press(browser, "p")
    browser.wait("document.getElementById('viewer').dataset.shown === 'a 1'")
    browser.run("document.getElementById('modality').focus()")
    place = crosshair(browser)
    press(browser, "ArrowDown")  # chooses another image, and moves nothing
    assert crosshair(browser).tolist() == place.tolist()


def test_an_outline_leaves_the_tumour_to_be_seen_and_windows_change_the_grey(browser: Page, results: Path):
    box = open_viewer(browser, results, "a 1")
    area = len(mask_pixels(browser, box))
    change = "(e => { e.value = '%s'; (e.onchange ?? e.oninput).call(e); })(document.getElementById('%s'))"
    browser.run(change % ("outline", "style"))
    outline = mask_pixels(browser, box)
    assert 0.02 * area < len(outline) < 0.6 * area
    left, top, width, height = map(int, box)
    inside = (slice(top, top + height), slice(left, left + width))
    bright = []
    for value in ("0.2", "0.8"):
        browser.run(change % (value, "level"))
        bright.append(browser.picture()[inside].mean())
    browser.run(change % ("0.5", "level"))
    assert bright[0] > 1.1 * bright[1]  # a low level shows what is dark


def test_fifty_cases_stay_small_and_unpack_nothing_before_they_are_asked(browser: Page, tmp_path: Path):
    part = part_of(image(3, (90, 90, 90)), AFFINE, ("t1", "ct", "pet"), MASK, GRID)  # noise compresses worst
    assert 0.85 * SIZE < len(part["picture"]) + sum(map(len, part["volumes"].values())) <= SIZE
    rows = [{"case_id": f"case{n:02d}", **ROW} for n in range(50)]
    for row in rows:
        write_part(tmp_path / row["case_id"], part)
    page = write_results_page(rows, tmp_path)
    assert page.stat().st_size < 30e6
    browser.open(page)
    assert browser.run("typeof niivue.Niivue") == "undefined"  # the element that holds the library, packed
    assert browser.run("document.querySelectorAll('button[data-open]').length") == 50


class Parsed(HTMLParser):
    """Cells of the table, links and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_table_and_sections_say_what_the_summary_says(results: Path):
    page = Parsed((results / "report.html").read_text(encoding="utf-8"))
    assert "3 cases: 2 done, 1 failed; 2 with flags." in page.texts
    assert page.texts.count("touches the border") == page.texts.count("volume 3 ml") == 1  # a line for each flag
    assert {"a%201/mask.nii.gz", "b/mask.nii.gz", "#case-c"} <= set(page.links)
    assert not any(link.endswith(PART) or link.startswith("/") for link in page.links)


def test_a_part_that_is_missing_or_broken_costs_only_its_picture(tmp_path: Path):
    write_case(tmp_path, "a")
    write_case(tmp_path, "b")
    (tmp_path / "b" / PART).write_text("{")
    text = write_results_page([{"case_id": c, **ROW} for c in "abc"], tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<button data-open="(.)"', text) == ["a"]
    assert all(f"<h2>{case}</h2>" in text for case in "abc")


def test_view_keeps_the_masks_voxels_and_the_images_place():
    view = part_of(image(), AFFINE, ("t1", "pet"), MASK, GRID)
    mask = decoded(view["mask"])
    points = apply_affine(mask.affine, np.argwhere(mask.get_fdata())).round(3) + 0.0
    np.testing.assert_allclose(points[np.lexsort(points.T)], LABEL.foreground(), atol=2e-3)
    t1 = decoded(view["volumes"]["t1"])
    grey = np.asarray(t1.dataobj)
    assert (grey.dtype, grey.min(), grey.max()) == (np.uint8, 1, LEVELS)
    np.testing.assert_allclose(t1.affine, AFFINE, atol=1e-4)  # all is within 50 mm, and it fits the budget
    assert decoded(view["volumes"]["pet"]).shape == SHAPE


def test_view_of_a_large_image_is_cropped_and_made_coarser_in_place():
    shape, affine = (150, 150, 150), affine_of((1.0, 1.0, 1.0), (-110.0, -20.0, -790.0))
    bright = np.ones((1, *shape), np.float32)
    center = Grid(shape, affine).indices(LABEL.foreground().mean(axis=0))
    spot = tuple(slice(int(c) - 15, int(c) + 16) for c in center)
    bright[(0, *spot)] = 5.0
    noisy = bright + 0.3 * image(1, shape)
    view = part_of(noisy, affine, ("t1",), MASK, GRID)
    t1 = decoded(view["volumes"]["t1"])
    assert len(view["picture"]) + len(view["volumes"]["t1"]) <= SIZE
    assert min(t1.header.get_zooms()) > 1.05
    assert max(np.multiply(t1.shape, t1.header.get_zooms())) < 2 * 50 + 45  # the mask is less than 45 mm wide
    hot = np.argwhere(np.asarray(t1.dataobj) > 0.6 * LEVELS)
    expected = apply_affine(affine, [(s.start + s.stop - 1) / 2 for s in spot])
    np.testing.assert_allclose(apply_affine(t1.affine, hot).mean(axis=0), expected, atol=0.6)


def test_an_absent_modality_and_no_data_are_not_shown_as_grey():
    volumes = image(3)
    volumes[1] = 0
    volumes[0, :5] = 0
    view = part_of(volumes, AFFINE, ("t1", "ct", "pet"), MASK, GRID)
    assert list(view["volumes"]) == ["t1", "pet"]
    assert not np.asarray(decoded(view["volumes"]["t1"]).dataobj)[:5].any()


def test_picture_shows_the_outline_where_the_mask_is():
    images = tumour_images()
    t1 = images["t1"]
    grid = Grid(t1.data.shape, t1.affine)
    mask = images["label"].data.astype(np.uint8)
    data = base64.b64decode(part_of(t1.data[None].astype(np.float32), t1.affine, ("t1",), mask, grid)["picture"])
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    orange = (picture[..., 0] - picture[..., 2] > 100) & (picture[..., 0] > picture[..., 1] + 30)
    bright = picture.min(axis=-1) > 200  # the target, and the paper around the planes
    rows, columns = np.nonzero(orange[: -picture.shape[0] // 8])  # above the legend
    inside = bright[rows.min() : rows.max(), columns.min() : columns.max()]
    assert orange.sum() > 500
    assert 0.2 < inside.mean() < 1


def decoded(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_the_library_is_the_one_that_its_licence_names():
    """NiiVue 0.69.0 as published on npm: ``npm pack @niivue/niivue@0.69.0``, dist/niivue.umd.js."""
    folder = files("differseg_med.reports") / "viewer"
    content = gzip.decompress((folder / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert "NiiVue 0.69.0" in (folder / "LICENSE.txt").read_text()
