"""The five fixed folds of the sarcoma patients, which every figure of the bundle is measured on."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

FOLDS = Path(__file__).parents[2] / "bundles" / "sts_petctmr_segmentation" / "docs" / "folds.csv"


def rows() -> list[dict[str, str]]:
    with FOLDS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_of_the_forty_patients_is_in_one_fold_of_eight():
    assert len({row["case"] for row in rows()}) == len(rows()) == 40
    assert Counter(row["fold"] for row in rows()) == dict.fromkeys("01234", 8)


def test_scanners_and_volumes_are_spread_over_the_folds():
    for part in range(2):
        levels = Counter((row["stratum"].split("; ")[part], row["fold"]) for row in rows())
        for level in {level for level, _ in levels}:
            counts = [levels[level, fold] for fold in "01234"]
            assert max(counts) - min(counts) <= 2, (level, counts)
