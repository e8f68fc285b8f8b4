"""How many cases have their intensities flagged when an image is in wrong units, or in another modality's column?

    python scripts/try_flags.py bundles/sts_petctmr_segmentation COHORT.csv --split validation

Prints the table in docs/report.md. Images are changed after loading; the rest is the bundle's own preprocessing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch import Tensor

from differseg_med.case import Case
from differseg_med.cohort.table import read_cohort
from differseg_med.keys import CHANNELS, IMAGE
from differseg_med.prediction.quality import Fingerprint, flags, measure
from differseg_med.transforms.grids import original_grid
from differseg_med.transforms.loading import LoadVolumesd

Change = Callable[[Tensor], Tensor]
CHANGES: dict[str, tuple[str, Change]] = {
    "CT + 1024 HU": ("ct", lambda v: v + 1024),
    "CT + 100 HU": ("ct", lambda v: v + 100),
    "CT - 100 HU": ("ct", lambda v: v - 100),
    "PET x 1000": ("pet", lambda v: v * 1000),
    "PET x 4": ("pet", lambda v: v * 4),
    "PET x 2": ("pet", lambda v: v * 2),
    "PET / 2": ("pet", lambda v: v / 2),
    "PET / 4": ("pet", lambda v: v / 4),
    "T1 with inverted contrast": ("t1", lambda v: (v.max() - v) * (v != 0)),
}
SWAPS = (("ct", "t1"), ("pet", "t1"), ("t1", "ct"), ("pet", "ct"), ("t1", "pet"), ("ct", "pet"))


def as_it_is(volume: Tensor) -> Tensor:
    """No change: the image is only in another column."""
    return volume


def flagged(case: Case, steps: Compose, fingerprint: Fingerprint, modality: str, change: Change, source: str) -> bool:
    """Whether intensities of any modality are flagged with ``source`` in the column ``modality``, changed."""
    data: dict[str, Any] = {name: value for name, value in case.as_item().items() if name != "label"}
    data[modality] = data[source]
    for step in steps.transforms:
        data = step(data)
        if isinstance(step, LoadVolumesd):
            data[modality] = change(data[modality])
    grid = original_grid(data[IMAGE])
    mask = np.zeros(grid.shape, np.uint8)
    found = flags(mask, grid, measure(mask, grid, np.asarray(data[IMAGE]), data[CHANNELS]), fingerprint)
    return any(flag.startswith(f"intensities of {modality}") for flag in found)


def main() -> None:
    """Parse arguments and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--split", default="validation")
    arguments = parser.parse_args()
    config = ConfigParser()
    config.read_config(str(arguments.bundle / "configs" / "inference.yaml"))
    steps = config.get_parsed_content("preprocessing")
    cases = read_cohort(arguments.cohort, tuple(config["modalities"])).select(arguments.split)
    fingerprint = Fingerprint.read(arguments.bundle / "models" / "fingerprint.json")
    tried = [(name, modality, change, modality) for name, (modality, change) in CHANGES.items()]
    tried += [(f"{source} in the column {modality}", modality, as_it_is, source) for source, modality in SWAPS]
    for name, modality, change, source in tried:
        count = sum(flagged(case, steps, fingerprint, modality, change, source) for case in cases)
        print(f"| {name} | {count} of {len(cases)} |", flush=True)


if __name__ == "__main__":
    main()
