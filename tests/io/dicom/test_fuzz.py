"""A few hundred damaged files; ``scripts/fuzz_dicom.py`` reads 2,000."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from support.making import ORIGIN, SLICES, STEP, axes, save, slices

from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label

SCRIPT = Path(__file__).parents[3] / "scripts" / "fuzz_dicom.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fuzz_dicom", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_refused_or_right(script):
    counts, bad = script.fuzz(256, seed=1)
    assert bad == []
    assert counts["refused"] > 50
    assert counts["read"] > 20  # else the damage is too great to test anything


def test_the_judge_sees_wrong_geometry(script, tmp_path):
    """What the fuzzer says when slices are read that lie between those of the undamaged series."""
    series = {"ct": save(tmp_path / "ct", slices(angles=script.ANGLES))}
    between = axes(script.ANGLES)[2] * STEP * (np.arange(SLICES)[:, None] + 0.3)
    folder = save(tmp_path / "moved", slices(angles=script.ANGLES, positions=ORIGIN + between))
    assert script.outcome("ct", folder, series["ct"]).startswith("wrong geometry")
    assert script.outcome("ct", series["ct"], series["ct"]) == "read"


def test_a_contour_of_no_known_type_of_value(script, tmp_path):
    series = script.make_series(tmp_path)
    path = next(series["rtstruct"].iterdir())
    path.write_bytes(path.read_bytes().replace(b"\6\x30\x42\0CS", b"\6\x30\x42\0CC"))
    with pytest.raises(CaseError, match="cannot be read"):
        load_label(f"{path}::GTV", [series["ct"]])
