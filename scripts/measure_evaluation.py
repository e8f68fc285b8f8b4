"""Time and sizes of the evaluation of many masks that are there, without a network.

    OMP_NUM_THREADS=1 python scripts/measure_evaluation.py --cases 2000

Cases are boxes in 64 x 64 x 32 voxels of 1 x 1 x 3 mm and their predictions, moved by a voxel or two; every 50th
prediction is empty.
``--code`` measures another checkout of this repository with the same files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from benchmark_predict import RUN

SHAPE, SPACING = (64, 64, 32), (1.0, 1.0, 3.0)


def write_cohort(folder: Path, cases: int) -> Path:
    """Labels, images that are the labels in grey, and predictions; returns the table."""
    random = np.random.default_rng(0)
    lines = ["case_id,subject_id,t1,label"]
    for number in range(cases):
        name = f"case_{number:05d}"
        label = np.zeros(SHAPE, np.uint8)
        start, size = random.integers(4, 20, 3), random.integers(4, 12, 3)
        label[tuple(slice(a, a + b) for a, b in zip(start, size))] = 1
        moved = np.roll(label, random.integers(-2, 3, 3), (0, 1, 2)) * (number % 50 != 0)
        voxels = {"data/label": label, "data/t1": label * np.int16(200), "masks/mask": moved.astype(np.uint8)}
        for place, array in voxels.items():
            file = folder / place.split("/")[0] / name / f"{place.split('/')[1]}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1])), file)
        lines.append(f"{name},{name},{name}/t1.nii.gz,{name}/label.nii.gz")
    table = folder / "data" / "cohort.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def main() -> int:
    """Make, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[1], help="checkout to measure")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table, out = write_cohort(folder, chosen.cases), folder / "out"
        words = ["evaluate", "--predictions", folder / "masks", "--cohort", table, "--out", out]
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(chosen.code.resolve())},
            capture_output=True,
            text=True,
        )
        after, seconds = os.times(), time.perf_counter() - start
        cpu = sum(after[2:4]) - sum(before[2:4])
        print(
            f"{chosen.cases} masks: {seconds:.0f} s, of which {cpu:.0f} s of the processor; exit code {done.returncode}"
        )
        for file in sorted(out.glob("*.html")) + sorted(out.glob("*.csv")):
            print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")
        if not (out / "metrics.csv").is_file():
            print(done.stderr[-2000:])
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
