"""Measure a bundle's training cases: what the quality flags of its predictions are held against.

    python scripts/make_fingerprint.py bundles/NAME COHORT.csv [--predictions RESULTS]

Training writes the same file without the last figure: how unsure the boundaries of masks usually are, taken from the
``summary.csv`` of predictions for patients that were not trained on, with every modality.
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
from differseg_med.prediction.quality import Fingerprint


def main() -> None:
    """Parse arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--split", default="train", help="rows of the training cases")
    parser.add_argument("--predictions", type=Path, help="results of differseg-med predict")
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
        with (arguments.predictions / "summary.csv").open(newline="", encoding="utf-8") as file:
            entropy = [float(row["boundary_entropy"]) for row in csv.DictReader(file) if row["boundary_entropy"]]
        found = Fingerprint.read(out)
        ranges = found.ranges | {"boundary_entropy": (min(entropy), max(entropy))}
        replace(found, ranges=ranges).write(out)
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
