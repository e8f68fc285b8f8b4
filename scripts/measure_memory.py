"""Peak memory of a training by the number of its cases: ``python scripts/measure_memory.py --cases 20 2000``.

Each number is a process of its own that trains the sarcoma bundle for one short epoch on synthetic cases of three
modalities, with a tiny network. A few different cases are written; the others are hard links to them under names of
their own, so that each is prepared and cached as a case. Needs as much disk as the cache, which is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel
import numpy as np

from differseg_med.case import Case
from differseg_med.cohort.table import write_cohort

BUNDLE = Path(__file__).parents[1] / "bundles" / "sts_petctmr_segmentation"
MODALITIES, DIFFERENT = ("t1", "ct", "pet"), 4
SETTINGS = {
    "device": "cpu",
    "network_def::encoder": "test_resnet",
    "network_def::decoder_channels": [8, 8, 8, 8],
    "network_def::encoder_weights": None,
    "max_epochs": 1,
    "batch_size": 8,
}


def write_cases(folder: Path, count: int, shape: tuple[int, ...]) -> Path:
    """The table of ``count`` cases to train, of ``shape`` voxels of 2 mm."""
    random, affine, cases = np.random.default_rng(0), np.diag([2.0, 2.0, 2.0, 1.0]), []
    for number in range(count):
        place = folder / f"case_{number:04d}"
        place.mkdir(parents=True)
        files = {name: place / f"{name}.nii" for name in (*MODALITIES, "mask")}
        for name, file in files.items():
            if number >= DIFFERENT:
                os.link(folder / f"case_{number % DIFFERENT:04d}" / file.name, file)
                continue
            voxels = random.integers(1, 200, shape).astype(np.int16)
            if name == "mask":
                voxels = np.zeros(shape, np.uint8)
                voxels[tuple(slice(n // 3, n // 2) for n in shape)] = 1
            nibabel.save(nibabel.Nifti1Image(voxels, affine), file)
        images = {name: files[name] for name in MODALITIES}
        cases.append(Case(place.name, place.name, images, files["mask"], "train"))
    write_cohort(folder / "cohort.csv", MODALITIES, cases)
    return folder / "cohort.csv"


def train(folder: Path, steps: int) -> None:
    """Train on the table of a folder; print the peak of the memory and the time."""
    from differseg_med.bundles.workflows import BundleRun

    imported, start = peak_gb(), time.process_time()
    settings = {**SETTINGS, "iterations": steps}
    BundleRun(BUNDLE, ["inference", "train"], folder / "cohort.csv", folder / "out", settings=settings).run()
    cache = sum(path.stat().st_size for path in (folder / "out" / "cache").iterdir()) / 1e9
    seconds = time.process_time() - start
    count = len(list(folder.glob("case_*")))
    print(f"| {count} | {cache:.2f} | {imported:.2f} | {peak_gb():.2f} | {seconds:.0f} |", flush=True)


def peak_gb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    """Train on each number of cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 40], help="voxels of 2 mm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="of one of the numbers: what the script calls itself with")
    arguments = parser.parse_args()
    if arguments.folder:
        train(arguments.folder, arguments.steps)
        return
    print("| cases | cache, GB | peak after imports, GB | peak, GB | CPU s |\n|---|---|---|---|---|", flush=True)
    for count in arguments.cases:
        folder = Path(tempfile.mkdtemp(prefix="differseg_memory_"))
        try:
            write_cases(folder, count, tuple(arguments.shape))
            subprocess.run([sys.executable, __file__, "--folder", folder, "--steps", str(arguments.steps)], check=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
