"""A folder of predictions against a cohort: right, on another grid, missing, and wrong in every way."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from support.masks import blob

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.evaluation import evaluate
from differseg_med.evaluation.evaluate import evaluate_case, evaluate_cohort
from differseg_med.export.nifti import save_nifti
from differseg_med.reports import figures

AFFINE = np.array([[-1.0, 0, 0, 40], [0, -1.0, 0, 30], [0, 0, 3.0, -100], [0, 0, 0, 1]])
TUMOUR = blob((24, 20, 12), (12, 10, 6), (6, 5, 3))


class Folder:
    """A cohort on disk that grows case by case."""

    def __init__(self, root):
        self.root, self.cases = root, []
        (self.root / "predictions").mkdir(parents=True)

    def add(self, case_id, prediction=TUMOUR, label=TUMOUR, affine=AFFINE, **fields):
        image = self.root / "images" / f"{case_id}.nii.gz"
        image.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=TUMOUR.shape).astype(np.float32), AFFINE), image)
        path = self.root / "labels" / f"{case_id}.nii.gz"
        if label is not None:
            save_nifti(label, AFFINE, path)
        if prediction is not None:
            file = self.root / "predictions" / case_id / "mask.nii.gz"
            file.parent.mkdir()
            nib.save(nib.Nifti1Image(prediction, affine), file)
        subject = fields.pop("subject_id", case_id)
        self.cases.append(Case(case_id, subject, {"t1": image}, path if label is not None else None, **fields))

    def evaluate(self, worst=0, **options):
        return evaluate_cohort(self.cases, self.root / "predictions", self.root / "out", worst=worst, **options)

    def last(self):
        """The last case alone: its scores and its notice."""
        case = self.cases[-1]
        return evaluate_case(case, self.root / "predictions" / case.case_id / "mask.nii.gz")


@pytest.fixture
def drawn(tmp_path):
    """A cohort of one good case, evaluated with all figures."""
    made = Folder(tmp_path)
    made.add("good", extra={"site": "north", "name": "Jane Doe"})
    return made


@pytest.fixture
def folder(drawn, monkeypatch):
    """The same without the figures of the page, which take most of the time."""
    for name in ("distributions", "bland_altman"):
        monkeypatch.setattr(figures, name, lambda *_: b"")
    return drawn


def test_files_and_content(folder):
    folder.add("shifted", np.roll(TUMOUR, 2, 0), extra={"site": "south"})
    found = folder.evaluate(worst=5)
    out = folder.root / "out"
    names = ["evaluation.html", "metrics.csv", "metrics.json", "overlays", "run.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert sorted(p.name for p in (out / "overlays").iterdir()) == ["good.png", "shifted.png"]
    table = pd.read_csv(out / "metrics.csv").set_index("case_id")
    assert table.loc["good", "dice"] == 1
    assert table.loc["shifted", "hd_mm"] == pytest.approx(2)
    assert table.loc["shifted", "site"] == "south"
    assert json.loads((out / "metrics.json").read_text())["counts"]["evaluated"] == 2
    assert not found.failures
    assert found.summary["notices"] == []


def test_the_page_stands_alone_and_names_nobody(drawn):
    drawn.add("missed<b>", np.zeros_like(TUMOUR), extra={"site": "south"})
    drawn.evaluate(worst=5)
    page = (drawn.root / "out" / "evaluation.html").read_text()
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|@import|url\(|<script[^>]|<link""", page)
    assert outside == []
    assert page.count('src="data:image/png;base64,') == 4  # distributions, volumes, two overlays
    assert "missed<b>" not in page
    assert page.index("missed&lt;b&gt;</td>") < page.index(">good</td>")  # worst first
    assert "Every case counts in every mean" in page
    for words in ("By site", "By modalities", "Only the prediction empty", "Bland-Altman", "95 % interval"):
        assert words in page
    assert "Jane" not in page + (drawn.root / "out" / "metrics.csv").read_text()
    assert str(drawn.root) not in page


def test_each_file_is_read_once_and_the_worst_are_drawn_from_what_is_in_memory(folder, monkeypatch):
    """Scores and pictures of one reading, whichever order the cases come in."""
    read = Counter()
    for name in ("load_case_label", "load_volume"):
        real = getattr(evaluate, name)

        def counted(what, real=real, **options):
            read.update([what_was_read(what)])
            return real(what, **options)

        monkeypatch.setattr(evaluate, name, counted)
    for i, shift in enumerate((5, 1, 3)):
        folder.add(f"s{i}", np.roll(TUMOUR, shift, 0))
    folder.evaluate(worst=2)
    assert sorted(p.stem for p in (folder.root / "out" / "overlays").iterdir()) == ["s0", "s2"]
    assert {name: n for name, n in read.items() if n != 1} == {}
    assert {f"{c}/mask.nii.gz" for c in ("good", "s0", "s1", "s2")} | {"good", "s0", "s1", "s2"} <= set(read)


def what_was_read(what):
    return what.case_id if isinstance(what, Case) else "/".join(Path(what).parts[-2:])


def test_groups_by_any_column_asked_for(folder):
    folder.add("other", extra={"vendor": "A"})
    folder.evaluate(group_by=("vendor",))
    page = (folder.root / "out" / "evaluation.html").read_text()
    assert "By vendor" in page
    assert "By site" not in page


def test_only_the_worst_get_a_picture(folder):
    for i, shift in enumerate((1, 3, 5)):
        folder.add(f"s{i}", np.roll(TUMOUR, shift, 0))
    folder.evaluate(worst=2)
    assert sorted(p.stem for p in (folder.root / "out" / "overlays").iterdir()) == ["s1", "s2"]


def test_the_same_mask_stored_in_another_orientation(folder):
    turned = nib.as_closest_canonical(nib.Nifti1Image(TUMOUR, AFFINE))
    folder.add("turned", np.asarray(turned.dataobj), affine=turned.affine)
    scores, notice = folder.last()
    assert scores["dice"] == 1
    assert scores["hd_mm"] == 0
    assert "resampled from its own grid" in notice


def test_another_grid_of_the_same_space_is_resampled_with_a_notice(folder):
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = AFFINE[:3, 3] - AFFINE[:3, :3] @ [0.25, 0.25, 0.25]  # the same field of view
    folder.add("fine", TUMOUR.repeat(2, 0).repeat(2, 1).repeat(2, 2), affine=affine)
    found = folder.evaluate()
    row = found.rows[1]
    assert row["dice"] == 1
    assert row["notice"] in found.summary["notices"][0]
    assert "48 x 40 x 24 voxels" in row["notice"]
    assert not found.failures


def test_a_prediction_that_reaches_outside_says_so(folder):
    wide = np.pad(TUMOUR, ((10, 0), (0, 0), (0, 0)))
    wide[:8] = 1
    affine = AFFINE.copy()
    affine[0, 3] += 10
    folder.add("wide", wide, affine=affine)
    _, notice = folder.last()
    assert re.search(r"\d+% of the predicted volume is not on the label's grid", notice)


def test_a_missing_prediction_counts_as_empty(folder):
    folder.add("absent", None)
    row = folder.evaluate().rows[1]
    assert (row["dice"], row["empty"], row["status"]) == (0, "prediction", "done")
    assert row["hd95_mm"] == pytest.approx(np.linalg.norm([24, 20, 36]))
    assert "no prediction" in row["notice"]
    summary = json.loads((folder.root / "out" / "metrics.json").read_text())
    assert summary["empty_cases"]["prediction"] == ["absent"]
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.5)


def far():
    affine = AFFINE.copy()
    affine[2, 3] += 5000
    return affine


def sheared():
    affine = AFFINE.copy()
    affine[0, 2] = 2.0
    return affine


BAD = {
    "far": ({"affine": far()}, "does not overlap"),
    "sheared": ({"affine": sheared()}, "degrees apart instead of 90"),
    "classes": (
        {"prediction": TUMOUR + TUMOUR * (np.arange(TUMOUR.shape[0])[:, None, None] > 10)},
        r"predicted mask is not binary \(expected 0 and 1, found 0, 1, 2\).*all of them: --predictions FOLDER::1,2",
    ),
    "soft": ({"prediction": TUMOUR * np.float32(0.3)}, "predicted mask is not binary"),
    "four": ({"prediction": np.stack([TUMOUR] * 2, -1)}, "not one 3-D volume"),
    "unlabelled": ({"label": None}, "no label"),
    "twice": ({"problem": CaseError("the case id stands in 2 rows")}, "stands in 2 rows"),
    "cut": ({}, "cut/mask.nii.gz"),
}


def test_cases_that_cannot_be_measured_are_listed_and_stop_nobody(folder):
    for name, (changes, _) in BAD.items():
        folder.add(name, **changes)
    file = folder.root / "predictions" / "cut" / "mask.nii.gz"
    file.write_bytes(file.read_bytes()[:-40])  # cut short: not an empty mask
    folder.add("last")
    found = folder.evaluate()
    assert list(found.failures) == list(BAD)
    page = (folder.root / "out" / "evaluation.html").read_text()
    for name, (_, words) in BAD.items():
        assert re.search(words, found.failures[name])
        assert f"case {name}" in found.failures[name]
        assert str(folder.root) not in found.failures[name]
        assert f"Failed, in no figure below: case {name}" in page
    assert [row["status"] for row in found.rows] == ["done", *["failed"] * len(BAD), "done"]
    assert found.summary["metrics"]["dice"]["n"] == 2


def test_predictions_of_other_values(folder):
    """255 for 1, noise of a scale factor, one class of several: the same scores as for 0 and 1."""
    shifted = np.roll(TUMOUR, 2, 0)
    folder.add("plain", shifted)
    folder.add("bytes", shifted * np.uint8(255))
    folder.add("noise", shifted * np.float32(1.0000153))
    folder.add("class", shifted * np.uint8(2))
    plain, full, noise, other = (row for row in folder.evaluate().rows if row["case_id"] != "good")
    assert [row["dice"] for row in (full, noise, other)] == [plain["dice"]] * 3
    assert [bool(row["notice"]) for row in (plain, full, noise, other)] == [False, False, True, True]
    assert other["notice"] == "prediction: its only value, 2, is taken as foreground"
    rows = evaluate_cohort(folder.cases, f"{folder.root / 'predictions'}::2", folder.root / "out", worst=0).rows
    assert [row["dice"] > 0.5 for row in rows] == [False, False, False, False, True]


def test_extra_predictions_are_listed(folder):
    folder.add("stray")
    folder.cases.pop()
    found = folder.evaluate()
    assert len(found.rows) == 1
    assert found.summary["notices"] == ["predictions that no case of the cohort asks for, not measured: stray"]


def test_a_mask_may_be_one_file_per_case_as_of_nnunet(folder):
    folder.add("a")
    (folder.root / "predictions" / "a" / "mask.nii.gz").rename(folder.root / "predictions" / "a.nii.gz")
    assert [row["dice"] for row in folder.evaluate().rows if row["case_id"] == "a"] == [1.0]


def test_a_folder_without_any_of_the_predictions_is_refused(folder):
    with pytest.raises(CaseError, match="there is no folder"):
        evaluate_cohort(folder.cases, folder.root / "nowhere", folder.root / "out")
    with pytest.raises(CaseError, match="holds no prediction of any of these cases") as error:
        evaluate_cohort(folder.cases, folder.root, folder.root / "out")
    assert "good/mask.nii.gz" in str(error.value)
    assert not (folder.root / "out").exists()


def test_an_image_that_cannot_be_read_costs_its_picture_only(folder):
    folder.cases[0].images["t1"].write_bytes(b"no image")
    found = folder.evaluate(worst=5)
    assert found.rows[0]["dice"] == 1
    assert not (folder.root / "out" / "overlays").exists()
