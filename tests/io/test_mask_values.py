"""Which values of a mask file are foreground: rounding is no class of its own, and no remedy loses a voxel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label
from differseg_med.io.mask_values import foreground

ODD = Path(__file__).parents[1] / "data" / "odd_inputs"
CLASSES = torch.tensor([0.0, 1, 2, 1, 0, 2, 2, 0]).reshape(1, 2, 2, 2)
FILE = Path("case/m.nii.gz")


def chosen(volume, selector="", **settings) -> tuple[list[bool], list[str]]:
    mask, notes = foreground(torch.as_tensor(volume, dtype=torch.float32), selector, FILE, **settings)
    return mask.flatten().tolist(), notes


@pytest.mark.parametrize("selector", ["", "::1", "::>=0.5"])
def test_noise_of_one_in_ten_million_is_one(selector):
    path = ODD / "label_float_noise.nii.gz"
    expected = np.abs(nib.load(path).get_fdata() - 1) < 1e-6
    label = load_label(f"{path}{selector}")
    assert_array_equal(label[0] > 0, expected)
    assert int(label.sum()) == 500
    assert not label.meta.get("notes")


@pytest.mark.parametrize("off", [1.53e-5, -1e-3 + 1e-5, 9e-4])
def test_a_scale_factor_leaves_the_classes_what_they_are(off):
    scaled = torch.where(CLASSES > 0, CLASSES + off, CLASSES)
    mask, notes = chosen(scaled, "1,2")
    assert mask == (CLASSES > 0).flatten().tolist()
    assert notes[0].startswith("values up to ")
    assert chosen(scaled, "2")[0] == (CLASSES == 2).flatten().tolist()


def test_a_hundredth_away_is_another_value():
    mask, notes = chosen(CLASSES + 0.01, "1")
    assert not any(mask)
    assert notes == ["nothing in it is 1, only 0.01, 1.01, 2.01: taken as empty"]


@pytest.mark.parametrize(
    ("volume", "remedy"),
    [
        (CLASSES, "all of them: m.nii.gz::1,2."),
        (torch.arange(12.0), "all of them: m.nii.gz::>=1."),
        (torch.arange(12.0) - 3, "m.nii.gz::VALUE,VALUE."),
        (torch.tensor([0, 0.25, 0.7, 1]), "from which value on a voxel is foreground: m.nii.gz::>=VALUE."),
    ],
)
def test_the_remedy_for_several_values_names_all_of_them(volume, remedy):
    with pytest.raises(CaseError, match="several values") as caught:
        chosen(volume)
    assert str(caught.value).endswith(remedy)
    if "all of them" in remedy:  # what it proposes loses nothing
        assert chosen(volume, remedy.partition("::")[2].removesuffix("."))[0] == (volume > 0).flatten().tolist()


def test_a_mask_scaled_to_nearly_nothing_is_not_empty():
    with pytest.raises(CaseError, match=r"all values of the mask are 0 or nearly so \(found at most 0.0005\)"):
        chosen(CLASSES / 4000)
    assert chosen(CLASSES / 4000, ">=0.0001")[0] == (CLASSES > 0).flatten().tolist()


@pytest.mark.parametrize(("value", "notes"), [(1, []), (255, []), (2, ["its only value, 2, is taken as foreground"])])
def test_the_one_value_of_a_prediction(value, notes):
    assert chosen((CLASSES == 2) * value, predicted=True) == ((CLASSES == 2).flatten().tolist(), notes)


def test_a_prediction_is_no_probability():
    with pytest.raises(CaseError, match=r"predicted mask is not binary.*--predictions FOLDER::>=VALUE"):
        chosen((CLASSES == 2) * 0.3, predicted=True)
