"""How often the alignment check sees a shift that is there, and one that is not: figures for docs/dicom_to_model.md.

    python scripts/measure_alignment.py ../shared/data/sts --out /tmp/alignment.csv

Every CT is shifted by 10 mm along each axis, both ways (R, L, A, P, S, I), and compared with the patient's PET and T1;
the untouched images tell the false alarms.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from differseg_med.cohort.alignment import measure_alignment

SHIFTS = {"untouched": (0, 0, 0), "R": (-1, 0, 0), "L": (1, 0, 0), "A": (0, -1, 0), "P": (0, 1, 0), "S": (0, 0, 1)}
SHIFTS["I"] = (0, 0, -1)  # LPS, as SimpleITK has it


def measure(patient: Path, millimetres: float) -> list[dict[str, object]]:
    """One row per pair and shift of the CT."""
    images = {name: sitk.ReadImage(str(patient / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("t1", "ct", "pet")}
    rows = []
    for name, direction in SHIFTS.items():
        ct = sitk.Image(images["ct"])
        ct.SetOrigin([o + d * millimetres for o, d in zip(ct.GetOrigin(), direction)])
        for other in ("pet", "t1"):
            found = measure_alignment(images[other], ct)
            row: dict[str, object] = {"patient": patient.name, "ct shifted to": name, "against": other}
            if found is not None:
                row |= {"off": found.off, "gain": round(found.gain, 4), "distance_mm": round(found.distance_mm, 1)}
                row |= {"shift_mm": " ".join(f"{v:.0f}" for v in found.shift_mm), "points": found.points}
            rows.append(row)
    return rows


def main() -> None:
    """Parse arguments, measure, write the rows and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--millimetres", type=float, default=10.0)
    arguments = parser.parse_args()
    patients = sorted(arguments.folder.glob("STS_*"))
    rows = [row for patient in tqdm(patients) for row in measure(patient, arguments.millimetres)]
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    for other in ("pet", "t1"):
        print(f"ct against {other}: patients in which a shift was reported")
        for name in SHIFTS:
            own = [row for row in rows if row["against"] == other and row["ct shifted to"] == name]
            judged = [row for row in own if "off" in row]
            print(f"  {name:10} {sum(bool(row['off']) for row in judged):3} of {len(judged)} ({len(own)} in all)")


if __name__ == "__main__":
    main()
