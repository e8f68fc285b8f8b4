"""Make synthetic CT of several phases: enhancing spheres in noise. No patient, no anatomy: to try the way only.

    python scripts/make_multiphase_ct.py --out DATA/phases --cases 6 --phases arterial,portal

Each case has a soft ellipsoid in air, with lesions (bright in the first phase, dark in the later ones: they wash out)
and vessels (bright in all phases). Only the lesions are the label, so that no phase alone tells all of them apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

SHAPE, SPACING_MM = (64, 64, 32), (2.5, 2.5, 5.0)
AIR, ORGAN, VESSEL, NOISE = -1000.0, 60.0, 90.0, 15.0
ENHANCEMENT = (70.0, -25.0, -35.0)
"""HU of a lesion above the organ, by phase: it fills early and washes out."""


def sphere(center: NDArray[np.float64], radius_mm: float) -> NDArray[np.bool_]:
    """A ball on the grid, ``(64, 64, 32)``; ``center`` in mm."""
    axes = [np.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return np.linalg.norm(grid - center, axis=-1) <= radius_mm


def make_case(folder: Path, phases: list[str], random: np.random.Generator) -> None:
    """Write one case: a volume per phase, and the label."""
    extent = np.array(SHAPE) * SPACING_MM
    axes = [(np.arange(n) * mm - size / 2) / (0.42 * size) for n, mm, size in zip(SHAPE, SPACING_MM, extent)]
    organ = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) <= 1
    lesions, vessels = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for mask, count in ((lesions, random.integers(1, 4)), (vessels, 4)):
        for _ in range(count):
            center = extent / 2 + random.uniform(-0.22, 0.22, 3) * extent
            mask |= sphere(center, random.uniform(7, 14) if mask is lesions else random.uniform(5, 8))
    lesions, vessels = lesions & organ, vessels & organ & ~lesions
    affine = np.diag([*SPACING_MM, 1.0])
    folder.mkdir(parents=True, exist_ok=True)
    for number, phase in enumerate(phases):
        volume = np.where(organ, ORGAN, AIR)
        volume[lesions] += ENHANCEMENT[number]
        volume[vessels] += VESSEL
        volume += random.normal(0, NOISE, SHAPE)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), affine), folder / f"{phase}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(lesions.astype(np.uint8), affine), folder / "mask.nii.gz")


def main() -> None:
    """Parse arguments and write the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--phases", default="arterial,portal", help="two or three names")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    phases = arguments.phases.split(",")
    if not 1 <= len(phases) <= len(ENHANCEMENT):
        parser.error(f"--phases takes one to {len(ENHANCEMENT)} names")
    random = np.random.default_rng(arguments.seed)
    for number in range(1, arguments.cases + 1):
        make_case(arguments.out / f"case_{number:02d}", phases, random)
    print(f"{arguments.out}: {arguments.cases} synthetic cases of {len(phases)} phases; no patient")


if __name__ == "__main__":
    main()
