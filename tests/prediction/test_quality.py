"""Quality flags: figures computed by hand or by SciPy, and each flag with and without its reason."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support.synthetic import affine_of

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.metrics.case import boundary_entropy
from differseg_med.prediction.quality import Fingerprint, flags, measure

SHAPE, SPACING = (20, 16, 10), (1.0, 2.0, 3.0)
GRID = Grid(SHAPE, affine_of(SPACING))
IMAGE = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


def box(*ranges: tuple[int, int], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(*r) for r in ranges)] = 1
    return mask


INSIDE = box((5, 10), (4, 8), (3, 6))  # 5 x 4 x 3 voxels of 6 mm3


def said(mask: np.ndarray, grid: Grid = GRID, fingerprint: Fingerprint | None = None, **others) -> list[str]:
    return flags(mask, grid, measure(mask, grid, IMAGE, ("t1", "ct")) | others, fingerprint)


def test_measures_are_those_of_scipy_and_of_a_ruler():
    image = IMAGE.copy()
    image[0, :5] = 0  # no data counts for nothing
    found = measure(INSIDE, GRID, image, ("t1", "ct"))
    assert found["volume_ml"] == pytest.approx(0.36)
    assert (found["pieces"], found["spacing_finest_mm"], found["spacing_coarsest_mm"]) == (1, 1, 3)
    assert (found["extent_shortest_mm"], found["extent_longest_mm"]) == (20, 32)
    assert found["t1_p25"] == pytest.approx(stats.scoreatpercentile(image[0, 5:].astype(float), 25), abs=1e-5)
    assert "boundary_entropy" not in found


def test_an_absent_modality_has_no_figures_and_colours_are_one():
    image = np.stack([IMAGE[0], IMAGE[1], np.zeros(SHAPE, np.float32)])
    found = measure(INSIDE, GRID, image, ("rgb", "rgb", "depth"))
    assert found["rgb_p95"] == pytest.approx(np.percentile(image[:2], 95), abs=1e-6)
    assert not any(name.startswith("depth") for name in found)


def test_entropy_at_the_boundary_is_that_of_scipy():
    p = np.where(INSIDE, 0.9, 0.2)
    # The band reaches 4 mm to both sides: 4, 2 and 1 voxels; of the box only the innermost voxel is farther inside.
    outer = box((1, 14), (2, 10), (2, 7)).astype(bool)
    inner = box((9, 6), (6, 6), (4, 5)).astype(bool)
    band = outer & ~inner
    expected = np.mean([stats.entropy([x, 1 - x], base=2) for x in p[band]])
    assert boundary_entropy(INSIDE, p, SPACING) == pytest.approx(expected)
    assert boundary_entropy(INSIDE, np.full(SHAPE, 0.5), SPACING) == pytest.approx(1.0)
    assert boundary_entropy(INSIDE, INSIDE.astype(float), SPACING) == pytest.approx(0.0, abs=1e-5)
    assert boundary_entropy(np.zeros(SHAPE, np.uint8), p, SPACING) is None
    assert boundary_entropy(np.ones(SHAPE, np.uint8), p, SPACING) is None


def test_a_mask_inside_one_piece_gives_no_flag_an_empty_one_does():
    assert said(INSIDE) == []
    assert said(np.zeros(SHAPE, np.uint8)) == ["the mask is empty"]


@pytest.mark.parametrize(
    ("codes_flip", "mask", "words"),
    [
        ((1, 1, 1), box((0, 3), (4, 8), (3, 6)), "left (0.7 cm2)"),  # 4 x 3 faces of 2 x 3 mm
        ((1, 1, 1), box((5, 10), (4, 8), (8, 10)), "superior (0.4 cm2)"),  # 5 x 4 faces of 1 x 2 mm
        ((1, 1, -1), box((5, 10), (4, 8), (8, 10)), "inferior (0.4 cm2)"),
        ((-1, 1, 1), box((0, 3), (0, 8), (3, 6)), "right (1.4 cm2), posterior (0.3 cm2)"),
    ],
)
def test_a_mask_at_the_border_says_on_which_side_of_the_patient(codes_flip, mask, words):
    grid = Grid(SHAPE, np.diag([*np.multiply(SPACING, codes_flip), 1.0]))
    (flag,) = said(mask, grid)
    assert flag == f"the mask touches the border of the field of view (the target may continue outside): {words}"


def test_a_single_slice_is_no_border():
    mask = box((5, 10), (4, 8), (0, 1), shape=(20, 16, 1))
    assert said(mask, Grid((20, 16, 1), affine_of(SPACING))) == []


def test_pieces_are_compared_with_training():
    mask = INSIDE | box((15, 17), (4, 8), (3, 6))  # 60 and 24 voxels
    assert said(mask) == ["the mask has 2 connected components, the largest with 71% of its volume"]
    assert said(mask, fingerprint=Fingerprint(3, {"pieces": (1, 1)})) == [
        "the mask has 2 connected components (in training at most 1), the largest with 71% of its volume"
    ]
    assert said(mask, fingerprint=Fingerprint(3, {"pieces": (1, 4)})) == []


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("volume_ml", (1.0, 2.0), "volume 0.4 ml, in training 1 to 2"),
        ("volume_ml", (0.01, 0.28), "volume 0.4 ml, in training 0.01 to 0.28"),
        ("volume_ml", (0.44, 0.5), ""),  # within the slack of 1.25
        ("spacing_coarsest_mm", (1.0, 1.5), "coarsest voxel spacing 3.00 mm, in training 1 to 1.5"),
        ("extent_longest_mm", (100.0, 120.0), "longest edge of the field of view 32 mm, in training 100 to 120"),
        ("ct_p75", (3.0, 4.0), "intensities of ct unlike training: 75th percentile 0."),
        ("ct_p75", (0.0, 2.0), ""),
        ("ct_p75", (0.8, 1.8), ""),  # half a width below the lowest
    ],
)
def test_what_is_outside_training_is_said_with_figures(name, limits, words):
    found = said(INSIDE, fingerprint=Fingerprint(9, {"pieces": (1, 1), name: limits}))
    assert [flag.startswith(words) for flag in found] == [True] * bool(words)


def test_no_flag_holds_the_separator_of_the_summary():
    """``flags`` in summary.csv joins them with a semicolon, and the report takes them apart again."""
    mask = box((0, 20), (0, 3), (0, 10)) | box((5, 6), (10, 11), (4, 5))
    low = {
        "pieces": (1, 1),
        "volume_ml": (9, 9),
        "ct_p75": (7, 8),
        "boundary_entropy": (0, 0.1),
        "extent_longest_mm": (1, 2),
    }
    found = said(mask, fingerprint=Fingerprint(2, low), boundary_entropy=0.9)
    assert len(found) == 6
    assert not any(";" in flag for flag in found)


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        ({"t1": 9, "ct": 9, "pet": 9}, ["pet is absent, and all 9 training cases had it"]),
        ({"t1": 9, "ct": 1, "pet": 8}, []),  # one training case had no PET either
        ({"t1": 9, "ct": 0, "pet": 0}, ["ct was in no training case: the network does not know it"]),
        ({}, []),  # a fingerprint that does not say
    ],
)
def test_modalities_are_compared_with_training(trained, words):
    assert said(INSIDE, fingerprint=Fingerprint(9, {}, trained)) == words


def test_what_was_withheld_is_no_news():
    trained = Fingerprint(9, {}, {"t1": 9, "ct": 9, "pet": 9, "mr2": 9})
    found = flags(INSIDE, GRID, measure(INSIDE, GRID, IMAGE, ("t1", "ct")), trained, withheld=["pet"])
    assert found == ["mr2 is absent, and all 9 training cases had it"]


def test_an_unsure_boundary_is_flagged_beyond_what_is_usual():
    usual = Fingerprint(9, {"boundary_entropy": (0.4, 0.6)})
    assert said(INSIDE, fingerprint=usual, boundary_entropy=0.62) == []
    assert said(INSIDE, fingerprint=usual, boundary_entropy=0.7) == [
        "unsure boundary: mean entropy 0.70 bits, usually up to 0.60"
    ]


def test_a_fingerprint_survives_its_file_and_other_files_are_refused(tmp_path):
    found = Fingerprint.of([{"volume_ml": 3.0, "t1_p5": -1.5}, {"volume_ml": 1.0}], ("t1", "ct", "ct"))
    assert found == Fingerprint(2, {"t1_p5": (-1.5, -1.5), "volume_ml": (1.0, 3.0)}, {"t1": 1, "ct": 0})
    found.write(tmp_path / "fingerprint.json")
    assert Fingerprint.read(tmp_path / "fingerprint.json") == found
    for text in ("{}", "[]", '{"cases": 1, "ranges": {"a": 3}}', "x"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(CaseError, match="not a fingerprint"):
            Fingerprint.read(tmp_path / "other.json")
