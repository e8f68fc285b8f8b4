"""Pictures as volumes of one slice: pixels as Pillow and people see them, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from differseg_med.errors import CaseError
from differseg_med.geometry import image_affine
from differseg_med.io.volumes import load_mask, load_volume
from differseg_med.keys import IMAGE, NOTES
from differseg_med.transforms.grids import grid_of, original_grid, restore_grid
from differseg_med.transforms.intensity import normalize_depth, normalize_image
from differseg_med.transforms.pipelines import preprocessing

RGB = {"kind": "image", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
random = np.random.default_rng(0)
COLOURS = random.integers(0, 256, (12, 18, 3)).astype(np.uint8)


def save(path: Path, pixels, mode: str | None = None, **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_colours_are_channels_rows_columns(tmp_path):
    volume = load_volume(save(tmp_path / "a.png", COLOURS))
    assert volume.shape == (3, 12, 18, 1)
    np.testing.assert_allclose(volume[..., 0].permute(1, 2, 0) * 255, COLOURS, atol=1e-4)


@pytest.mark.parametrize("ending", ["png", "tif", "tiff"])
def test_16_bit_grey_keeps_its_precision(tmp_path, ending):
    grey = random.integers(0, 65536, (12, 18)).astype(np.uint16)
    volume = load_volume(save(tmp_path / f"a.{ending}", grey))
    np.testing.assert_allclose(volume[0, ..., 0] * 65535, grey, atol=0.01)


def test_float_tiff_keeps_its_values(tmp_path):
    metres = random.uniform(0, 40, (12, 18)).astype(np.float32)
    np.testing.assert_array_equal(load_volume(save(tmp_path / "a.tif", metres))[0, ..., 0], metres)


def test_palettes_become_colours_and_transparency_black(tmp_path):
    reds = np.zeros((12, 18, 3), np.uint8)
    reds[:, 9:, 0] = 255
    palette = load_volume(save(tmp_path / "p.png", reds, "P"))
    np.testing.assert_allclose(palette[..., 0].permute(1, 2, 0) * 255, reds)
    alpha = np.dstack([COLOURS, np.repeat([[0] * 9 + [255] * 9], 12, axis=0).astype(np.uint8)])
    volume = load_volume(save(tmp_path / "a.png", alpha))
    assert not bool(volume[:, :, :9].any())
    np.testing.assert_allclose(volume[:, :, 9:, 0].permute(1, 2, 0) * 255, COLOURS[:, 9:], atol=1e-4)


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown after a quarter turn clockwise
    volume = load_volume(save(tmp_path / "a.png", COLOURS, exif=exif))
    np.testing.assert_allclose(volume[..., 0].permute(1, 2, 0) * 255, np.rot90(COLOURS, -1), atol=1e-4)


def test_a_picture_of_any_size_has_one_frame():
    for size in ((12, 18), (480, 640)):
        corners = image_affine(*size) @ np.array([[-0.5, -0.5, 0, 1], [size[0] - 0.5, size[1] - 0.5, 0, 1]]).T
        np.testing.assert_allclose(corners[:2].T, [[0, 0], [100, 100]])


MASK = np.zeros((12, 18), np.uint8)
MASK[3:9, 4:12] = 1


@pytest.mark.parametrize("scale", [1, 38, 255])
def test_masks_of_two_values_are_taken_as_they_are(tmp_path, scale):
    np.testing.assert_array_equal(load_mask(save(tmp_path / "a.png", MASK * scale))[0, ..., 0], MASK)


def test_grey_edges_of_jpeg_are_cut_at_one_half(tmp_path):
    big = np.kron(MASK, np.ones((16, 16), np.uint8)) * 255  # JPEG works in blocks of 8
    shifted = np.roll(big, 3, axis=(0, 1))
    path = save(tmp_path / "a.jpg", shifted, quality=60)
    assert len(np.unique(np.asarray(Image.open(path)))) > 10
    assert (load_mask(path)[0, ..., 0].numpy() != shifted / 255).mean() < 0.002


def test_a_cell_says_that_black_is_the_foreground(tmp_path):
    path = save(tmp_path / "a.png", (1 - MASK) * 255)
    np.testing.assert_array_equal(load_mask(f"{path}::black")[0, ..., 0], MASK)
    np.testing.assert_array_equal(load_mask(f"{path}::white")[0, ..., 0], 1 - MASK)


def test_16_bit_and_palette_masks(tmp_path):
    for scale in (1, 255, 65535):
        path = save(tmp_path / "a.png", MASK.astype(np.uint16) * scale)
        np.testing.assert_array_equal(load_mask(path)[0, ..., 0], MASK)
    palette = Image.fromarray(MASK, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])  # as in DAVIS and PASCAL VOC
    np.testing.assert_array_equal(load_mask(save(tmp_path / "p.png", palette))[0, ..., 0], MASK)


def animation(path: Path) -> Path:
    frames = [Image.fromarray(np.roll(COLOURS, shift, axis=0)) for shift in range(3)]
    return save(path, frames[0], save_all=True, append_images=frames[1:])


def truncated(path: Path) -> Path:
    save(path, np.kron(COLOURS, np.ones((20, 20, 1), np.uint8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


BAD = {
    "a.jpg": (truncated, "cannot be read"),
    "one.png": (lambda p: save(p, COLOURS[:1, :1]), "hardly any pixels"),
    "print.jpg": (lambda p: save(p, COLOURS, "CMYK"), "colours for print"),
    "b.png": (animation, r"several images.*expected one, found 3"),
    "c.png": (folder, "no DICOM image here.*name the file itself"),
    "d.png": (lambda p: Path(p.write_text("no picture") and p), "cannot be read"),
    "e.png": (lambda p: p, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    make, message = BAD[name]
    with pytest.raises(CaseError, match=message) as error:
        load_volume(make(tmp_path / name))
    assert name in str(error.value)


def test_a_16_bit_mask_of_many_values_is_no_mask(tmp_path):
    path = save(tmp_path / "a.png", (np.arange(12 * 18).reshape(12, 18) % 7).astype(np.uint16))
    with pytest.raises(CaseError, match=r"not black and white.*7 grey values"):
        load_mask(path)


def test_colour_turns_grey_for_a_network_of_one_channel():
    red = torch.zeros(3, 2, 2, 1)
    red[0] = 1
    torch.testing.assert_close(normalize_image(red), torch.full((1, 2, 2, 1), (0.299 - 0.5) / 0.5))
    assert normalize_image(torch.rand(1, 2, 2, 1), [0.5] * 3, [0.5] * 3).shape == (3, 2, 2, 1)


def test_depth_is_scaled_within_the_picture_and_missing_stays_zero():
    depth = torch.linspace(1000, 2000, 200).view(1, 10, 20, 1)
    depth[0, 0] = 0
    scaled = normalize_depth(depth, percentile=0)
    assert not bool(scaled[0, 0].any())
    assert (scaled[0, 1, 0].item(), scaled.max().item()) == pytest.approx((-2, 2))
    torch.testing.assert_close(normalize_depth(depth * 0.01, percentile=0), scaled)
    far = normalize_depth(depth, percentile=0, zero_is_missing=False)
    assert far[0, 0, 0].item() == pytest.approx(-2)


def case(tmp_path: Path, size=(40, 60), depth_size=(40, 60)) -> dict:
    """A bright square at the same place of the scene in both modalities and the label."""
    paths = {"case_id": "a"}
    for name, (h, w) in (("rgb", size), ("depth", depth_size), ("label", size)):
        pixels = np.full((h, w), 60, np.uint8)
        pixels[h // 4 : h // 2, w // 2 : 3 * w // 4] = 240
        paths[name] = str(
            save(tmp_path / f"{name}.png", (pixels > 100).astype(np.uint8) if name == "label" else pixels)
        )
    return paths


def pipeline():
    return preprocessing({"rgb": RGB, "depth": {"kind": "depth"}}, "rgb", spatial_size=(32, 64))


def test_modalities_of_other_sizes_meet_at_one_place(tmp_path):
    found = pipeline()(case(tmp_path, (400, 600), (20, 32)))
    assert found[IMAGE].shape == (4, 32, 64, 1)
    for picture in (found[IMAGE][0], found[IMAGE][3], found["label"][0]):
        bright = (picture > 0.9 * picture.max())[..., 0].nonzero().float()
        assert bright.mean(dim=0).tolist() == pytest.approx([11.5, 39.5], abs=0.6)
    assert found[NOTES] == ["depth: 20 x 32 pixels, rgb has 400 x 600; resized to the same frame"]
    assert original_grid(found[IMAGE]).shape == (400, 600, 1)


def test_a_probability_comes_back_to_the_pictures_own_pixels(tmp_path):
    paths = case(tmp_path, (400, 600))
    found = pipeline()(paths)
    restored = restore_grid(found["label"], original_grid(found[IMAGE])) > 0.5
    label = load_mask(paths["label"])
    assert restored.shape == label.shape
    assert grid_of(restored).affine == pytest.approx(image_affine(400, 600))
    assert (restored != (label > 0)).float().mean().item() < 0.01


def test_an_absent_colour_modality_is_three_zero_channels(tmp_path):
    paths = case(tmp_path)
    del paths["rgb"]
    found = preprocessing({"rgb": RGB, "depth": {"kind": "depth"}}, "rgb", spatial_size=(32, 64))(paths)
    assert not bool(found[IMAGE][:3].any())
    assert bool(found[IMAGE][3].any())


def test_a_label_of_another_size_is_refused(tmp_path):
    paths = case(tmp_path)
    paths["label"] = str(save(tmp_path / "small.png", MASK * 255))
    with pytest.raises(RuntimeError) as error:
        pipeline()(paths)
    assert "another grid" in str(error.value.__cause__)


def test_pixels_of_a_png_are_held_against_their_checksum(tmp_path):
    """Pillow takes this file: its zlib stream lacks the last-block bit, so that checksum is never reached."""
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8))
    good, data = load_volume(path), bytearray(path.read_bytes())
    start = data.index(b"IDAT") + 4
    data[start + 2] &= ~1  # the last-block bit of the first block
    data[start + 300] ^= 4
    path.write_bytes(data)
    with Image.open(path) as taken:
        assert (np.asarray(taken) != np.rint(good[0, ..., 0].numpy() * 255)).any()
    with pytest.raises(CaseError, match=r"a\.png: .*damaged.*do not have their checksum"):
        load_volume(path)
