"""Cross-validation end to end: what is trained on what, what is kept, and what is refused."""

from __future__ import annotations

import csv
import json
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.synthetic import BUNDLE, row_of, write_case, write_table
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app

TINY = {
    "network_def::encoder_weights": None,
    "network_def::decoder_channels": [8, 8, 8, 8],
    "roi_size": [32, 32],
    "planes": ["axial"],
    "pixdim": [3.0, 3.4, 6.2],
    "batch_size": 2,
    "iterations": 1,
    "max_epochs": 2,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two folds of two patients, a row without a label and one for the test."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number, (case, fold) in enumerate([("a", "0"), ("b", "0"), ("c", "1"), ("d", "1"), ("e", "1"), ("t", "")]):
        files = write_case(folder / case, seed=number)
        rows.append(row_of(case, files, folder / "cohort.csv", fold=fold, split="test" if case == "t" else "train"))
    rows[1]["pet"] = ""
    rows[4]["label"] = ""
    return write_table(folder / "cohort.csv", rows)


def run(table: Path, out: Path, **options):
    settings = {**TINY, **options.pop("settings", {})}
    return ds.train_folds(BUNDLE, table, out, device="cpu", settings=settings, **options)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory) -> tuple[Path, ds.FoldsResult, float]:
    """An uninterrupted run, and how many seconds it took."""
    out, start = tmp_path_factory.mktemp("folds") / "out", time.perf_counter()
    result = run(table, out)
    return out, result, time.perf_counter() - start


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run(done):
    print(done)
