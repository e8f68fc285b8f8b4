"""``differseg-med view``: what its server gives and refuses, and the page as a person uses it."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from support.browser import Page
from support.hostile import GOOD, HOSTILE, TEXTS
from support.synthetic import Volume, affine_of, label_volume, stored_as, write_nifti
from typer.testing import CliRunner

from differseg_med.case import Case
from differseg_med.cli import app
from differseg_med.errors import CaseError
from differseg_med.export.seg_nrrd import save_nrrd_volume
from differseg_med.geometry import Grid
from differseg_med.reports.run import PART, write_part
from differseg_med.reports.views import part_of
from differseg_med.review.server import ReviewServer
from differseg_med.review.slices import case_slices
from differseg_med.review.verdicts import ChangedError, Reviews
from differseg_med.tables import write_table

pytestmark = pytest.mark.usefixtures("all_pixels")

MASK = stored_as(label_volume((20.0, -10.0, 5.0)), "PSR")  # oblique, axes mixed up
GRID = Grid(MASK.data.shape, MASK.affine)
AFFINE = affine_of((2.0, 2.0, 2.0), (-50.0, 30.0, -740.0))
EVIL = "<img src=x onerror=\"document.title='x'\">"
COLUMNS = ("case_id", "status", "reason", "modalities", "volume_ml", "flags")


@lru_cache(maxsize=1)
def part() -> dict[str, object]:
    image = np.random.default_rng(0).normal(size=(2, 40, 40, 40)).astype(np.float32)
    return part_of(image, AFFINE, ("t1", "pet"), MASK.data.astype(np.uint8), GRID)


def write_case(folder: Path, name: str) -> None:
    """A case with images, mask and probability; the mask is where that is above a half."""
    write_part(folder / name, part())
    write_nifti(folder / name / "mask.nii.gz", MASK, np.uint8)
    save_nrrd_volume(MASK.data.astype(np.float32), MASK.affine, folder / name / "probability.nrrd")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two cases, one whose mask is gone, and rows with names that no folder may have."""
    out = tmp_path / "out"
    for name in ("a 1", "b"):
        write_case(out, name)
    (out / "b" / "mask.nii.gz").unlink()
    rows = [{"case_id": name, "status": "done", "modalities": "t1+pet", "flags": EVIL} for name in ("a 1", "b", *GOOD)]
    rows += [{"case_id": name, "status": "failed", "reason": "no"} for name in HOSTILE if "\0" not in name]
    write_table(out / "summary.csv", COLUMNS, rows)
    return out


@pytest.fixture
def label(tmp_path: Path) -> Case:
    """The label of a case: the mask, two voxels to the side, in a folder of its own."""
    moved = Volume(np.roll(MASK.data, 2, axis=1), MASK.affine)
    return Case("a 1", "p", {}, write_nifti(tmp_path / "labels" / "label.nii.gz", moved, np.uint8))


@pytest.fixture
def server(results: Path, label: Case) -> Iterator[ReviewServer]:
    with ReviewServer(results, {"a 1": label}) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: ReviewServer, path: str, body: object = None, token: str | None = None, **headers: str
) -> tuple[int, str]:
    """Status and text of an answer; ``path`` is behind the token."""
    link = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    content = None if body is None else json.dumps(body)
    sent = {"Content-Type": "application/json"} if body is not None else {}
    link.request("GET" if body is None else "POST", f"/{token or server.token}/{path}", content, sent | headers)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, text


def points(found: dict, key: str) -> np.ndarray:
    """World positions of a volume's foreground as the page would place them."""
    raw = np.frombuffer(gzip.decompress(base64.b64decode(found[key])), np.uint8)
    where = apply_affine(np.array(found["affine"]), np.argwhere(raw.reshape(found["shape"], order="F"))).round(3) + 0.0
    return where[np.lexsort(where.T)]


def test_mask_label_and_probability_are_where_their_files_have_them(results: Path, label: Case):
    found = case_slices(results, "a 1", label)
    np.testing.assert_allclose(points(found, "mask"), MASK.foreground(), atol=2e-3)
    np.testing.assert_allclose(points(found, "probability"), MASK.foreground(), atol=2e-3)
    moved = Volume(np.roll(MASK.data, 2, axis=1), MASK.affine)
    np.testing.assert_allclose(points(found, "label"), moved.foreground(), atol=2e-3)
    assert list(found["volumes"]) == ["t1", "pet"]
    assert np.linalg.norm(np.cross(*np.array(found["affine"])[:3, :2].T) @ (0, 0, 1)) > 0  # right-handed, as RAS
    assert (np.diag(np.array(found["affine"])[:3, :3]) > 0).all()
    assert found["notes"] == []


def test_only_the_page_of_this_start_is_answered_and_no_path_is_read(server: ReviewServer, results: Path):
    port = server.server_port
    assert ask(server, "")[0] == 200
    for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.evil.example:{port}", ""):
        assert ask(server, "", Host=host)[0] == 403
    assert ask(server, "", Origin="http://evil.example")[0] == 403
    assert ask(server, "", Origin=f"http://127.0.0.1:{port}")[0] == 200
    for token in ("x", server.token[:-1], server.token + "a", "%00"):
        assert ask(server, "", token=token)[0] == 404
    secret = results.parent / "secret.txt"
    secret.write_text("secret")
    for path in ("summary.csv", "../secret.txt", "..%2fsecret.txt", "case/../../secret.txt", "review"):
        status, text = ask(server, path)
        assert (status, "secret" in text) == (404, False), path
    for name in ("../out/a%201", "/etc", "a%201%2f..%2f..%2fsecret.txt", "a%201%00", "nobody", ""):
        status, text = ask(server, f"case?id={name}")
        assert (status, list(json.loads(text))) == (422, ["error"]), name
    for body in ([], "x", {"case": 1}, {"case": "../x", "verdict": "accepted"}, {"case": "b", "verdict": "perhaps"}):
        assert ask(server, "review", body)[0] in (400, 422)
    assert ask(server, "review", {"case": "b", "note": "x" * 100_000})[0] == 400
    assert ask(server, "review", {"case": "b"}, **{"Content-Type": "text/plain"})[0] == 400  # a form elsewhere sends it
    assert not (results / "review.csv").exists()


def test_what_cannot_be_shown_is_said_and_the_other_cases_are(server: ReviewServer, results: Path, tmp_path: Path):
    assert "no mask of this case here" in server.shown("b")["problem"]
    (results / "a 1" / PART).write_text("{")
    assert "the mask alone" in server.shown("a 1")["notes"][0]
    (tmp_path / "elsewhere").mkdir()
    write_nifti(tmp_path / "elsewhere" / "mask.nii.gz", MASK, np.uint8)
    (results / "@x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaseError, match="leads out of the folder"):
        server.shown("@x")
    for name in HOSTILE:
        with pytest.raises(CaseError):
            server.shown(name)


def test_verdicts_are_kept_resumed_and_not_lost_to_another_tab(server: ReviewServer, results: Path):
    for number, text in enumerate(TEXTS):
        first = json.loads(ask(server, "review", {"case": GOOD[number % len(GOOD)], "note": text})[1])
        assert first.get("verdict", "") == ""
    kept = server.decide({"case": "a 1", "verdict": "accepted", "note": "=1+1\nsecond line"})
    rows = list(csv.DictReader((results / "review.csv").open(newline="", encoding="utf-8")))
    row = next(row for row in rows if row["case_id"] == "a 1")
    assert (row["verdict"], row["note"]) == ("accepted", "'=1+1\nsecond line")
    assert not [r["note"] for r in rows if r["note"][:1] in ("=", "+", "@", "\t") and len(r["note"]) > 2]
    status, text = ask(server, "review", {"case": "a 1", "verdict": "rejected", "note": "late", "seen": ""})
    assert (status, json.loads(text)["review"]["note"]) == (409, "=1+1\nsecond line")
    assert server.decide(kept | {"case": "a 1", "verdict": "rejected", "seen": kept["time"]})["verdict"] == "rejected"
    again = ReviewServer(results)  # another start resumes
    assert again.shown("a 1")["review"]["verdict"] == "rejected"
    assert not again.shown("a 1")["outdated"]
    write_nifti(results / "a 1" / "mask.nii.gz", Volume(np.roll(MASK.data, 1, axis=0), MASK.affine), np.uint8)
    assert again.shown("a 1")["outdated"]
    again.server_close()


def test_a_table_that_people_changed_is_kept_and_a_broken_one_is_never_replaced(tmp_path: Path):
    (tmp_path / "review.csv").write_bytes("\ufeffcase_id,verdict,reader\r\nx,accepted,anna\r\n".encode())
    reviews = Reviews(tmp_path)
    reviews.save("y", "rejected", "n", "", "")
    with pytest.raises(ChangedError):
        reviews.save("y", "accepted", "", "", "")
    rows = list(csv.DictReader((tmp_path / "review.csv").open(newline="", encoding="utf-8")))
    assert [(row["case_id"], row["verdict"], row["reader"]) for row in rows] == [
        ("x", "accepted", "anna"),
        ("y", "rejected", ""),
    ]
    for broken in (b"case_id;verdict\r\nx;accepted\r\n", b"\xff\xfe\x00", b""):
        (tmp_path / "review.csv").write_bytes(broken)
        with pytest.raises(CaseError, match="no table of verdicts"):
            reviews.save("x", "rejected", "", "", "")
        assert (tmp_path / "review.csv").read_bytes() == broken


def test_a_folder_without_results_is_refused(tmp_path: Path):
    done = CliRunner().invoke(app, ["view", str(tmp_path), "--no-browser"])
    assert done.exit_code == 1
    with pytest.raises(CaseError, match=r"these are no results .*summary\.csv"):
        ReviewServer(tmp_path)


SEEN = """(([r, g, b]) => [...document.querySelectorAll('#stage canvas')].map((canvas) => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) {
    n += Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 60;
  }
  return n;
}))(%s)"""
ORANGE, BLUE = "[255, 159, 28]", "[46, 196, 255]"


def test_a_person_looks_decides_and_goes_on(browser: Page, server: ReviewServer, results: Path):
    def shown(name: str) -> str:
        return f"document.body.dataset.shown === {json.dumps(name)}"

    browser.errors.clear()
    browser.requested.clear()
    browser.open(server.address)
    browser.wait(shown("a 1"))
    assert min(browser.run(SEEN % ORANGE)) > 30
    assert sum(browser.run(SEEN % BLUE)) > 60
    change = "(e => { e.%s; e.onchange(); })(document.getElementById('%s'))"
    browser.run(change % ("checked = false", "with-label"))
    assert max(browser.run(SEEN % BLUE)) == 0
    browser.run(change % ("value = 'none'", "style"))
    assert max(browser.run(SEEN % ORANGE)) == 0
    browser.run(change % ("checked = true", "with-probability"))
    assert sum(browser.run(SEEN % "[199, 181, 71]")) > 100  # yellow over dark grey
    before = browser.run("document.getElementById('place').textContent")
    browser.run("document.getElementById('stage').focus()")
    for key in ("ArrowUp", "m", "a"):
        browser.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    browser.wait("document.getElementById('saved').textContent === 'Saved: accepted.'")
    assert browser.run("document.getElementById('modality').value") == "pet"
    assert browser.run("document.getElementById('place').textContent") != before
    assert Reviews(results).read()["a 1"].verdict == "accepted"
    Reviews(results).save("a 1", "rejected", "another tab", "", Reviews(results).read()["a 1"].time)
    browser.run("document.getElementById('note').value = 'mine'; document.getElementById('review').requestSubmit()")
    browser.wait("document.getElementById('saved').textContent.includes('another tab')")
    browser.run("document.getElementById('save-next').click()")
    browser.wait(shown("b"))
    assert Reviews(results).read()["a 1"].note == "mine"
    assert "no mask" in browser.run("document.getElementById('problem').textContent")
    hostile = next(name for name in HOSTILE if "<script>" in name)
    browser.run(f"location.hash = encodeURIComponent({json.dumps(hostile)})")
    browser.wait(shown(hostile))
    assert browser.run("document.title") == "Review of the masks"
    told = ("status of 409", "status of 422", "willReadFrequently")  # refused above; of this test's own look
    assert [error for error in browser.errors if not any(word in error for word in told)] == []
    own = server.address.removesuffix("/")
    assert [url for url in browser.requested if not url.startswith((own, "data:", "blob:"))] == []
