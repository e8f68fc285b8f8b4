"""Lesions found, missed and invented, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from differseg_med.metrics import lesions
from differseg_med.metrics.lesions import MatchRule, lesion_counts


def line(*voxels, size=40):
    mask = np.zeros((size, 3, 3), bool)
    mask[list(voxels), 1, 1] = True
    return mask


REFERENCE = line(*range(10), *range(15, 25), 30)  # three lesions of 10, 10 and 1 voxels


def test_found_missed_and_invented_by_hand():
    prediction = line(*range(5), 27, 35)  # half of the first; two beside everything
    found = lesion_counts(prediction, REFERENCE, MatchRule())
    assert found["lesion_recall"] == pytest.approx(1 / 3)
    assert found["lesion_precision"] == pytest.approx(1 / 3)
    assert found["lesion_f1"] == pytest.approx(1 / 3)
    assert found["lesion_dice"] == pytest.approx((2 * 5 / 15) / (3 + 2))  # BraTS: missed and false lesions count 0
    counts = [found[f"{kind}_lesions"] for kind in ("reference", "predicted", "missed", "false")]
    assert counts == [3, 3, 2, 2]


def test_pieces_of_one_lesion_are_taken_together():
    found = lesion_counts(line(0, 1, 2, 3, 6, 7, 8, 9), line(*range(10)), MatchRule())
    assert found["lesion_dice"] == pytest.approx(2 * 8 / 18)
    assert found["lesion_precision"] == found["lesion_recall"] == 1
    assert found["predicted_lesions"] == 2


def test_one_prediction_over_two_lesions_is_shared():
    found = lesion_counts(line(*range(25)), line(*range(10), *range(15, 25)), MatchRule("iou", 0.5))
    assert found["lesion_dice"] == pytest.approx(2 * 10 / 35)
    assert found["lesion_recall"] == 0  # IoU 10 / 25 for each
    assert found["false_lesions"] == 1


@pytest.mark.parametrize(
    ("rule", "detected"),
    [
        (MatchRule("any"), 1),
        (MatchRule("dice", 0.18), 1),
        (MatchRule("dice", 0.19), 0),
        (MatchRule("iou", 0.1), 1),
        (MatchRule("iou", 0.11), 0),
        (MatchRule("dice", 0.0), 1),
    ],
)
def test_the_match_rule_decides(rule, detected):
    found = lesion_counts(line(0), line(*range(10)), rule)  # Dice 2 / 11 = 0.1818, IoU 0.1
    assert found["lesion_recall"] == detected
    assert found["lesion_precision"] == detected
    assert found["false_lesions"] == 1 - detected


def test_touching_nothing_is_never_detected():
    assert lesion_counts(line(20), line(0), MatchRule("dice", 0.0))["lesion_recall"] == 0


@pytest.mark.parametrize(("step", "lesions"), [((1, 1, 1), 1), ((1, 1, 0), 1), ((2, 0, 0), 2)])
def test_corners_connect(step, lesions):
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 1, 1] = mask[1 + step[0], 1 + step[1], 1 + step[2]] = True
    assert lesion_counts(mask, mask, MatchRule())["reference_lesions"] == lesions


def test_words_of_the_rules():
    assert "one voxel" in str(MatchRule("any"))
    assert ">= 0.1" in str(MatchRule())


def test_pairing_in_parts_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    masks = rng.random((2, 12, 12, 12)) > 0.9
    whole = lesion_counts(*masks, MatchRule())
    assert whole["reference_lesions"] > 20
    monkeypatch.setattr(lesions, "_CHUNK", 7)
    assert lesion_counts(*masks, MatchRule()) == whole
