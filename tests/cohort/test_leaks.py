"""The same patient on both sides: by subject, and by voxels however they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic import ORIENTATIONS, Volume, affine_of, stored_as

from differseg_med.case import Case
from differseg_med.cohort.leaks import content_key, image_leaks, patient_leaks, subject_leaks

VOXELS = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)


def case(case_id, subject="", split="", fold=""):
    return Case(case_id, subject or case_id, {}, split=split, fold=fold)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_key_does_not_depend_on_orientation(codes):
    assert content_key(stored_as(Volume(VOXELS, affine_of()), codes).data) == content_key(VOXELS)


def test_the_key_does_not_depend_on_type_or_the_sign_of_zero():
    whole = np.arange(60).reshape(5, 4, 3)
    assert content_key(whole.astype(np.int16)) == content_key(whole.astype(np.float64))
    minus = whole.astype(np.float32)
    minus[0, 0, 0] = -0.0
    assert content_key(minus) == content_key(whole)


@pytest.mark.parametrize("change", ["value", "swap of values", "shape", "crop"])
def test_other_images_have_other_keys(change):
    other = VOXELS.copy()
    if change == "value":
        other[2, 2, 2] = np.nextafter(other[2, 2, 2], np.float32(9))
    elif change == "swap of values":
        other[0, 0, 0], other[1, 0, 0] = other[1, 0, 0] + 1, other[0, 0, 0] - 1  # the sum is kept
    else:
        other = other.reshape(5, 2, 6) if change == "shape" else other[:-1]
    assert content_key(other) != content_key(VOXELS)


def test_a_constant_image_has_no_key():
    assert content_key(np.zeros((3, 3, 3))) == content_key(np.full((2, 2), 7.0)) == ""


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_subject_on_both_sides_is_an_error(column):
    one, other = ("train", "validation") if column == "split" else ("0", "1")
    cases = [case("a", "p1", **{column: one}), case("b", "p1", **{column: other}), case("c", "p2", **{column: other})]
    (finding,) = subject_leaks(cases)
    assert (finding.level, finding.case, finding.column) == ("error", "a", column)
    assert f"subject p1 is on both sides of the {column}" in finding.text
    assert "b" in finding.text
    assert "p2" not in finding.text


def test_a_subject_on_one_side_is_none():
    assert subject_leaks([case("a", "p1", "train"), case("b", "p1", "train"), case("c", "p1")]) == []


@pytest.mark.parametrize(
    ("first", "second", "level"),
    [
        (case("a", split="train"), case("b", split="validation"), "error"),
        (case("a", fold="0"), case("b", fold="1"), "error"),
        (case("a", split="train"), case("b", split="train"), "warning"),
        (case("a"), case("b"), "warning"),
    ],
)
def test_the_same_voxels_in_two_cases(first, second, level):
    (finding,) = image_leaks(
        [first, second], {("a", "t1"): "k", ("b", "ct"): "k", ("b", "t1"): "other", ("a", "x"): ""}
    )
    assert finding.level == level
    assert "t1 of a, ct of b" in finding.text


def test_the_same_image_as_two_modalities_of_a_case():
    (finding,) = image_leaks([case("a", split="train")], {("a", "t1"): "k", ("a", "t1c"): "k"})
    assert (finding.level, finding.text) == ("warning", "the same voxels: t1 of a, t1c of a")


def test_different_images_are_none():
    assert image_leaks([case("a"), case("b")], {("a", "t1"): "k", ("b", "t1"): "l", ("b", "ct"): ""}) == []


def test_dicom_says_that_two_subjects_are_one_patient():
    cases = [case("a", split="train"), case("b", split="validation"), case("c", "p9"), case("d", "p9")]
    patients = {("a", "t1"): "ID1", ("a", "ct"): "ID1", ("b", "t1"): "ID1", ("c", "t1"): "ID2", ("d", "t1"): "ID2"}
    studies = {("a", "t1"): "1.2", ("b", "t1"): "1.2", ("a", "ct"): "", ("c", "t1"): ""}
    (finding,) = patient_leaks(cases, {"PatientID": patients, "StudyInstanceUID": studies})
    assert (finding.level, finding.case) == ("error", "a")
    assert finding.text == "the same PatientID in cases of several subjects: a, b (a train, b validation)"
    (finding,) = patient_leaks(cases, {"PatientID": {}, "StudyInstanceUID": studies})
    assert "the same StudyInstanceUID" in finding.text
    one_side = [case("a"), case("b"), *cases[2:]]
    assert [f.level for f in patient_leaks(one_side, {"PatientID": patients})] == ["warning"]
    assert patient_leaks(cases, {"PatientID": {("a", "t1"): "", ("b", "t1"): ""}, "StudyInstanceUID": {}}) == []


def test_a_case_of_two_patients_is_a_warning():
    (finding,) = patient_leaks([case("a")], {"PatientID": {("a", "t1"): "1", ("a", "ct"): "", ("a", "pet"): "2"}})
    assert (finding.level, finding.text) == ("warning", "the images have different values of PatientID: t1, pet")
