"""Write the cohort table of the soft-tissue sarcoma data (folders STS_xxx with t1, ct, pet, mask as .nii.gz).

    python scripts/prepare_sts_cohort.py DATA/sts DATA/sts_2mm --out cohort.csv
    python scripts/prepare_sts_cohort.py DATA/sts DATA/sts_2mm --out fold0.csv --validation-fold 0

The column ``fold`` holds the five fixed folds of ``folds.csv`` in the bundle's docs. Without ``--validation-fold`` the
split is that of the first release: seven fixed validation patients, every other patient is for training.

``--make-folds FILE`` draws the folds anew from the images (stratified by PET voxel size, which tells the scanners
apart, and tumour volume; always the same result for the same patients).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from differseg_med.atomic import replacing
from differseg_med.case import Case
from differseg_med.cohort.folds import assign_folds, levels_of
from differseg_med.cohort.table import write_cohort

MODALITIES = ("t1", "ct", "pet")
VALIDATION = frozenset(f"STS_{n:03d}" for n in (3, 12, 18, 29, 41, 42, 49))
FOLDS = Path(__file__).parents[1] / "bundles" / "sts_petctmr_segmentation" / "docs" / "folds.csv"
NUM_FOLDS = 5


def find_cases(folders: list[Path]) -> list[Case]:
    """One case per patient folder, sorted by folder and name, with the split of the first release."""
    cases = []
    for folder in folders:
        for patient in sorted(folder.glob("STS_*")):
            images = {m: patient / f"{m}.nii.gz" for m in MODALITIES if (patient / f"{m}.nii.gz").is_file()}
            split = "validation" if patient.name in VALIDATION else "train"
            cases.append(Case(patient.name, patient.name, images, patient / "mask.nii.gz", split))
    return cases


def read_folds(path: Path) -> dict[str, str]:
    """Fold of each case by its id."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case"]: row["fold"] for row in csv.DictReader(file)}


def split_by_fold(cases: list[Case], folds: dict[str, str], validation: int | None) -> list[Case]:
    """Fill in the fold of each case; with ``validation`` that fold validates and every other case trains."""
    cases = [replace(case, fold=folds.get(case.case_id, "")) for case in cases]
    if validation is None:
        return cases
    return [replace(c, split="validation" if c.fold == str(validation) else "train") for c in cases]


def make_folds(cases: list[Case], path: Path) -> None:
    """Draw the folds and write them with what they were stratified by."""
    volumes = {case.case_id: {"volume_ml": _volume_ml(case)} for case in cases}
    scanners = [f"{_pet_mm(case):.1f} mm" for case in cases]
    values = {"volume_ml": {name: row["volume_ml"] for name, row in volumes.items()}}
    criteria = [
        {**levels, "pet": scanner} for levels, scanner in zip(levels_of(cases, ["volume_ml"], values), scanners)
    ]
    folds = assign_folds([case.subject_id for case in cases], criteria, NUM_FOLDS)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "fold", "volume_ml", "stratum"])
        for case, fold, levels in zip(cases, folds, criteria):
            stratum = f"PET {levels['pet']}; volume {levels['volume_ml']} ml"
            writer.writerow([case.case_id, fold, f"{volumes[case.case_id]['volume_ml']:.1f}", stratum])


def _pet_mm(case: Case) -> float:
    return float(nibabel.load(case.images["pet"]).header.get_zooms()[0])


def _volume_ml(case: Case) -> float:
    mask = nibabel.load(case.label)
    voxel_mm3 = float(np.prod(mask.header.get_zooms()[:3]))
    return round(float((np.asanyarray(mask.dataobj) > 0).sum()) * voxel_mm3 / 1000, 1)


def main() -> None:
    """Parse arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="the cohort table to write")
    parser.add_argument("--validation-fold", type=int, choices=range(NUM_FOLDS), help="this fold validates")
    parser.add_argument("--folds", type=Path, default=FOLDS, help="table of the folds to take")
    parser.add_argument("--make-folds", type=Path, help="draw the folds and write them here")
    arguments = parser.parse_args()
    cases = find_cases(arguments.folders)
    if not cases:
        parser.error(f"no STS_* folder in {', '.join(map(str, arguments.folders))}")
    if arguments.make_folds:
        make_folds(cases, arguments.make_folds)
        print(f"{arguments.make_folds}: {len(cases)} patients in {NUM_FOLDS} folds")
    if not arguments.out:
        return
    cases = split_by_fold(cases, read_folds(arguments.folds), arguments.validation_fold)
    write_cohort(arguments.out, MODALITIES, cases)
    counts = {s: sum(c.split == s for c in cases) for s in ("train", "validation")}
    print(f"{arguments.out}: {counts['train']} training and {counts['validation']} validation patients")


if __name__ == "__main__":
    main()
