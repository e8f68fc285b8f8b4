"""Pictures: the benchmark measures against published values, and masks against hand-counted pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from differseg_med.case import Case
from differseg_med.evaluation.compare import compare
from differseg_med.evaluation.evaluate import evaluate_case, evaluate_cohort
from differseg_med.metrics.case import Settings

SOD = Path(__file__).parents[2] / "../shared/data/sod_metrics"
PUBLISHED = {
    "s_measure": "Smeasure",
    "e_adaptive": "adpEm",
    "e_mean": "meanEm",
    "e_max": "maxEm",
    "f_weighted": "wFmeasure",
    "f_adaptive": "adpFm",
    "f_mean": "meanFm",
    "f_max": "maxFm",
    "mae": "MAE",
}


def sod_cases() -> list[Case]:
    return [Case(p.stem, p.stem, {}, p) for p in sorted((SOD / "test_data" / "masks").iterdir())]


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def square(tmp_path: Path) -> Case:
    """A picture of 20 x 30 with a mask of 10 x 10."""
    mask = np.zeros((20, 30))
    mask[5:15, 10:20] = 255
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3))
    return Case("a", "a", {"rgb": write(tmp_path / "rgb.png", rgb)}, write(tmp_path / "label.png", mask))


@pytest.mark.skipif(not SOD.is_dir(), reason="shared data are not there")
def test_published_values_are_reproduced(tmp_path):
    found = evaluate_cohort(sod_cases(), SOD / "test_data" / "preds", tmp_path, settings=Settings(stretch=True))
    expected = json.loads((SOD / "version_performance.json").read_text())["v1_4_0"]
    assert found.summary["saliency"] == pytest.approx({ours: expected[p] for ours, p in PUBLISHED.items()}, abs=1e-9)
    assert json.loads((tmp_path / "metrics.json").read_text())["saliency"] == found.summary["saliency"]
    assert "stretched" in (tmp_path / "evaluation.html").read_text()


@pytest.mark.skipif(not SOD.is_dir(), reason="shared data are not there")
def test_maps_are_not_stretched_unless_asked(tmp_path):
    found = evaluate_cohort(sod_cases(), SOD / "test_data" / "preds", tmp_path)
    expected = json.loads((SOD / "version_performance.json").read_text())["v1_4_0"]
    assert found.summary["saliency"]["mae"] != pytest.approx(expected["MAE"], abs=1e-5)
    mae = []
    for case in sod_cases():
        saliency = np.asarray(Image.open(SOD / "test_data" / "preds" / case.label.name)) / 255
        mae.append(np.abs(saliency - (np.asarray(Image.open(case.label).convert("L")) > 128)).mean())
    assert found.summary["saliency"]["mae"] == pytest.approx(np.mean(mae), abs=1e-9)


def test_masks_and_maps_are_measured_by_pixels(square, tmp_path):
    mask, saliency = np.zeros((20, 30)), np.full((20, 30), 51)
    mask[5:15, 15:25] = 255
    write(tmp_path / "predictions" / "a" / "mask.png", mask)
    write(tmp_path / "predictions" / "a" / "probability.png", saliency)
    (row,) = evaluate_cohort([square], tmp_path / "predictions", tmp_path / "out").rows
    assert row["dice"] == pytest.approx(2 * 50 / 200)
    assert row["iou"] == pytest.approx(50 / 150)
    assert row["mae"] == pytest.approx((100 * 0.8 + 500 * 0.2) / 600)
    assert row["reference_percent"] == pytest.approx(100 * 100 / 600)
    assert not [name for name in row if name.endswith(("_mm", "_ml"))]
    assert (tmp_path / "out" / "overlays" / "a.png").is_file()


@pytest.mark.parametrize("high", [1, 255])
def test_a_mask_of_another_program_may_be_0_and_1(square, tmp_path, high):
    file = write(tmp_path / "a.png", np.asarray(Image.open(square.label)) // 255 * high)
    row, notice = evaluate_case(square, file)
    assert (row["dice"], row["mae"], notice) == (1.0, 0.0, "")


def test_a_map_of_another_size_is_resized_and_said_so(square, tmp_path):
    with Image.open(square.label) as label:
        small = np.asarray(label.resize((15, 10), Image.Resampling.BOX))
    row, notice = evaluate_case(square, write(tmp_path / "a.png", small))
    assert row["dice"] > 0.9
    assert notice == "resized from 10 x 15 pixels to the label's 20 x 30"


def test_a_missing_map_counts_as_black(square, tmp_path):
    row, notice = evaluate_case(square, tmp_path / "a.png")
    assert (row["dice"], row["empty"]) == (0.0, "prediction")
    assert row["mae"] == pytest.approx(100 / 600)
    assert "no prediction" in notice


def test_models_of_pictures_are_compared(square, tmp_path):
    for name, shift in (("first", 5), ("second", 1)):
        write(tmp_path / name / "p" / "a.png", np.roll(np.asarray(Image.open(square.label)), shift, axis=1))
        evaluate_cohort([square], tmp_path / name / "p", tmp_path / name)
    tables = {name: tmp_path / name / "metrics.csv" for name in ("first", "second")}
    (found,) = compare(tables, tmp_path / "comparison")
    assert found.measure == "dice"
    assert found.mean_difference == pytest.approx(0.9 - 0.5)
