"""Measure a bundle's training cases: what the quality flags of its predictions are held against.

    python scripts/make_fingerprint.py bundles/NAME COHORT.csv [--predictions RESULTS or RUNS/cases.csv]

Training writes the same file without the last figure: how unsure the boundaries of masks usually are, taken from the
``summary.csv`` of predictions for patients that were not trained on, with every modality, or from the ``cases.csv`` of
a cross-validation: then up to the limit that tells masks with Dice below 0.7 best from the others.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from monai.bundle import ConfigParser

from differseg_med.bundles.factories import training_dataset, training_fingerprint
from differseg_med.prediction.quality import ENTROPY_SLACK, Fingerprint

LOW = 0.7
"""Dice below which a mask has failed."""


def entropy_range(rows: list[dict[str, str]]) -> tuple[float, float]:
    """What is usual: all there are, or where Dice says which masks failed, up to the limit that tells them best."""
    pairs = sorted((float(row["boundary_entropy"]), float(row.get("dice") or 1) < LOW) for row in rows)
    values, failed = [value for value, _ in pairs], [bad for _, bad in pairs]
    if not any(failed) or all(failed):
        return values[0], values[-1]
    good = len(failed) - sum(failed)
    told = [sum(failed[n:]) / sum(failed) + (n - sum(failed[:n])) / good for n in range(1, len(values))]
    best = told.index(max(told)) + 1
    return values[0], (values[best - 1] + values[best]) / 2 / ENTROPY_SLACK


def main() -> None:
    """Parse arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--split", default="train", help="rows of the training cases")
    parser.add_argument("--predictions", type=Path, help="results of differseg-med predict, or cases.csv of folds")
    parser.add_argument("--out", type=Path, help="default: models/fingerprint.json of the bundle")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = arguments.out or arguments.bundle / "models" / "fingerprint.json"
    config = ConfigParser()
    config.read_config(str(arguments.bundle / "configs" / "inference.yaml"))
    config["bundle_root"] = str(arguments.bundle)
    transform = config.get_parsed_content("preprocessing")
    cohort, modalities = arguments.cohort, config["modalities"]
    with tempfile.TemporaryDirectory() as cache:
        cases = training_dataset(cohort, modalities, transform, cache, split=arguments.split)
    training_fingerprint(cohort, modalities, cases, out)
    if arguments.predictions:
        table = arguments.predictions
        with (table / "summary.csv" if table.is_dir() else table).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["boundary_entropy"]]
        found = Fingerprint.read(out)
        ranges = found.ranges | {"boundary_entropy": entropy_range(rows)}
        replace(found, ranges=ranges).write(out)
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
