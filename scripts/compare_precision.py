"""What does bfloat16 do to the masks of a bundle? Dice of each with that of float32, and of both with the labels.

    python scripts/compare_precision.py bundles/sts_petctmr_segmentation validation.csv --withhold pet

The device should multiply in bfloat16; where it emulates it the masks are similar, and it takes longer.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from compare_look import dice_of

from differseg_med import api
from differseg_med.bundles.workflows import declared_modalities
from differseg_med.cohort.table import read_cohort
from differseg_med.evaluation.evaluate import read_reference
from differseg_med.evaluation.predictions import mask_file
from differseg_med.io.volumes import load_mask


def masks_of(bundle: Path, cohort: Path, withhold: Sequence[str], backend: str) -> dict[str, list[np.ndarray]]:
    """The masks of every case in float32 and in bfloat16, of the same slices."""
    found: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for amp in (False, True):
            out = Path(folder) / str(amp)
            result = api.predict(bundle, cohort, out, withhold=withhold, backend=backend, settings={"amp": amp})
            for row in result.rows:
                mask = np.asarray(load_mask(mask_file(out, str(row["case_id"])))) > 0
                found.setdefault(str(row["case_id"]), []).append(mask)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Compare, case by case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path, help="with labels their Dice is told too")
    parser.add_argument("--withhold", nargs="*", default=[], help="modalities that are left out")
    parser.add_argument("--backend", default="auto")
    chosen = parser.parse_args(words)
    cases = {case.case_id: case for case in read_cohort(chosen.cohort, declared_modalities(chosen.bundle)).cases}
    agreement, scores = [], []
    for case_id, masks in masks_of(chosen.bundle, chosen.cohort, chosen.withhold, chosen.backend).items():
        agreement.append(dice_of(*masks))
        told = f"{case_id}: {agreement[-1]:.4f}"
        if cases[case_id].label is not None:
            label = np.asarray(read_reference(cases[case_id])).reshape(masks[0].shape) > 0
            scores.append([dice_of(mask, label) for mask in masks])
            told += f", with the label {scores[-1][0]:.4f} in float32 and {scores[-1][1]:.4f} in bfloat16"
        print(told, flush=True)
    print(f"least Dice of {len(agreement)} cases {min(agreement):.4f}, mean {np.mean(agreement):.4f}", end="")
    if scores:
        means = np.mean(scores, axis=0)
        print(f"; mean Dice with the labels {means[0]:.4f} in float32 and {means[1]:.4f} in bfloat16", end="")
    print()


if __name__ == "__main__":
    main()
