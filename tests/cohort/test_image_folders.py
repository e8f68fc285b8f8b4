"""Folders of pictures become cohort tables: paired by name, whatever else lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.cohort.image_folders import find_images2d, with_validation
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.io.volumes import load_mask

COLUMNS = {"rgb": "image", "depth": "depth"}


def picture(path: Path, size: tuple[int, int] = (16, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits; in training b has no mask, c no depth, and d two images."""
    for name in ("image/a.jpg", "image/b.jpg", "image/c.jpg", "image/d.jpg", "image/d.png"):
        picture(tmp_path / "Train" / name)
    for name in ("depth/a.png", "depth/b.png", "depth/d.png", "mask/a.png", "mask/c.png", "mask/d.png", "mask/z.png"):
        picture(tmp_path / "Train" / name)
    for folder in ("image", "depth", "mask"):
        picture(tmp_path / "Test" / folder / "a.png", (8, 12) if folder == "depth" else (16, 24))
    (tmp_path / "Train" / "image" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_files_are_paired_by_name_and_the_rest_is_listed(root):
    found = find_images2d(root, COLUMNS, "mask")
    assert [(c.case_id, c.split) for c in found.cases] == [("test_a", "test"), ("train_a", "train")]
    assert found.cases[1].images == {"rgb": root / "Train/image/a.jpg", "depth": root / "Train/depth/a.png"}
    assert found.left_out == (
        "image/d: 2 files of that name",
        "train/b: nothing in mask",
        "train/c: nothing in depth",
        "train/d: nothing in image",
        "train/z: nothing in image, depth",
    )
    assert found.resized == ("test_a: depth has 8x12 pixels, rgb 16x24",)


def test_folders_may_lie_in_the_root(root):
    found = find_images2d(root / "Test", {"image": "image"})
    assert [(c.case_id, c.split, c.label) for c in found.cases] == [("a", "", None)]


def test_frames_of_a_video_stay_together(tmp_path):
    for name in ("cat_000", "cat_008", "dog_000", "dog_008", "elk_000"):
        picture(tmp_path / "image" / f"{name}.png")
    cases = find_images2d(tmp_path, {"rgb": "image"}, sequence=r"(.*)_\d+").cases
    assert [c.subject_id for c in cases] == ["cat", "cat", "dog", "dog", "elk"]
    assert [c.split[0] for c in with_validation(cases, last=1)] == list("ttttv")
    assert [c.split[0] for c in with_validation(cases, every=2)] == list("vvttv")
    assert {c.split for c in with_validation(cases)} == {"train"}


def test_missing_folders_and_partners_are_told(tmp_path):
    with pytest.raises(CaseError, match=r"are not here \(expected image, depth, or a folder per split"):
        find_images2d(tmp_path, COLUMNS)
    picture(tmp_path / "image" / "a.png")
    picture(tmp_path / "depth" / "b.png")
    with pytest.raises(CaseError, match=r"no image has a file of every modality.*a: nothing in depth"):
        find_images2d(tmp_path, COLUMNS)


def test_the_command_writes_a_table_that_reads_back(root, tmp_path):
    options = f"--root {root} --modalities rgb=image,depth --mask mask --mask-foreground black --out {tmp_path}/c.csv"
    result = CliRunner().invoke(app, ["cohort", "import", "folders", *options.split()])
    assert result.exit_code == 0, result.output
    assert "left out: train/c: nothing in depth" in result.output
    assert "2 cases (1 test, 1 train), 2 subjects" in result.output
    cases = read_cohort(tmp_path / "c.csv", ("rgb", "depth")).cases
    assert [c.case_id for c in cases] == ["test_a", "train_a"]
    assert bool((load_mask(cases[0].label) == 1).all())  # all black, and black is the foreground
