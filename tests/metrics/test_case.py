"""Measures of one case: by hand, against other implementations, and for masks without foreground."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import (
    DiceHelper,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure
from support.masks import anatomical_masks, blob, needs_sts, random_masks, sts_masks

from differseg_med.errors import CaseError
from differseg_med.metrics import surfaces
from differseg_med.metrics.case import MatchRule, Settings, case_metrics
from differseg_med.metrics.policy import MEASURES, POLICY, score_of_empty

SPACING = (1.0, 2.0, 5.0)


def pair(empty):
    """A prediction and a reference of 4 x 6 x 10 voxels; diagonal sqrt(16 + 144 + 2500) mm."""
    full, none = blob((4, 6, 10), (2, 3, 5), (1.5, 2, 3)), np.zeros((4, 6, 10), np.uint8)
    return {"none": (full, full), "both": (none, none), "prediction": (none, full), "reference": (full, none)}[empty]


DIAGONAL = 51.57518783291051
SCORES = [name for name, measure in MEASURES.items() if measure.better == "higher"]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("empty", ["none", "both", "prediction", "reference"])
def test_empty_masks_follow_the_policy(name, empty):
    result = case_metrics(*pair(empty), SPACING)
    volume = float(pair("none")[0].sum()) * 10 / 1000
    worst = {
        "volume_difference_ml": {"prediction": -volume, "reference": volume},
        "volume_difference_percent": {"prediction": -100.0, "reference": 100.0},
    }
    if empty in ("none", "both"):
        expected = 1.0 if name in SCORES else 0.0
    elif name in worst:
        expected = worst[name][empty]
    else:
        expected = 0.0 if name in SCORES else DIAGONAL
    assert result[name] == pytest.approx(expected, abs=1e-12)
    assert result["empty"] == empty


@pytest.mark.parametrize("name", MEASURES)
def test_the_mean_of_perfect_and_missed_is_not_perfect(name):
    perfect, missed, invented = (case_metrics(*pair(e), SPACING)[name] for e in ("none", "prediction", "reference"))
    for bad in (missed, invented):
        mean = np.mean([perfect, bad])
        assert np.isfinite(mean)
        assert abs(mean - perfect) >= 0.5 * abs(bad - perfect) > 0


def test_the_policy_says_the_numbers():
    assert "Dice, IoU, precision, recall, surface Dice and lesion scores 1; distances 0 mm" in POLICY
    assert "HD95, HD and ASSD the diagonal of the image in mm" in POLICY
    with pytest.raises(ValueError, match="follows from its definition"):
        score_of_empty("volume_difference_ml", "prediction", 10.0)


def test_the_diagonal_is_that_of_the_image_not_of_the_crop():
    small, large = np.zeros((3, 3, 3), np.uint8), np.zeros((30, 3, 3), np.uint8)
    small[1, 1, 1] = large[1, 1, 1] = 1
    found = [case_metrics(np.zeros_like(m), m, (1.0, 1.0, 1.0))["hd95_mm"] for m in (small, large)]
    assert found == pytest.approx([np.sqrt(27), np.sqrt(918)])


def test_two_voxels_apart_by_hand():
    p, r = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    p[0, 0, 0] = r[1, 2, 3] = 1
    result = case_metrics(p, r, SPACING)
    distance = np.sqrt(1 + 16 + 225)  # 1 x 1 mm, 2 x 2 mm, 3 x 5 mm
    assert [result[n] for n in ("hd_mm", "hd95_mm", "assd_mm")] == pytest.approx([distance] * 3)
    assert result["dice"] == result["iou"] == result["surface_dice"] == 0
    assert result["volume_ml"] == result["reference_ml"] == pytest.approx(0.010)


def test_a_rod_against_its_end_by_hand():
    """Rod of 21 voxels of 2 mm, reference its first voxel: distances 0, 2, ..., 40 one way and 0 the other."""
    p, r = np.zeros((21, 3, 3), np.uint8), np.zeros((21, 3, 3), np.uint8)
    p[:, 1, 1] = r[0, 1, 1] = 1
    result = case_metrics(p, r, (2.0, 1.0, 1.0))
    assert result["hd_mm"] == pytest.approx(40)
    assert result["hd95_mm"] == pytest.approx(38)  # 95 % of 20 steps of 2 mm; pooling both ways would give 37.9
    assert result["assd_mm"] == pytest.approx(420 / 22)
    assert result["dice"] == pytest.approx(2 / 22)
    assert result["precision"] == pytest.approx(1 / 21)
    assert result["recall"] == 1
    assert result["volume_difference_ml"] == pytest.approx(20 * 2 / 1000)
    assert result["volume_difference_percent"] == pytest.approx(2000)
    swapped = case_metrics(r, p, (2.0, 1.0, 1.0))
    assert swapped["hd95_mm"] == pytest.approx(38)  # undirected
    assert swapped["volume_difference_ml"] == pytest.approx(-20 * 2 / 1000)


@pytest.mark.parametrize(("axis", "distance"), [(0, 1.0), (1, 2.0), (2, 5.0)])
def test_a_shift_of_one_voxel_costs_the_spacing_of_its_axis(axis, distance):
    reference = blob((12, 12, 12), (6, 6, 6), (3, 3, 3))
    result = case_metrics(np.roll(reference, 1, axis), reference, SPACING)
    assert result["hd_mm"] == pytest.approx(distance)


def test_surface_dice_of_facing_plates_by_hand():
    """Plates one voxel thick: their faces lie at 0 and 1, and at 10 and 11 mm."""
    p, r = np.zeros((12, 6, 6), np.uint8), np.zeros((12, 6, 6), np.uint8)
    p[0, 1:5, 1:5] = r[10, 1:5, 1:5] = 1
    found = [
        case_metrics(p, r, (1.0, 1.0, 1.0), settings=Settings(tolerance_mm=t))["surface_dice"]
        for t in (8.9, 9, 9.9, 10)
    ]
    assert found == pytest.approx([0, 0.5, 0.5, 1])  # the inner faces are 9 mm apart, each outer one 10 from an inner


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_more_is_reported(axis):
    reference = blob((14, 14, 14), (7, 7, 7), (4, 4, 4))
    prediction = reference.copy()
    outside = [7, 7, 7]
    outside[axis] += 5
    prediction[tuple(outside)] = 1
    result = case_metrics(prediction, reference, SPACING)
    assert result["dice"] < 1
    assert result["iou"] < 1
    assert result["precision"] < 1 == result["recall"]
    assert result["hd_mm"] == pytest.approx(SPACING[axis])
    assert result["assd_mm"] > 0
    assert result["volume_difference_ml"] == pytest.approx(10 / 1000)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_the_place_in_the_image_does_not_matter(axis, side):
    """Also at the border: the crop and the background around it change nothing."""
    p, r = blob((9, 9, 9), (4, 4, 4), (3, 3, 3)), blob((9, 9, 9), (5, 4, 4), (3, 2, 3))
    free = case_metrics(np.pad(p, 6), np.pad(r, 6), SPACING)
    used = np.flatnonzero((p | r).any(axis=tuple({0, 1, 2} - {axis})))
    keep = [slice(None)] * 3
    keep[axis] = slice(used[0], None) if side == 0 else slice(None, used[-1] + 1)
    at_border = case_metrics(p[tuple(keep)], r[tuple(keep)], SPACING)
    for name in MEASURES:
        assert at_border[name] == pytest.approx(free[name], rel=1e-12)


def monai(prediction, reference, spacing, tolerance):
    p, r = (torch.from_numpy(m)[None, None].double() for m in (prediction, reference))
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MONAI
        return {
            "dice": float(
                DiceHelper(include_background=True, sigmoid=True, apply_argmax=False)(20 * p - 10, r)[0].squeeze()
            ),
            "iou": float(compute_iou(p, r)),
            "hd95_mm": float(compute_hausdorff_distance(p, r, percentile=95, **options)),
            "hd_mm": float(compute_hausdorff_distance(p, r, **options)),
            "assd_mm": float(compute_average_surface_distance(p, r, symmetric=True, **options)),
            "surface_dice": float(compute_surface_dice(p, r, [tolerance], use_subvoxels=True, **options)),
        }


def assert_as_monai(prediction, reference, spacing, tolerance):
    ours = case_metrics(prediction, reference, spacing, settings=Settings(tolerance_mm=tolerance))
    for name, value in monai(prediction, reference, spacing, tolerance).items():
        assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_monai_on_random_masks(seed):
    assert_as_monai(*random_masks(seed), tolerance=2.3)


def test_equal_to_monai_on_a_real_image():
    assert_as_monai(*anatomical_masks(), tolerance=2.1)


@needs_sts
def test_equal_to_monai_on_tumours():
    for prediction, reference, spacing in sts_masks():
        assert_as_monai(prediction, reference, spacing, tolerance=2.0)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_monai_in_two_dimensions(seed):
    prediction, reference, spacing = random_masks(seed)
    middle = prediction.shape[2] // 2
    assert_as_monai(prediction[..., middle].copy(), reference[..., middle].copy(), spacing[:2], tolerance=1.7)


def medpy_hd95(prediction, reference, spacing):
    """HD95 the way MedPy's `hd95` computes it: distance transforms, boundaries by an erosion, one percentile of all."""
    cross = generate_binary_structure(prediction.ndim, 1)
    edges = [m & ~binary_erosion(m, structure=cross) for m in (prediction.astype(bool), reference.astype(bool))]
    found = [distance_transform_edt(~to, sampling=spacing)[of] for of, to in (edges, edges[::-1])]
    return np.percentile(np.hstack(found), 95)


@pytest.mark.parametrize("seed", range(6))
def test_pooled_hd95_is_medpys(seed):
    prediction, reference, spacing = random_masks(seed)
    ours = case_metrics(prediction, reference, spacing, settings=Settings(hd95_pooled=True))
    assert ours["hd95_pooled_mm"] == pytest.approx(medpy_hd95(prediction, reference, spacing), rel=1e-9)


def test_pooled_hd95_by_hand_and_only_if_asked_for():
    """A row of 20 voxels against its first half: 20 distances of 0 mm, and 1 to 10 mm from the other half."""
    reference, prediction = np.zeros((2, 24, 1, 1), np.uint8)
    reference[:20], prediction[:10] = 1, 1
    given = (prediction, reference, (1.0, 1.0, 1.0))
    ours = case_metrics(*given, settings=Settings(hd95_pooled=True))
    assert ours["hd95_pooled_mm"] == pytest.approx(8.55)  # of 30 distances between the 28th, 8 mm, and the 29th
    assert ours["hd95_mm"] == pytest.approx(9.05)  # of the 20 from the reference between 9 and 10 mm
    assert "hd95_pooled_mm" not in case_metrics(*given)
    for empty, expected in (("both", 0), ("prediction", DIAGONAL), ("reference", DIAGONAL)):
        found = case_metrics(*pair(empty), SPACING, settings=Settings(hd95_pooled=True))
        assert found["hd95_pooled_mm"] == pytest.approx(expected)


def assert_as_surface_distance(prediction, reference, spacing, tolerance):
    surface_distance = pytest.importorskip("surface_distance")
    p, r = prediction.astype(bool), reference.astype(bool)
    found = surface_distance.compute_surface_distances(r, p, spacing)
    ours = case_metrics(p, r, spacing, settings=Settings(tolerance_mm=tolerance))
    theirs = surface_distance.compute_surface_dice_at_tolerance(found, tolerance)
    assert ours["surface_dice"] == pytest.approx(theirs, abs=1e-6)
    assert ours["dice"] == pytest.approx(surface_distance.compute_dice_coefficient(r, p), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_surface_distance_on_random_masks(seed):
    assert_as_surface_distance(*random_masks(seed), tolerance=2.3)


def test_equal_to_surface_distance_on_a_real_image():
    assert_as_surface_distance(*anatomical_masks(), tolerance=2.1)


@needs_sts
def test_equal_to_surface_distance_on_tumours():
    for prediction, reference, spacing in sts_masks():
        assert_as_surface_distance(prediction, reference, spacing, tolerance=2.0)


def test_both_ways_to_search_within_the_tolerance_agree(monkeypatch):
    prediction, reference, spacing = random_masks(3)
    tolerances = (0.0, 1.1, 2.0, 5.0)

    def found():
        return [
            case_metrics(prediction, reference, spacing, settings=Settings(tolerance_mm=t))["surface_dice"]
            for t in tolerances
        ]

    near = found()
    monkeypatch.setattr(surfaces, "MANY_NEIGHBORS", 0)
    assert found() == pytest.approx(near, rel=1e-12)
    assert len(set(near)) == len(near)


def test_a_tolerance_of_three_steps_includes_three_steps():
    """3 x 0.1 is 0.30000000000000004 in floating point."""
    p, r = np.zeros((8, 3, 3), np.uint8), np.zeros((8, 3, 3), np.uint8)
    p[1, 1, 1] = r[4, 1, 1] = 1
    settings = Settings(tolerance_mm=0.3)
    assert case_metrics(p, r, (0.1, 0.1, 0.1), settings=settings)["surface_dice"] == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_any_dtype_and_memory_order(dtype):
    prediction, reference, spacing = random_masks(5)
    expected = case_metrics(prediction, reference, spacing)
    turned = np.asfortranarray(prediction.astype(dtype))[::-1][::-1]
    assert case_metrics(turned, reference.astype(dtype), spacing) == expected


def test_masks_stay_as_they_were():
    prediction, reference, spacing = random_masks(6)
    copies = prediction.copy(), reference.copy()
    case_metrics(prediction, reference, spacing)
    np.testing.assert_array_equal(prediction, copies[0])
    np.testing.assert_array_equal(reference, copies[1])


@pytest.mark.parametrize(
    ("values", "found"), [((0, 255), "0, 255"), ((0, 1, 2), "0, 1, 2"), ((0.0, 0.5), "0, 0.5"), ((0.0, np.nan), "nan")]
)
@pytest.mark.parametrize("which", ["predicted", "reference"])
def test_masks_that_are_not_binary_are_refused(values, found, which):
    odd = np.resize(np.asarray(values), (4, 4, 4))
    good = np.ones((4, 4, 4), np.uint8)
    masks = (odd, good) if which == "predicted" else (good, odd)
    with pytest.raises(CaseError, match=f"the {which} mask is not binary") as error:
        case_metrics(*masks, (1, 1, 1))
    assert found in str(error.value)


def test_shapes_that_differ_are_refused():
    with pytest.raises(CaseError, match=r"differ in shape \(expected \(4, 4, 5\), found \(4, 4, 4\)\)"):
        case_metrics(np.ones((4, 4, 4)), np.ones((4, 4, 5)), (1, 1, 1))
    with pytest.raises(CaseError, match="two or three axes"):
        case_metrics(np.ones((1, 4, 4, 4)), np.ones((1, 4, 4, 4)), (1, 1, 1, 1))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, np.nan), (1, 1, np.inf)])
def test_impossible_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="3 lengths in mm"):
        case_metrics(np.ones((4, 4, 4)), np.ones((4, 4, 4)), spacing)


def test_settings_are_checked_and_described():
    with pytest.raises(ValueError, match="tolerance"):
        Settings(tolerance_mm=-1)
    with pytest.raises(ValueError, match="one of any, dice, iou"):
        MatchRule("overlap")
    with pytest.raises(ValueError, match="between 0 and 1"):
        MatchRule("iou", 1.5)
    assert Settings(3.0, MatchRule("iou", 0.5)).describe() == {
        "surface_dice_tolerance_mm": 3.0,
        "lesion_match_rule": "a reference lesion is detected if its IoU with the predictions that touch it is >= 0.5",
    }
