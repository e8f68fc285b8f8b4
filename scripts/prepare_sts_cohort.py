"""Write the cohort table of the soft-tissue sarcoma data (folders STS_xxx with t1, ct, pet, mask as .nii.gz).

    python scripts/prepare_sts_cohort.py DATA/sts DATA/sts_2mm --out cohort.csv

The validation patients are fixed, so that figures can be compared; every other patient is for training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from differseg_med.case import Case
from differseg_med.cohort.table import write_cohort

MODALITIES = ("t1", "ct", "pet")
VALIDATION = frozenset(f"STS_{n:03d}" for n in (3, 12, 18, 29, 41, 42, 49))


def find_cases(folders: list[Path]) -> list[Case]:
    """One case per patient folder, sorted by folder and name."""
    cases = []
    for folder in folders:
        for patient in sorted(folder.glob("STS_*")):
            images = {m: patient / f"{m}.nii.gz" for m in MODALITIES if (patient / f"{m}.nii.gz").is_file()}
            split = "validation" if patient.name in VALIDATION else "train"
            cases.append(Case(patient.name, patient.name, images, patient / "mask.nii.gz", split))
    return cases


def main() -> None:
    """Parse arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    cases = find_cases(arguments.folders)
    if not cases:
        parser.error(f"no STS_* folder in {', '.join(map(str, arguments.folders))}")
    write_cohort(arguments.out, MODALITIES, cases)
    counts = {s: sum(c.split == s for c in cases) for s in ("train", "validation")}
    print(f"{arguments.out}: {counts['train']} training and {counts['validation']} validation patients")


if __name__ == "__main__":
    main()
