"""A run over pictures, most of them bad: reasons in summary.csv, results of the others, and going on after it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import exit_code

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "davis_rgbflow_segmentation"
GOOD, NO_FLOW = "parkour_00016", "scooter-black_00024"
REASONS = {
    "truncated": "cannot be read",
    "pixel": "hardly any pixels",
    "print": "colours for print",
    "animated": "several images",
    "folder": "name the file itself",
    "label": "not black and white",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, int, Path]:
    """The folder of the results, the exit code and the table."""
    root = tmp_path_factory.mktemp("pictures")
    shutil.copytree(BUNDLE / "sample", root, dirs_exist_ok=True)
    rgb = Image.open(root / "rgb" / f"{GOOD}.jpg")
    (root / "truncated.jpg").write_bytes((root / "rgb" / f"{GOOD}.jpg").read_bytes()[:9000])
    rgb.resize((1, 1)).save(root / "pixel.png")
    rgb.convert("CMYK").save(root / "print.jpg")
    rgb.save(root / "animated.png", save_all=True, append_images=[rgb.rotate(90)])
    (root / "folder.png").mkdir()
    levels = np.linspace(0, 300, rgb.height * rgb.width).reshape(rgb.height, rgb.width)
    Image.fromarray(levels.astype(np.uint16)).save(root / "label.png")
    names = {"truncated": "truncated.jpg", "print": "print.jpg"}
    rows = ["case_id,rgb,flow,label", f"{GOOD},rgb/{GOOD}.jpg,flow/{GOOD}.jpg,mask/{GOOD}.png"]
    rows.append(f"{NO_FLOW},rgb/{NO_FLOW}.jpg,,mask/{NO_FLOW}.png")
    for case in REASONS:
        image = f"rgb/{GOOD}.jpg" if case == "label" else names.get(case, f"{case}.png")
        label = "label.png" if case == "label" else f"mask/{GOOD}.png"
        rows.append(f"{case},{image},flow/{GOOD}.jpg,{label}")
    (root / "cohort.csv").write_text("\n".join(rows))
    code = exit_code(BundleRun(BUNDLE, ["inference", "evaluate"], root / "cohort.csv", root / "out").run)
    return root / "out", code, root / "cohort.csv"


def test_bad_files_are_told_and_the_others_are_done(run):
    folder, code, _ = run
    assert code == 1
    summary = pd.read_csv(folder / "summary.csv", keep_default_na=False).set_index("case_id")
    assert list(summary.status) == ["done", "done", *["failed"] * len(REASONS)]
    for case, reason in REASONS.items():
        assert reason in summary.reason[case]
        assert not (folder / case).exists()
    assert list(summary.modalities[:2]) == ["rgb+flow", "rgb"]
    assert 0 < float(summary.area_percent[GOOD]) < 20
    assert not any(summary.volume_ml)


def test_results_have_the_size_of_the_picture(run):
    folder, _, table = run
    with Image.open(table.parent / "rgb" / f"{GOOD}.jpg") as rgb:
        for name in ("mask.png", "probability.png"):
            with Image.open(folder / GOOD / name) as image:
                assert (image.mode, image.size) == ("L", rgb.size)
    mask, probability = (np.asarray(Image.open(folder / GOOD / n)) for n in ("mask.png", "probability.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert probability[mask > 0].min() >= 127
    assert (folder / GOOD / "overlay.png").is_file()
    assert not list(folder.glob("*/*.nii.gz"))


def test_scores_are_those_of_pictures(run):
    metrics = pd.read_csv(run[0] / "metrics.csv").set_index("case_id")
    assert metrics.dice[GOOD] > 0.5
    assert {"iou", "s_measure", "e_mean", "f_weighted", "mae"} <= set(metrics.columns)
    assert not [name for name in metrics.columns if name.endswith(("_mm", "_ml"))]
    assert metrics.status.value_counts().to_dict() == {"failed": len(REASONS), "done": 2}


def test_a_second_run_goes_on(run):
    folder, _, table = run
    before = (folder / GOOD / "mask.png").stat().st_mtime_ns
    assert exit_code(BundleRun(BUNDLE, ["inference", "evaluate"], table, folder, {"resume": True}).run) == 1
    assert (folder / GOOD / "mask.png").stat().st_mtime_ns == before
    assert pd.read_csv(folder / "metrics.csv").set_index("case_id").dice[GOOD] > 0.5
