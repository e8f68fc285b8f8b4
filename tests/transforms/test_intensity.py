"""Intensities against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from differseg_med.transforms.intensity import (
    NormalizeByKindd,
    normalize_ct,
    normalize_image,
    normalize_mr,
    normalize_pet,
)

NAN = float("nan")


def test_ct_window():
    volume = torch.tensor([-1000.0, -160, -60, 40, 240, 3000])
    torch.testing.assert_close(normalize_ct(volume), torch.tensor([-2.0, -2, -1, 0, 2, 2]))
    torch.testing.assert_close(normalize_ct(volume, (-1000, 3000)), torch.tensor([-2.0, -1.16, -1.06, -0.96, -0.76, 2]))


def test_mr_z_score_is_over_what_is_not_zero():
    # 1, 2, 3, 6 have mean 3 and standard deviation sqrt(14 / 4).
    found = normalize_mr(torch.tensor([0.0, 1, 2, 3, 6, 0, 0, NAN]))
    sd = math.sqrt(3.5)
    torch.testing.assert_close(found[:7], torch.tensor([0, -2 / sd, -1 / sd, 0, 3 / sd, 0, 0]))
    assert bool(found[7].isnan())


def test_mr_z_score_is_clipped():
    volume = torch.cat([torch.ones(500), torch.full((500,), 1.1), torch.tensor([100.0, -100.0])])
    found = normalize_mr(volume)
    assert (found.min(), found.max()) == (-5, 5)


def test_mr_percentile():
    volume = torch.cat([torch.zeros(50), torch.arange(1.0, 102.0)])  # the 99th percentile of 1..101 is 100
    found = normalize_mr(volume, 99)
    assert bool((found[:50] == 0).all())
    assert found[50] == pytest.approx(-2 + 4 * 0.01)
    assert found[-2] == pytest.approx(2)
    assert found[-1] == pytest.approx(2.04)
    assert normalize_mr(volume * 7.5, 99).numpy() == pytest.approx(found.numpy(), abs=1e-5)  # units do not matter


def test_mr_percentile_is_clipped_at_one_and_a_half_times():
    volume = torch.cat([torch.ones(999), torch.tensor([80.0])])
    assert normalize_mr(volume, 99).max() == pytest.approx(4)


def test_pet_is_logarithmic_and_keeps_zero():
    found = normalize_pet(torch.tensor([0.0, math.e - 1, math.e**2 - 1, -3]))
    torch.testing.assert_close(found, torch.tensor([0, 1.5, 3.0, 0]))


def test_photographs_by_channel():
    volume = torch.tensor([0.5, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 1)
    found = normalize_image(volume, mean=(0.5, 0.4), std=(0.25, 0.3))
    torch.testing.assert_close(found[0], torch.zeros(3, 2, 1))
    torch.testing.assert_close(found[1], torch.full((3, 2, 1), 2.0))


@pytest.mark.parametrize("value", [1e-3, 37.3, 1234.567, 1e6])
def test_a_constant_mr_is_neither_noise_nor_nothing(value):
    # Rounding of the mean, divided by a standard deviation of 0, once made +-5 of it.
    assert normalize_mr(torch.full((4000,), value)).abs().max() < 1e-2
    assert normalize_mr(torch.full((4000,), value), 99) == pytest.approx(torch.full((4000,), 2.0))


@pytest.mark.parametrize("percentile", [None, 99])
def test_an_mr_of_zeros_stays_zero(percentile):
    assert not bool(normalize_mr(torch.zeros(3, 3), percentile).any())


@pytest.mark.parametrize(
    "settings", [{"kind": "mr"}, {"kind": "mr", "percentile": 99}, {"kind": "ct"}, {"kind": "pet"}]
)
def test_no_data_becomes_zero(settings):
    volume = MetaTensor(torch.tensor([[[[NAN, 10.0, 20.0, 35.0]]]]))
    found = NormalizeByKindd({"x": settings})({"x": volume})["x"]
    assert found[0, 0, 0, 0] == 0
    assert bool(torch.isfinite(found).all())
    assert bool((found[0, 0, 0, 1:] != 0).any())
    assert isinstance(found, MetaTensor)


def test_each_modality_by_its_own_kind_and_absent_ones_left_alone():
    normalize = NormalizeByKindd({"ct": {"kind": "ct", "window": (0, 100)}, "pet": {"kind": "pet", "log_scale": 1}})
    found = normalize({"ct": torch.tensor([75.0]), "case_id": "a"})
    assert found == {"ct": torch.tensor([1.0]), "case_id": "a"}
    assert normalize({"pet": torch.tensor([math.e - 1])})["pet"].item() == pytest.approx(1)


def test_the_input_is_not_changed():
    volume = torch.tensor([np.nan, -3.0, 500.0])
    for settings in ({"kind": "mr"}, {"kind": "ct"}, {"kind": "pet"}):
        NormalizeByKindd({"x": settings})({"x": volume})
    np.testing.assert_array_equal(volume, [np.nan, -3, 500])


@pytest.mark.parametrize("settings", [{"kind": "mri"}, {}, {"window": (0, 1)}])
def test_an_unknown_kind(settings):
    with pytest.raises(
        ValueError, match=r"^modality 'x': kind: expected one of ct, cbct, mr, pet, .*, found '(mri)?'$"
    ):
        NormalizeByKindd({"x": settings})


@pytest.mark.parametrize("settings", [{"kind": "ct", "windows": (0, 1)}, {"kind": "pet", "percentile": 99}])
def test_a_misspelt_setting_is_noticed_before_the_first_case(settings):
    with pytest.raises(ValueError, match="modality 'x'"):
        NormalizeByKindd({"x": settings})


@pytest.mark.parametrize("window", [(240, -160), (10, 10)])
def test_a_window_without_width(window):
    with pytest.raises(ValueError, match="window"):
        NormalizeByKindd({"x": {"kind": "ct", "window": window}})


def test_smoothing_of_ct_is_a_gaussian_that_keeps_no_data_apart():
    volume = torch.full((1, 9, 9, 9), -160.0)
    volume[0, 4, 4, 4] = 240.0
    volume[0, 0, 0, 0] = float("nan")
    smooth = normalize_ct(volume, smooth=1.0)
    taps = [math.exp(-0.5 * n * n) for n in range(-4, 5)]
    assert float(smooth[0, 4, 4, 4]) == pytest.approx(-2 + 4 * (1 / sum(taps)) ** 3, abs=1e-5)
    assert torch.isnan(smooth[0, 0, 0, 0])
    assert float(smooth[0, 0, 0, 1]) == pytest.approx(-2, abs=1e-3)  # the hole next to it counts as the window's bottom
