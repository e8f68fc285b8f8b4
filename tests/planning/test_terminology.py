"""Codes of targets: found by words in DICOM's lists, asked for where unsure, never inherited."""

from __future__ import annotations

import pytest

from differseg_med.errors import CaseError
from differseg_med.planning.terminology import look_up

ABNORMAL = "49755003"


@pytest.mark.parametrize(
    ("target", "category", "type_", "region"),
    [
        ("liver lesion", ABNORMAL, "52988006", "10200004"),
        ("Liver Lesions", ABNORMAL, "52988006", "10200004"),
        ("hepatic tumour", ABNORMAL, "108369006", "10200004"),
        ("lung nodule", ABNORMAL, "27925004", "39607008"),
        ("enhancing lesion", ABNORMAL, "C113842", None),
        ("oedema", ABNORMAL, "79654002", None),
        ("kidney", "91723000", "64033007", None),
    ],
)
def test_words_to_codes(target, category, type_, region):
    found = look_up(target)
    assert (found.category.value, found.type.value) == (category, type_)
    assert (found.region and found.region.value) == region
    assert found.label == target


def test_a_name_of_one_s_own():
    found = look_up("MS lesion=brain lesion")
    assert (found.label, found.type.value) == ("MS lesion", "301766008")


def test_sides_are_modifiers():
    kidney, lesion = look_up("left kidney").block(), look_up("right kidney lesion").block()
    assert kidney["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] == "Left"
    assert lesion["AnatomicRegionModifierSequence"]["CodeMeaning"] == "Right"
    assert lesion["AnatomicRegionSequence"]["CodeValue"] == "64033007"


def test_no_target_is_tissue():
    found = look_up("")
    assert (found.category.value, found.type.value) == ("85756007", "85756007")
    assert "--target" in found.note


@pytest.mark.parametrize(
    ("target", "offered"),
    [("ms lesion", '"Lesion of Brain"'), ("gross tumor volume", '"Neoplasm, Primary"'), ("xyzzy", '"Mass"')],
)
def test_unsure_is_asked_in_one_line(target, offered):
    with pytest.raises(CaseError) as caught:
        look_up(target)
    text = str(caught.value)
    assert offered in text
    assert f'--target "{target}=' in text
    assert "\n" not in text
