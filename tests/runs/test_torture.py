"""A few trials of each part of ``scripts/torture_runs.py``; the script runs them all, and kills."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from torture import changes, faults, onto

CHANGES = (
    "threshold",
    "weights",
    "withhold",
    "formats",
    "code",
    "t1: same_size_and_date",
    "interrupted twice",
    "nothing",
)
ONTO = (
    "predict, the folder of the data, evaluate=True",
    "predict, a case that is a link, evaluate=False",
    "predict, a mask that is a hard link, evaluate=False",
    "evaluate, the labels",
    "n4 into the data",
    "folds, forced, onto a label",
    "nnunet, third channel",
    "msd onto the table",
)
FAULTS = ("evaluate", "scan below a file", "export below a file", "folds, full after 0", "msd, read-only after 0")


@pytest.mark.parametrize(
    ("part", "title"),
    [(part, title) for part, titles in ((changes, CHANGES), (onto, ONTO), (faults, FAULTS)) for title in titles],
    ids=lambda value: value if isinstance(value, str) else value.__name__.split(".")[-1],
)
def test_trials(part, title, tmp_path):
    trials = dict(part.trials(tmp_path, 0))
    (tmp_path / "place").mkdir()
    assert trials[title](tmp_path / "place") == ""


def test_a_run_that_mixes_is_caught(tmp_path, monkeypatch):
    """The trials find what they look for: masks that are kept although the settings changed."""
    monkeypatch.setattr("differseg_med.runs.manifest.Step.differences", lambda *_: [])
    trial = dict(changes.trials(tmp_path, 0))["weights"]
    (tmp_path / "place").mkdir()
    assert "stale" in trial(tmp_path / "place")


def test_a_write_onto_data_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("differseg_med.guard.Guard.owner_of_data", lambda *_: False)
    trial = dict(onto.trials(tmp_path, 0))["export onto the mask"]
    (tmp_path / "place").mkdir()
    assert "changed ['a/mask.nii.gz']" in trial(tmp_path / "place")
