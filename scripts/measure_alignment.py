"""How often the alignment check sees a shift that is there, and one that is not: figures for docs/dicom_to_model.md.

    python scripts/measure_alignment.py ../shared/data/sts ../shared/data/sts_2mm --out /tmp/alignment.csv

Every CT is shifted by 10 mm along each axis, both ways, and compared with the patient's PET and T1;
the untouched images tell the false alarms.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from differseg_med.metrics.similarity import measure_alignment

AXES = ("right", "front", "up")
SHIFTS = {  # LPS, as SimpleITK has it
    "untouched": (0, 0, 0),
    "right": (-1, 0, 0),
    "left": (1, 0, 0),
    "front": (0, -1, 0),
    "back": (0, 1, 0),
    "head": (0, 0, 1),
    "feet": (0, 0, -1),
}


def measure(patient: Path, millimetres: float) -> list[dict[str, object]]:
    """One row per pair and shift of the CT."""
    images = {name: sitk.ReadImage(str(patient / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("t1", "ct", "pet")}
    rows = []
    for name, direction in SHIFTS.items():
        ct = sitk.Image(images["ct"])
        ct.SetOrigin([o + d * millimetres for o, d in zip(ct.GetOrigin(), direction)])
        for other in ("pet", "t1"):
            found = measure_alignment(images[other], ct)
            row: dict[str, object] = {"patient": patient.name, "ct moved to": name, "against": other}
            if found is not None:
                shift = dict(zip(AXES, (round(mm, 1) for mm in found.shift_mm)))
                row |= {"off": found.off, **shift, "information": round(found.there, 4), "points": found.points}
            rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """How many patients got a report, by shift and pair, as lines of Markdown."""
    lines = [
        "| CT moved to the | reported, CT against PET | for comparison: CT against T1, not judged |",
        "|---|---|---|",
    ]
    for name in SHIFTS:
        cells = [name]
        for other in ("pet", "t1"):
            own = [row for row in rows if row["against"] == other and row["ct moved to"] == name and "off" in row]
            cells.append(f"{sum(bool(row['off']) for row in own)} of {len(own)}")
        lines.append(f"| {' | '.join(cells)} |")
    untouched = [row for row in rows if row["against"] == "pet" and row["ct moved to"] == "untouched" and "off" in row]
    shifts = np.array([[row[axis] for axis in AXES] for row in untouched], dtype=float)
    right, front, up = shifts.mean(0)
    lines.append(
        f"Untouched, against PET: most similar when moved by {right:+.1f} mm right, {front:+.1f} front, {up:+.1f} up "
        f"on average, along one axis by {abs(shifts).max():.1f} mm at most."
    )
    return lines


def main() -> None:
    """Parse arguments, measure, write the rows and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--millimetres", type=float, default=10.0)
    arguments = parser.parse_args()
    patients = [patient for folder in arguments.folders for patient in sorted(folder.glob("STS_*"))]
    rows = [row for patient in tqdm(patients) for row in measure(patient, arguments.millimetres)]
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    main()
