"""Overlays: the right slices, the right way round, the right size in mm."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from nibabel.affines import apply_affine

from differseg_med.reports import overlay as image
from differseg_med.reports.colors import MASK_COLOR, REFERENCE_COLOR
from differseg_med.reports.overlay import VIEWS, closest_ras, save_overlay

pytestmark = pytest.mark.usefixtures("all_pixels")

SHAPE = (20, 30, 12)
RIGHT_ANTERIOR_SUPERIOR = (18, 27, 10)


@pytest.fixture
def marked():
    """Dark, but for a bright voxel near the right, anterior, superior corner."""
    volume = np.zeros(SHAPE, np.float32)
    volume[RIGHT_ANTERIOR_SUPERIOR] = 1
    return volume


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "ILP", "PIR"])
def test_closest_ras_turns_voxels_and_spacing(codes, marked):
    stored = nib.Nifti1Image(marked, np.diag([2.0, 3.0, 5.0, 1.0])).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    assert nib.aff2axcodes(stored.affine) == tuple(codes)
    turned, spacing = closest_ras(np.asarray(stored.dataobj), stored.affine)
    np.testing.assert_array_equal(turned, marked)
    assert spacing == (2.0, 3.0, 5.0)


@pytest.mark.parametrize(("plane", "right_to_left", "low_to_high"), zip(VIEWS, ("RL", "RL", "AP"), ("PA", "IS", "IS")))
def test_planes_are_radiological(plane, right_to_left, low_to_high, marked):
    """Right is on the left of the picture, anterior on the left of sagittal ones, and letters say so."""
    assert plane.letters == right_to_left + low_to_high
    picture = image._slice(marked, plane, RIGHT_ANTERIOR_SUPERIOR)
    row, column = np.argwhere(picture)[0]
    ends = {"R": 1, "L": 0, "A": 1, "P": 0, "S": 1, "I": 0}  # the marked voxel is near R, A and S
    assert (column < picture.shape[1] / 2) == bool(ends[plane.letters[0]])
    assert (row >= picture.shape[0] / 2) == bool(ends[plane.letters[3]])  # origin below


def test_planes_go_through_the_centre_of_gravity():
    mask, reference, empty = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    mask[2:5, 10:13, 6:9] = 1
    reference[10, 20, 3] = 1
    assert image._center([mask, reference], SHAPE) == (3, 11, 7)
    assert image._center([empty, reference], SHAPE) == (10, 20, 3)
    assert image._center([empty, empty], SHAPE) == (10, 15, 6)


def box_of_color(path, color):
    pixels = imread(path)[..., :3]
    where = np.argwhere(np.abs(pixels - to_rgb(color)).max(axis=-1) < 0.05)
    return where.min(axis=0), where.max(axis=0)


def test_outlines_have_the_aspect_of_the_patient(tmp_path):
    """A cube of 12 mm in voxels of 1 x 2 x 4 mm is square in every plane."""
    mask = np.zeros((36, 18, 9), np.uint8)
    mask[12:24, 6:12, 3:6] = 1
    path = save_overlay(np.zeros(mask.shape), mask, tmp_path / "a.png", spacing_mm=(1.0, 2.0, 4.0))
    pixels = imread(path)[..., :3]
    colored = np.abs(pixels - to_rgb(MASK_COLOR)).max(axis=-1) < 0.05
    colored[int(0.8 * len(colored)) :] = False  # the legend
    columns = np.flatnonzero(colored.any(axis=0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 20) + 1)
    assert len(groups) == 3
    for group in groups:
        rows = np.flatnonzero(colored[:, group].any(axis=1))
        assert np.ptp(rows) == pytest.approx(np.ptp(group), abs=4)


def test_one_row_per_background_and_two_outlines(tmp_path):
    rng = np.random.default_rng(0)
    mask, reference = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    mask[4:10, 5:20, 3:9] = 1
    reference[6:14, 8:25, 3:9] = 1
    one = save_overlay(rng.random(SHAPE), mask, tmp_path / "one.png", spacing_mm=(1, 1, 2), reference=reference)
    two = save_overlay(
        {"t1": rng.random(SHAPE), "ct": rng.normal(0, 300, SHAPE)},
        mask,
        tmp_path / "two.png",
        spacing_mm=(1, 1, 2),
        title="x",
    )
    assert imread(two).shape[0] > 1.4 * imread(one).shape[0]
    assert imread(two).shape[1] == imread(one).shape[1]
    for color in (MASK_COLOR, REFERENCE_COLOR):
        assert box_of_color(one, color)[1][0] > 0
    with pytest.raises(ValueError, match="zero-size"):
        box_of_color(two, REFERENCE_COLOR)


def test_grey_values_are_where_they_belong_and_what_is_no_number_is_black(tmp_path):
    """White to the patient's right, nothing known in the middle: axial and coronal pictures are white at their left."""
    volume = np.ones(SHAPE, np.float32)
    volume[:10], volume[8:12] = 0.5, np.nan
    window = {"ct": (0.0, 1.0)}
    path = save_overlay({"ct": volume}, None, tmp_path / "a.png", spacing_mm=(1, 1, 1), windows=window)
    pixels = imread(path)[..., 0]
    row = pixels[int(0.45 * len(pixels))]  # between the letters
    kinds = [value for value, _ in itertools.groupby(row.round(1)) if value in (0.0, 0.5, 1.0)]
    assert kinds[:6] == [1.0, 0.0, 0.5] * 2


@pytest.mark.parametrize(
    ("mask", "reference", "words"),
    [
        (np.ones(SHAPE), np.ones(SHAPE), ["Dice 1.000", "mask", "reference"]),
        (np.zeros(SHAPE), np.ones(SHAPE), ["Dice 0.000", "mask (empty)", "reference"]),
        (np.zeros(SHAPE), np.zeros(SHAPE), ["Dice 1.000", "mask (empty)", "reference (empty)"]),
        (np.ones(SHAPE), None, ["mask"]),
        (None, np.ones(SHAPE), ["reference"]),
    ],
)
def test_the_words_on_the_picture(mask, reference, words, tmp_path, monkeypatch):
    figures = []
    encoded = image.encoded
    monkeypatch.setattr(image, "encoded", lambda figure, suffix: figures.append(figure) or encoded(figure, suffix))
    save_overlay(np.zeros(SHAPE), mask, tmp_path / "a.png", spacing_mm=(1, 1, 1), reference=reference, title="case_7")
    (figure,) = figures
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [word for word in words if not word.startswith("Dice")]
    assert figure.get_suptitle().startswith("case_7")
    assert ("Dice" in figure.get_suptitle()) == (mask is not None and reference is not None)
    assert words[0] in figure.get_suptitle() + " ".join(texts)
    assert "Radiological convention" in figure.get_supxlabel()
    letters = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert letters == set("RLAPSI")


def test_grey_values_ignore_what_is_no_tissue():
    volume = np.zeros((10, 10, 10), np.float32)
    volume[5:] = np.linspace(100, 200, 500).reshape(5, 10, 10)
    volume[0, 0, 0] = np.nan
    low, high = image._window(volume)
    assert (low, high) == pytest.approx((101, 199), abs=1)
    assert image._window(np.zeros((2, 2, 2))) == (0.0, 1.0)
    low, high = image._window(np.full((2, 2, 2), 7.0))
    assert low < high


def test_shapes_that_differ_are_refused(tmp_path):
    for shapes in itertools.permutations([(4, 4, 4), (4, 4, 5)]):
        with pytest.raises(ValueError, match="one shape"):
            save_overlay(np.zeros(shapes[0]), np.zeros(shapes[1]), tmp_path / "a.png", spacing_mm=(1, 1, 1))
    with pytest.raises(ValueError, match="one shape"):
        save_overlay(np.zeros((4, 4)), np.zeros((4, 4)), tmp_path / "a.png", spacing_mm=(1, 1, 1))
    assert not list(tmp_path.iterdir())


def test_oblique_volumes_go_to_the_nearest_axes():
    angle = np.radians(10)
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    affine[:2, :2] = [[-np.cos(angle), -np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    volume = np.arange(24).reshape(2, 3, 4)
    turned, spacing = closest_ras(volume, affine)
    np.testing.assert_array_equal(turned, volume[::-1])
    assert spacing == pytest.approx((1, 1, 3))
    assert apply_affine(affine, [1, 0, 0])[0] < 0
