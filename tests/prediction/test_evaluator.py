"""Cohorts through the evaluator: summaries, failures that stop nobody, privacy."""

from __future__ import annotations

import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from support.running import StopsAt, cohort, evaluator_of, masks, summary
from support.synthetic import (
    MODALITIES,
    ThresholdCenter,
    Volume,
    read_nifti,
    read_rows,
    tumour_images,
    write_nifti,
)

from differseg_med.api.runs import evaluate
from differseg_med.bundles.factories import postprocessing, preprocessing, training_dataset, validation_evaluator
from differseg_med.errors import CaseError
from differseg_med.inferers import SliceWindowInferer
from differseg_med.prediction import result as results
from differseg_med.prediction.summary import COLUMNS, read_finished


def test_what_is_written(tmp_path):
    table = cohort(tmp_path, "a", "b", b={"ct": "", "subject_id": "p2"})
    evaluator = evaluator_of(table)
    evaluator.run()
    evaluator.finish()
    rows = summary(table)
    assert list(rows) == ["a", "b"]
    assert list(rows["a"]) == list(COLUMNS)
    assert [rows[c]["modalities"] for c in "ab"] == ["t1+ct+pet", "t1+pet"]
    for row in rows.values():
        assert (row["status"], row["reason"], row["reference"], row["notes"]) == ("done", "", "t1", "")
        assert float(row["volume_ml"]) == pytest.approx(tumour_images()["label"].data.sum() * 7.905 / 1000, abs=1e-3)
        assert float(row["seconds"]) > 0
    scores = read_rows(tmp_path / "out" / "metrics.csv")
    assert [(float(s["dice"]), float(s["hd95_mm"]), s["subject_id"]) for s in scores.values()] == [
        (1.0, 0.0, "a"),
        (1.0, 0.0, "p2"),
    ]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["counts"]["evaluated"], report["counts"]["failed"]) == (2, 0)
    assert report["metrics"]["dice"]["mean"] == 1.0
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(
        ["mask.nii.gz", "report.json"] * 2
        + ["a.png", "b.png", "evaluation.html", "report.html", "run.json", "summary.csv", "metrics.csv", "metrics.json"]
    )


def test_writers_add_files_and_columns_and_one_that_fails_takes_nothing_away(tmp_path):
    table = cohort(tmp_path, "a", "b")
    seen = []

    def largest(result, folder):
        seen.append(result)
        (folder / "largest.txt").write_text("x")
        return {"largest": f"{result.probability.max():.3f}"}

    def refuses(result, folder):
        if result.case.case_id == "a":
            raise CaseError("the disk is full")
        return {}

    evaluator = evaluator_of(table, writers=[refuses, largest])
    evaluator.run()
    rows = summary(table)
    assert [rows[c]["status"] for c in "ab"] == ["incomplete", "done"]
    assert rows["a"]["reason"] == "case a: the disk is full"
    assert [rows[c]["largest"] for c in "ab"] == [f"{r.probability.max():.3f}" for r in seen]
    assert all((tmp_path / "out" / c / "largest.txt").is_file() for c in "ab")
    for result in seen:
        assert np.array_equal(result.mask, result.probability > 0.5)
        assert np.array_equal(read_nifti(tmp_path / "out" / result.case.case_id / "mask.nii.gz").data, result.mask)
    assert {c: row["dice"] for c, row in read_rows(tmp_path / "out" / "metrics.csv").items()} == {"a": "1", "b": "1"}
    with pytest.raises(SystemExit, match="1 of 2 cases failed"):
        evaluator.finish()
    assert set(read_finished(tmp_path / "out")) == {"b"}  # resuming tries the other again


def test_when_every_case_fails_the_metrics_say_so(tmp_path):
    table = cohort(tmp_path, "a", a={"t1": "nowhere.nii.gz"})
    evaluator = evaluator_of(table)
    evaluator.run()
    assert [(row["case_id"], row["status"]) for row in evaluator.metrics] == [("a", "failed")]
    assert len(evaluator.failures) == 1


def test_without_evaluation_labels_are_not_even_opened(tmp_path):
    table = cohort(tmp_path, "a", a={"label": "nowhere.nii.gz"})
    evaluator_of(table, evaluate=False).run()
    assert summary(table)["a"]["status"] == "done"
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_an_empty_mask_counts(tmp_path):
    table = cohort(tmp_path, "a")
    evaluator_of(table, ThresholdCenter(threshold=99)).run()
    assert summary(table)["a"]["volume_ml"] == "0.000"
    assert not read_nifti(tmp_path / "out" / "a" / "mask.nii.gz").data.any()
    assert float(read_rows(tmp_path / "out" / "metrics.csv")["a"]["dice"]) == 0


def test_images_of_nothing_but_zeros_count_as_absent(tmp_path):
    table = cohort(tmp_path, "a", "b", b={"ct": "", "pet": ""})
    for file in ("a/pet.nii.gz", "b/t1.nii.gz"):
        volume = read_nifti(tmp_path / file)
        write_nifti(tmp_path / file, Volume(volume.data * 0, volume.affine))
    evaluator_of(table).run()
    a, b = (summary(table)[case] for case in "ab")
    assert (a["status"], a["modalities"], a["notes"]) == (
        "done",
        "t1+ct",
        "pet: nothing but zeros, counts as absent",
    )
    assert (b["status"], b["modalities"]) == ("failed", "t1")  # nothing to draw a mask on
    assert b["reason"].startswith("case b: the images hold nothing but zeros.")
    assert set(masks(table)) == {"a"}
    assert read_rows(tmp_path / "out" / "metrics.csv")["a"]["modalities"] == "t1+ct"


def test_masks_measured_later_are_of_the_modalities_that_they_were_made_from(tmp_path):
    table = cohort(tmp_path, "a", "b", b={"ct": ""})
    evaluator_of(table, evaluate=False).run()
    summary_file = tmp_path / "out" / "summary.csv"
    summary_file.write_text(summary_file.read_text().replace("t1+ct+pet", "t1+pet"))  # as with --withhold ct
    evaluate(table, tmp_path / "measured", predictions=tmp_path / "out")
    rows = read_rows(tmp_path / "measured" / "metrics.csv")
    assert [(rows[c]["modalities"], rows[c]["dice"]) for c in "ab"] == [("t1+pet", "1"), ("t1+pet", "1")]
    summary_file.unlink()  # masks of another program
    evaluate(table, tmp_path / "measured", predictions=tmp_path / "out")
    assert read_rows(tmp_path / "measured" / "metrics.csv")["a"]["modalities"] == "t1+ct+pet"


def test_a_network_that_has_gone_wrong_makes_no_mask(tmp_path):
    table = cohort(tmp_path, "a")
    evaluator_of(table, ThresholdCenter(threshold=float("nan"))).run()
    assert summary(table)["a"]["reason"].startswith("case a: the network's output is not a number")
    assert masks(table) == {}


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nlong trace"), ValueError(), MemoryError()])
def test_an_unforeseen_error_stops_its_case_only(tmp_path, error):
    table = cohort(tmp_path, "a", "b", "c")
    evaluator = evaluator_of(table, StopsAt(2, error))
    evaluator.run()
    rows = summary(table)
    assert [rows[c]["status"] for c in "abc"] == ["done", "failed", "done"]
    assert rows["b"]["reason"].startswith("case b: an unforeseen problem")
    assert type(error).__name__ in rows["b"]["reason"]
    assert "\n" not in rows["b"]["reason"]
    assert set(masks(table)) == {"a", "c"}
    with pytest.raises(SystemExit, match=r"1 of 3 cases failed or are incomplete, the others are done; .*: b$"):
        evaluator.finish()


def test_a_case_without_any_image_fails_and_says_so(tmp_path):
    table = cohort(tmp_path, "a", "b", a={"t1": "", "ct": "", "pet": ""})
    evaluator_of(table).run()
    row, score = summary(table)["a"], read_rows(tmp_path / "out" / "metrics.csv")["a"]
    assert (row["status"], row["modalities"], score["modalities"]) == ("failed", "none", "none")
    assert row["reason"].startswith("case a: the case has no image")
    assert score["reason"] == row["reason"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_label_on_another_grid_is_refused_also_when_resuming(tmp_path, resume):
    table = cohort(tmp_path, "a", "b")
    if resume:
        evaluator_of(table, evaluate=False).run()
    label = tumour_images()["label"]
    write_nifti(tmp_path / "a" / "label.nii.gz", label, np.uint8)  # the T1 is stored LPS, this is RAS
    evaluator_of(table, resume=resume).run()
    rows = summary(table)
    assert [rows[c]["status"] for c in "ab"] == ["failed", "done"]
    assert rows["a"]["reason"].startswith("case a, file a/label.nii.gz: the label is on another grid than t1 (expected")
    assert ("a" in masks(table)) == resume


def test_without_the_reference_the_mask_is_on_the_next_grid_and_measured_on_the_labels(tmp_path, caplog):
    table = cohort(tmp_path, "a", a={"t1": "", "ct": ""})
    evaluator_of(table, ThresholdCenter(2, 1.5 * np.log(6))).run()
    row, mask = summary(table)["a"], read_nifti(tmp_path / "out" / "a" / "mask.nii.gz")
    pet = read_nifti(tmp_path / "a" / "pet.nii.gz")
    np.testing.assert_array_equal(mask.affine, pet.affine)
    np.testing.assert_array_equal(mask.data, pet.data > 5)
    assert (row["status"], row["reference"], row["modalities"]) == ("done", "pet", "pet")
    assert row["notes"] == "t1 is absent: the mask is on the grid of pet"
    notice = read_rows(tmp_path / "out" / "metrics.csv")["a"]["notice"]
    assert notice.startswith("resampled from its own grid")
    assert "case a: t1 is absent: the mask is on the grid of pet" in caplog.text
    assert 0.3 < float(read_rows(tmp_path / "out" / "metrics.csv")["a"]["dice"]) < 1


def test_a_label_that_is_not_binary_is_refused_before_its_case_is_computed(tmp_path):
    table = cohort(tmp_path, "a", "b")
    label = read_nifti(tmp_path / "a" / "label.nii.gz")
    several = label.data * 2
    several[0, 0, 0] = 1
    write_nifti(tmp_path / "a" / "label.nii.gz", Volume(several, label.affine), np.uint8)
    network = ThresholdCenter()
    evaluator = evaluator_of(table, network)
    evaluator.run()
    assert summary(table)["a"]["reason"].startswith("case a, file a/label.nii.gz: the label has several values")
    assert len(network.calls) == 1
    assert set(masks(table)) == {"b"}
    with pytest.raises(SystemExit, match="1 of 2 cases failed"):
        evaluator.finish()


def test_a_mask_that_cannot_be_measured_is_a_failure_too(tmp_path, monkeypatch):
    table = cohort(tmp_path, "a", "b")
    evaluator = evaluator_of(table)
    save = results.save_nifti

    def save_and_damage(mask, affine, path, **options):
        save(mask, affine, path, **options)
        if path.parent.name == "b":
            path.write_bytes(path.read_bytes()[:200])

    monkeypatch.setattr(results, "save_nifti", save_and_damage)
    evaluator.run()
    with pytest.raises(SystemExit, match=r"1 of 2 cases failed or are incomplete, .* metrics.csv say why: b$"):
        evaluator.finish()


@pytest.mark.parametrize("good", [True, False])
def test_duplicate_ids_do_not_stop_the_reports(tmp_path, good):
    table = cohort(tmp_path, *("ab" if good else "a"), "c", c={"case_id": "a"})
    evaluator_of(table).run()
    scores = read_rows(tmp_path / "out" / "metrics.csv")
    assert {case: row["status"] for case, row in scores.items()} == {"a": "failed"} | ({"b": "done"} if good else {})


def test_evaluation_needs_a_label(tmp_path):
    table = cohort(tmp_path, "a", "b", a={"label": ""}, b={"label": "b/none.nii.gz"})
    evaluator_of(table).run()
    assert summary(table)["a"]["reason"].startswith("case a: the case has no label to compare with")
    assert summary(table)["b"]["reason"].startswith("case b, file b/none.nii.gz: there is no such file")


def test_an_unforeseen_message_names_no_folders(tmp_path):
    table = cohort(tmp_path / "Muster Anna", "a")
    problem = OSError(f"cannot open {tmp_path / 'Muster Anna' / 'a' / 't1.nii.gz'} nor /mnt/Muster/x.nii")
    evaluator_of(table, StopsAt(1, problem)).run()
    assert summary(table)["a"]["reason"].endswith("(found OSError: cannot open t1.nii.gz nor x.nii)")


def test_no_identity_of_the_patient_gets_out(tmp_path):
    """Names in headers and in folders above the file's own stay there; so do they in messages of failures."""
    home = tmp_path / "Muster Anna"
    table = cohort(home, "a", "b", b={"pet": "scans/none.nii.gz"})
    image = nib.load(home / "a" / "t1.nii.gz")
    for field, text in {
        "descrip": "MUSTER^ANNA",
        "db_name": "ANNA",
        "aux_file": "muster.nii",
        "intent_name": "Anna",
    }.items():
        image.header[field] = text
    nib.save(image, home / "a" / "t1.nii.gz")
    (home / "b" / "ct.nii.gz").write_bytes(b"no image")
    evaluator_of(table).run()
    written = [p for p in (home / "out").rglob("*") if p.is_file()]
    assert len(written) == 9
    for path in written:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = re.sub(rb"[\w+/=]{1000,}", b"", content)  # base64 holds every short word
        assert b"muster" not in content.lower(), path.name
        assert b"anna" not in content.lower(), path.name


def test_validation_during_training_measures_as_the_report_does(tmp_path):
    """Dice and HD95 in mm, of the same masks on the same anisotropic grid, one way and the other."""
    table = cohort(tmp_path, *"abc", **{c: {"split": "validation"} for c in "abc"})
    network = ThresholdCenter(threshold=-0.5)  # marks too much
    reported = evaluator_of(table, network)
    reported.run()
    transform = preprocessing(MODALITIES, "t1", None)
    for _ in range(2):  # the second time from the cache
        dataset = training_dataset(table, MODALITIES, transform, tmp_path / "cache", split="validation")
        inferer = SliceWindowInferer((24, 24), sw_batch_size=16)
        validation = validation_evaluator(torch.device("cpu"), dataset, network, inferer)
        validation.run()
        for measure in ("dice", "hd95_mm"):
            expected = np.mean([row[measure] for row in reported.metrics])
            assert validation.state.metrics[f"val_mean_{measure}"] == pytest.approx(expected, rel=1e-6)
    rule, by_rule = postprocessing(largest_only=True), evaluator_of(table, network)
    by_rule.case_postprocessing = rule
    by_rule.run()
    validation = validation_evaluator(torch.device("cpu"), dataset, network, inferer, 0.9, postprocessing=rule)
    validation.run()  # by the bundle's own rule, not by the threshold alone
    expected = np.mean([row["dice"] for row in by_rule.metrics])
    assert validation.state.metrics["val_mean_dice"] == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(np.mean([row["dice"] for row in reported.metrics]), rel=1e-3)
    assert 0 < np.mean([row["dice"] for row in reported.metrics]) < 1
    assert np.mean([row["hd95_mm"] for row in reported.metrics]) > 3
