"""What `make demo` runs: the shipped sarcoma bundle on its two sample patients, with all modalities and without PET.

Prints a table with naive baselines beside the scores and writes one overlay picture per case and run.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from differseg_med.bundles.workflows import BundleRun
from differseg_med.case import Case
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import exit_code
from differseg_med.evaluation.baselines import baselines

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
OUTPUT = ROOT / "demo_output"
RUNS: dict[str, list[str]] = {"all modalities": [], "PET withheld": ["pet"]}
COLUMNS = (
    "case",
    "modalities",
    "Dice",
    "HD95 mm",
    "volume ml",
    "seconds",
    "baseline (ellipsoid)",
    "baseline (PET > 40 %)",
)


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a result table by case id."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def table_rows(output: Path, cases: tuple[Case, ...]) -> list[tuple[str, ...]]:
    """One printed row per case of a finished run."""
    summary, metrics = read_csv(output / "summary.csv"), read_csv(output / "metrics.csv")
    rows = []
    for case in cases:
        done, measured, naive = summary[case.case_id], metrics[case.case_id], baselines(case)
        rows.append(
            (
                case.case_id,
                done["modalities"],
                f"{float(measured['dice']):.3f}",
                f"{float(measured['hd95_mm']):.1f}",
                f"{float(done['volume_ml']):.1f}",
                done["seconds"],
                f"{float(naive['ellipsoid']['dice']):.3f}",
                f"{float(naive['threshold']['dice']):.3f}",
            )
        )
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in aligned columns."""
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    for row in [COLUMNS, tuple("-" * w for w in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)))


def main() -> int:
    """Run, measure, draw."""
    table = BUNDLE / "sample" / "cohort.csv"
    cohort = read_cohort(table, ("t1", "ct", "pet"))
    rows: list[tuple[str, ...]] = []
    pictures: list[Path] = []
    for name, withheld in RUNS.items():
        output = OUTPUT / name.replace(" ", "_")
        print(f"Segmenting {len(cohort.cases)} patients, {name} ...", flush=True)
        code = exit_code(BundleRun(BUNDLE, ["inference", "evaluate"], table, output, {"withhold": withheld}).run)
        if code:
            return code
        rows += table_rows(output, cohort.cases)
        pictures += [output / "overlays" / f"{case.case_id}.png" for case in cohort.cases]
    print()
    print_table(rows)
    print("\nThe baselines are what the same patients score without any network (Dice). Not a medical device.")
    print("The weights were trained on these two patients too: this shows that it runs. How well, on patients that the")
    print("network never saw, is in the card: bundles/sts_petctmr_segmentation/docs/README.md.")
    print("Pictures (mask orange, expert's outline blue):")
    for picture in pictures:
        print(f"  {picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture}")
    print(f"Masks: {OUTPUT.name}/*/STS_*/mask.nii.gz; open one in 3D Slicer over the T1 image of the same patient in")
    print(f"  {table.parent.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
