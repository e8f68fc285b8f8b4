"""Pictures that are written: what is read back by Pillow, and that nothing is stretched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from differseg_med.errors import CaseError
from differseg_med.export.png import save_cutout, save_mask_png, save_probability_png
from differseg_med.reports.overlay2d import save_panels

pytestmark = pytest.mark.usefixtures("all_pixels")

MASK = np.zeros((20, 30), np.uint8)
MASK[5:15, 10:20] = 1


def test_a_mask_is_black_and_white(tmp_path):
    with Image.open(save_mask_png(MASK, tmp_path / "mask.png")) as image:
        assert (image.mode, image.size) == ("L", (30, 20))
        np.testing.assert_array_equal(image, MASK * 255)


def test_a_probability_keeps_its_values(tmp_path):
    low = np.full((20, 30), 0.2, np.float32)
    low[0, 0] = 0.4
    with Image.open(save_probability_png(low, tmp_path / "p.png")) as image:
        np.testing.assert_allclose(np.asarray(image) / 255, low, atol=0.5 / 255)


def test_a_cut_out_is_transparent_outside(tmp_path):
    probability = np.where(MASK, 0.9, 0.1)
    probability[0, 0] = 0.5
    with Image.open(save_cutout(np.full((20, 30, 1), 0.4), probability, tmp_path / "c.png")) as image:
        pixels = np.asarray(image)
    assert image.mode == "RGBA"
    assert (pixels[..., :3] == 102).all()
    assert pixels[0, 0, 3] == 128
    np.testing.assert_array_equal(pixels[1:, :, 3], MASK[1:] * 255)


def test_panels_show_every_picture(tmp_path):
    pictures = {"rgb": np.zeros((20, 30, 3)), "depth": np.random.default_rng(0).normal(size=(20, 30, 1))}
    one = save_panels({"rgb": pictures["rgb"]}, MASK, tmp_path / "one.png")
    two = save_panels(pictures, MASK, tmp_path / "two.webp", reference=MASK * 0, title="case")
    with Image.open(one) as first, Image.open(two) as second:
        assert second.width > 1.8 * first.width
        orange = (np.abs(np.asarray(first.convert("RGB")).astype(int) - (255, 159, 28)) < 40).all(axis=-1)
    assert orange.sum() > 100


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((CaseError, OSError)):
        save_mask_png(MASK, tmp_path / "file" / "mask.png")
