"""Placement in one interpolation."""

from __future__ import annotations

import pytest
import torch

from differseg_med.transforms.placement import Placement, RandPlaceSlabd

STILL = {"crop_prob": 0, "turn_prob": 0, "any_turn_prob": 0, "zoom_prob": 0, "stretch": 0, "shift": 0, "flip_prob": 0}


def place(image: torch.Tensor, label: torch.Tensor, size: tuple[int, int], **settings: float) -> dict:
    transform = RandPlaceSlabd("image", "label", size, Placement(**{**STILL, **settings})).set_random_state(0)
    return transform({"image": image, "label": label})


def test_without_any_change_an_image_is_centred_in_zeros():
    image, label = torch.rand(6, 20, 14), (torch.rand(1, 20, 14) > 0.5).float()
    placed = place(image, label, (32, 32))
    for name, given in (("image", image), ("label", label)):
        torch.testing.assert_close(placed[name][:, 6:26, 9:23], given, atol=1e-5, rtol=0)
        assert placed[name].sum() == pytest.approx(given.sum().item(), rel=1e-4)


def test_mirroring_reverses_the_rows_of_image_and_label():
    image = torch.rand(3, 32, 32)
    label = (image[:1] > 0.5).float()
    placed = place(image, label, (32, 32), flip_prob=1)
    torch.testing.assert_close(placed["image"], image.flip(1), atol=1e-5, rtol=0)
    assert torch.equal(placed["label"], label.flip(1))


def test_zoom_changes_the_area_by_its_square():
    label = torch.zeros(1, 64, 64)
    label[:, 24:40, 24:40] = 1
    placed = place(label.clone(), label, (64, 64), zoom_prob=1, zoom=(1.5, 1.5))
    assert placed["label"].sum() == pytest.approx(16 * 16 * 1.5**2, rel=0.1)


def test_a_crop_keeps_at_least_six_tenths_of_each_side():
    image = torch.ones(1, 40, 30)
    for seed in range(20):
        transform = RandPlaceSlabd("image", "label", (64, 64), Placement(**{**STILL, "crop_prob": 1}))
        placed = transform.set_random_state(seed)({"image": image, "label": image})["image"][0]
        assert 24 - 1 <= int((placed > 0.5).any(1).sum()) <= 40
        assert 18 - 1 <= int((placed > 0.5).any(0).sum()) <= 30


def test_by_default_samples_differ_and_labels_stay_binary():
    image = torch.rand(9, 50, 40)
    transform = RandPlaceSlabd("image", "label", (64, 64)).set_random_state(1)
    placed = [transform({"image": image, "label": (image[:1] > 0.5).float()}) for _ in range(4)]
    assert all(sample["image"].shape == (9, 64, 64) for sample in placed)
    assert all(set(sample["label"].unique().tolist()) <= {0.0, 1.0} for sample in placed)
    assert not torch.equal(placed[0]["image"], placed[1]["image"])


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_window_lies_anywhere_in_a_larger_image_or_holds_the_target(prob):
    """Every pixel of an image four times as wide is seen, or each window holds some of a lesion in the corner."""
    image, label = torch.ones(1, 128, 128), torch.zeros(1, 128, 128)
    label[0, 120:123, 4:7] = 1
    image[0] += torch.arange(128)[:, None] * 128 + torch.arange(128)
    places = {**STILL, "target_prob": prob}
    transform = RandPlaceSlabd("image", "label", (32, 32), Placement(**places)).set_random_state(0)
    placed = [transform({"image": image, "label": label}) for _ in range(60)]
    rows = torch.stack([sample["image"].max() for sample in placed]) // 128
    assert all((sample["image"] > 0).all() for sample in placed)  # no window reaches over the edge
    if prob:
        assert all(sample["label"].any() for sample in placed)
    else:
        assert rows.min() < 45
        assert rows.max() > 115


def test_a_target_outside_the_part_that_is_seen_moves_that_part():
    image, label = torch.ones(1, 60, 60), torch.zeros(1, 60, 60)
    label[0, 57:, :3] = 1
    transform = RandPlaceSlabd(
        "image", "label", (64, 64), Placement(**{**STILL, "crop_prob": 1, "target_prob": 1.0})
    ).set_random_state(0)
    assert all(transform({"image": image, "label": label})["label"].any() for _ in range(30))
