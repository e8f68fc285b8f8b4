"""Tables, many cases and small screens: pages in a real browser, and what they say of few patients."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from PIL import Image
from support.browser import Page

from differseg_med.geometry import Grid
from differseg_med.metrics.statistics import summarize
from differseg_med.reports import figures
from differseg_med.reports.pages import MIN_GROUP, Notice, Section, Table, interval, summary_cells, write_page
from differseg_med.reports.provenance import provenance
from differseg_med.reports.run import BESIDE, PART, PICTURE, VIEW, write_part, write_results_page
from differseg_med.reports.views import part_of

pytestmark = pytest.mark.usefixtures("all_pixels")

EVIL = "<img src=x onerror=\"document.title='x'\">"
ROWS = [("b<b>", 2.5, "ok", ""), ("a", 10.25, "bad", EVIL), ("c", 0.125, "ok", "word"), ("d", None, "ok", "")]
ROWS += [(f"e{i}", 30.0 + i, "ok", "") for i in range(6)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = Table("Made up", ("case", "value", "state", "note"), ROWS, (3,), links={"a": "#here"}, choices=2)
    sections = [Section("Numbers & words", [table, "A sentence.", Notice(EVIL, "failed")])]
    path = tmp_path_factory.mktemp("pages") / "page.html"
    return write_page(path, f"Title {EVIL}", sections, tiles={"cases": 10}, provenance={"Command": "predict"})


def column(browser: Page, number: int, shown: bool = True) -> list[str]:
    rows = "[...document.querySelectorAll('tbody tr')]" + (".filter(r => !r.hidden)" if shown else "")
    return list(browser.run(f"{rows}.map(r => r.cells[{number}].textContent)"))


def test_tables_are_sorted_searched_and_filtered(browser: Page, page: Path):
    browser.errors.clear()
    browser.open(page)
    assert column(browser, 0)[:4] == ["b<b>", "a", "c", "d"]
    click = "document.querySelectorAll('th button')[1].click()"
    browser.run(click)
    assert column(browser, 1)[:4] == ["0.125", "2.500", "10.25", "30.00"]  # by number, not by letter
    assert column(browser, 0)[-1] == "d"  # blank
    browser.run(click)
    assert (column(browser, 0)[0], column(browser, 0)[-1]) == ("e5", "d")
    assert browser.run("document.querySelectorAll('th')[1].getAttribute('aria-sort')") == "descending"
    find = "(s => {{ s.value = '{}'; s.oninput(); }})(document.querySelector('.search'))"
    browser.run(find.format("OK word"))
    assert column(browser, 0) == ["c"]
    assert browser.run("document.querySelector('.count').textContent") == "1 of 10 rows"
    browser.run(find.format(""))
    browser.run("(s => { s.value = 'bad'; s.onchange(); })(document.querySelector('.choose'))")
    assert column(browser, 0) == ["a"]
    assert browser.run("document.title") == f"Title {EVIL}"
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors == []


def test_a_page_fits_a_phone_and_follows_the_system(browser: Page, page: Path):
    colors = []
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.send("Emulation.setEmulatedMedia", features=media)
        browser.open(page, (390, 800))
        assert browser.run("document.documentElement.scrollWidth") <= 390
        colors.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    browser.send("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
    browser.send("Emulation.setEmulatedMedia", media="", features=[])
    assert colors == ["rgb(255, 255, 255)", "rgb(20, 23, 30)"]


def volumes(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[6:14, 6:14, 6:14] = 1
    image = rng.normal(size=(1, 20, 20, 20)).astype(np.float32)
    return part_of(image, np.diag([4.0, 4, 4, 1]), ("t1",), mask, Grid(mask.shape, np.diag([4.0, 4, 4, 1]))) | changes


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case more than a page holds; the last but one failed, the last has a flag, one has a broken part."""
    folder, part = tmp_path_factory.mktemp("many"), volumes()
    row = {"status": "done", "modalities": "t1", "volume_ml": "3.1"}
    rows = [{"case_id": f"case {n:02d}", **row} for n in range(BESIDE + 1)]
    rows[-2] |= {"status": "failed", "reason": "no image"}
    rows[-1] |= {"flags": "the mask is empty"}
    for one in rows:
        write_part(folder / one["case_id"], part if one["case_id"] != "case 07" else {"picture": "no base64"})
    write_results_page(rows, folder)
    return folder


def test_many_cases_lie_beside_the_page_and_open(browser: Page, many: Path):
    browser.errors.clear()
    browser.requested.clear()
    browser.open(many / "report.html")
    order = browser.run("[...document.querySelectorAll('section.card h2')].map(h => h.textContent)")
    assert order[:3] == ["case 49", "case 50", "case 00"]
    text = (many / "report.html").read_text(encoding="utf-8")
    assert "data:image" not in text
    assert 'script type="application/json"' not in text
    assert not (many / "case 07" / PICTURE).exists()
    assert len(list(many.glob(f"*/{PICTURE}"))) == len(list(many.glob(f"*/{VIEW}"))) == BESIDE
    browser.run("document.querySelector('button[data-open=\"case 12\"]').click()")
    browser.wait("document.getElementById('viewer').dataset.shown === 'case 12'")
    browser.run("document.getElementById('next').click()")
    browser.wait("document.getElementById('viewer').dataset.shown === 'case 13'")
    assert browser.errors == []
    assert [url for url in browser.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    size = sum(p.stat().st_size for name in (PICTURE, VIEW) for p in many.glob(f"*/{name}"))
    assert f"{size / 1e6:.1f} MB, lie beside this page" in text


def test_files_beside_the_page_are_made_once_and_again_for_another_mask(many: Path):
    case = many / "case 03"
    rows = [{"case_id": p.parent.name, "status": "done"} for p in sorted(many.glob(f"*/{PART}"))]
    before = (case / VIEW).stat().st_mtime_ns
    write_results_page(rows, many)
    assert (case / VIEW).stat().st_mtime_ns == before
    write_part(case, volumes(caption="another"))
    assert not (case / PICTURE).exists()
    write_results_page(rows, many)
    assert '"caption": "another"' in (case / VIEW).read_text()
    assert Image.open(io.BytesIO((case / PICTURE).read_bytes())).format == "WEBP"
    view = (case / VIEW).read_text()
    name, content = re.fullmatch(r"differsegView\((\"[^\"]*\"), (\{.*\})\);\n", view, re.S).groups()
    assert json.loads(name) == "case 03"
    assert "picture" not in json.loads(content)
    assert base64.b64decode(json.loads(content)["mask"])[:2] == b"\x1f\x8b"


def test_few_subjects_have_no_interval_and_no_box(monkeypatch):
    few, enough = [0.5, 0.75, 0.8, 0.9], [0.5, 0.75, 0.8, 0.9, 0.95]
    for values in (few, enough):
        cells = summary_cells(summarize(values, [str(i) for i in range(len(values))]))
        assert ("no interval: 4 subjects" in cells[2]) == (len(values) < MIN_GROUP)
        assert bool(cells[4]) == (len(values) >= MIN_GROUP)
    assert interval(0.5, None, None, 1) == "0.500 (no interval: 1 subject)"
    boxes = []
    monkeypatch.setattr("matplotlib.axes.Axes.boxplot", lambda self, y, **_: boxes.append(len(y)))
    lines = []
    monkeypatch.setattr("matplotlib.axes.Axes.annotate", lambda self, text, *_, **__: lines.append(text))
    for values in (few, enough):
        figures.distributions({"dice": values}, [False] * len(values))
        figures.bland_altman(values, np.add(values, 1))
    assert boxes == [5]
    assert len(lines) == 3


def test_panels_of_one_unit_have_one_axis(monkeypatch):
    """What stands at their left, panel by panel; and a dot is as high as its value."""
    drawn: list[Drawing] = []
    real = figures.png
    monkeypatch.setattr(figures, "png", lambda figure: drawn.append(figure) or real(figure))
    values = {"dice": [0.25, 0.9], "iou": [0.1, 0.75], "hd95_mm": [3.0, 40.0], "assd_mm": [1.0, 20.0]}
    figures.distributions(values, [False, True])
    (ax,) = drawn[0].axes
    titles = [text for text in ax.texts if text.get_horizontalalignment() == "center"]
    panels = []
    for title in titles:
        left = title.get_position()[0]
        near = [text for text in ax.texts if text is not title and 0 < left - text.get_position()[0] < 1.3]
        panels.append({float(text.get_text()): text.get_position()[1] for text in near})
    assert panels[0] == panels[1] == pytest.approx({n / 4: panels[0][n / 4] for n in range(5)})
    assert panels[2] == panels[3]
    assert max(panels[2]) == 40
    good, empty = (collection.get_offsets() for collection in ax.collections[-2:])
    assert [len(good), len(empty)] == [4, 4]
    assert (good[0][1], empty[1][1]) == pytest.approx((panels[0][0.25], panels[1][0.75]))
    assert (empty[2][1], empty[3][1]) == pytest.approx((panels[2][40], panels[3][20]))


def test_provenance_names_the_bundle_and_no_path(tmp_path: Path, monkeypatch):
    weights = tmp_path / "bundle" / "models" / "model.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (tmp_path / "bundle" / "configs").mkdir()
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text('{"name": "Sarcoma", "version": "0.1.0"}')
    secret = tmp_path / "Doe_Jane"
    secret.mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["--bundle", str(tmp_path), "--out", "Doe_Jane", "--image", "t1=Doe_Jane.nii.gz", "--set", "threshold=0.5"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/differseg-med", "predict", *words])
    found = provenance(weights)
    assert found["Bundle"] == "Sarcoma, version 0.1.0"
    assert found["Weights"] == f"model.pt, SHA-256 {hashlib.sha256(b'weights').hexdigest()[:16]}"
    assert found["Command"] == "differseg-med predict --bundle PATH --out PATH --image t1=PATH --set threshold=0.5"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \S+", found["Date"])
    assert "torch" in found["Versions"]
    assert not {"Bundle", "Weights"} & provenance(tmp_path / "nothing.pt").keys()
