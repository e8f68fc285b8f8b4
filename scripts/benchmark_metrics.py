"""Time and memory of the measures against MONAI's, in one run; writes its table to docs/metrics_benchmark.md.

    OMP_NUM_THREADS=1 python scripts/benchmark_metrics.py ../shared/data/sts

Ours are all measures of `case_metrics` (policy, lesions, surface Dice included); MONAI's are HausdorffDistanceMetric
(95th percentile) and SurfaceDistanceMetric (symmetric) alone, both with spacing. CPU time, best of several rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

REPORT = Path(__file__).parents[1] / "docs" / "metrics_benchmark.md"
LARGE = (512, 512, 600)

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, ...]]


def pairs(folder: Path, kind: str) -> Iterator[Pair]:
    """Prediction, reference and spacing of each case; prediction: the reference moved, or the ellipsoid."""
    from differseg_med.evaluation.baselines import ellipsoid_baseline

    for path in sorted(folder.glob("*/mask.nii.gz")):
        image = nib.load(path)
        reference = np.asarray(image.dataobj).astype(np.uint8)
        moved = np.roll(reference, (3, 2, 1), (0, 1, 2)) if kind == "moved" else ellipsoid_baseline(reference.shape)
        yield moved, reference, tuple(float(mm) for mm in image.header.get_zooms())


def ours(cases: list[Pair]) -> list[tuple[float, float]]:
    """HD95 and ASSD of each case, among all other measures."""
    from differseg_med.metrics.case import case_metrics

    found = [case_metrics(*case) for case in cases]
    return [(float(f["hd95_mm"]), float(f["assd_mm"])) for f in found]


def monais(cases: list[Pair]) -> list[tuple[float, float]]:
    """HD95 and ASSD of each case."""
    import torch
    from monai.metrics import HausdorffDistanceMetric, SurfaceDistanceMetric

    hausdorff = HausdorffDistanceMetric(include_background=True, percentile=95)
    surface = SurfaceDistanceMetric(include_background=True, symmetric=True)
    found = []
    for prediction, reference, spacing in cases:
        p, r = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
        found.append((float(hausdorff(p, r, spacing=spacing)), float(surface(p, r, spacing=spacing))))
    return found


def seconds(function: Callable[[list[Pair]], object], cases: list[Pair]) -> float:
    """CPU seconds of one call: other programs on the machine do not count."""
    start = time.process_time()
    function(cases)
    return time.process_time() - start


def compare(folder: Path, kind: str, rounds: int) -> str:
    """One line of the table; stops if the two do not agree."""
    cases = list(pairs(folder, kind))
    np.testing.assert_allclose(ours(cases), monais(cases), rtol=1e-6)
    times = [(seconds(ours, cases), seconds(monais, cases)) for _ in range(rounds)]
    own, theirs = (min(column) for column in zip(*times))
    return f"| {kind} | {len(cases)} | {own:.2f} | {theirs:.2f} | {theirs / own:.2f} |"


def peak(kind: str) -> None:
    """Print the peak memory of this process, and its seconds, after measuring one large pair of masks."""
    from differseg_med.metrics.case import case_metrics

    if kind == "nothing":
        print(f"{peak_gb():.2f} 0")
        return
    axes = [((np.arange(n, dtype=np.float32) - n / 2) / (0.45 * n)) ** 2 for n in LARGE]
    reference = np.empty(LARGE, np.uint8)
    for k in range(LARGE[2]):
        reference[..., k] = axes[0][:, None] + axes[1][None, :] + axes[2][k] <= 1
    prediction = np.roll(reference, 4, 0)
    if kind == "fragments":  # 1 voxel in 1000 anywhere: many lesions, a large boundary
        prediction.flat[::997] = 1
    start = time.process_time()
    case_metrics(prediction, reference, (0.8, 0.8, 1.0))
    print(f"{peak_gb():.2f} {time.process_time() - start:.0f}")


def peak_gb() -> float:
    """Peak resident memory of this process; getrusage would count the parent's, from before the program was loaded."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 2**20


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder with <case>/mask.nii.gz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=("nothing", "ellipsoid", "fragments"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return peak(arguments.peak)
    warnings.simplefilter("ignore")
    lines = [
        "# Time and memory of the measures",
        "",
        "Made by `OMP_NUM_THREADS=1 python scripts/benchmark_metrics.py ../shared/data/sts`; CPU seconds, one",
        f"thread, best of {arguments.rounds} alternating rounds in one run. Ours are all measures of `case_metrics`;",
        "MONAI's are its `HausdorffDistanceMetric` (95 %) and `SurfaceDistanceMetric` alone. The script stops if they",
        "differ by more than 1e-6.",
        "",
        "| prediction | masks | all our measures (s) | MONAI HD95 + ASSD (s) | ratio |",
        "|---|---|---|---|---|",
        *(compare(arguments.folder, kind, arguments.rounds) for kind in ("moved", "ellipsoid")),
        "",
        "`moved`: the reference shifted by 3, 2, 1 voxels. `ellipsoid`: the baseline of 0.6 of the box.",
        "",
        f"A mask of {LARGE} voxels, peak memory of a process of its own, libraries and both masks included",
        "(Linux). `nothing`: the libraries alone; `ellipsoid`: 0.9 of the box against itself moved by 4 voxels;",
        "`fragments`: with 1 voxel in 997 added, so about 100 000 predicted lesions.",
        "",
        "| masks | peak memory (GB) | CPU seconds |",
        "|---|---|---|",
    ]
    for kind in ("nothing", "ellipsoid", "fragments"):
        command = [sys.executable, __file__, "--peak", kind]
        memory, spent = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        lines.append(f"| {kind} | {memory} | {spent} |")
    text = "\n".join(lines) + "\n"
    print(text)
    REPORT.write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
