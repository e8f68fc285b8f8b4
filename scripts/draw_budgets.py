"""Draw Dice against the CPU time of training, for several methods on the same patients.

    python scripts/draw_budgets.py DifferSeg=RUNS_300,RUNS_700 nnU-Net=NN_300,NN_700 --out FIGURE.png

The folders are those of `crossvalidate_sts.py` and `peers_nnunet.py`. Only patients that every folder has count. Prints
the table of the points, with 95 % bootstrap intervals by patient, and the difference of the first method to each
other at the same place of its list.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from ablate_sts import difference

from differseg_med.metrics.statistics import summarize
from differseg_med.reports.figures import figure, png


def seconds_of(runs: Path, folds: set[str]) -> float:
    """Mean CPU seconds of the trainings of some folds."""
    found = [json.loads((runs / f"fold{fold}" / "training.json").read_text(encoding="utf-8")) for fold in folds]
    return float(np.mean([one["cpu_seconds"] for one in found]))


def dice_of(table: pd.DataFrame, cases: set[str]) -> pd.Series:
    """Dice by case, all modalities."""
    rows = table[table["case"].isin(cases) & (table["subset"] == "all")]
    return rows.set_index("case")["dice"].sort_index()


def main() -> None:
    """Print the tables and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="NAME=RUNS[,RUNS...]")
    parser.add_argument("--out", required=True, type=Path, help="the figure, PNG")
    arguments = parser.parse_args()
    methods = {
        name: [Path(run) for run in runs.split(",")] for name, runs in (m.split("=", 1) for m in arguments.methods)
    }
    tables = {run: pd.read_csv(run / "cases.csv", dtype={"fold": str}) for runs in methods.values() for run in runs}
    common = set.intersection(*(set(table["case"]) for table in tables.values()))
    dice = {run: dice_of(table, common) for run, table in tables.items()}
    folds = {run: set(table[table["case"].isin(common)]["fold"]) for run, table in tables.items()}
    made, ax = figure(5.0, 3.6)
    print(f"{len(common)} patients\n\n| method | CPU s | mean Dice (95 %) |\n|---|---|---|")
    for name, runs in methods.items():
        seconds = [seconds_of(run, folds[run]) for run in runs]
        means = [summarize(dice[run], list(dice[run].index)) for run in runs]
        for x, found in zip(seconds, means):
            print(f"| {name} | {x:.0f} | {found.mean:.3f} ({found.mean_low:.3f} to {found.mean_high:.3f}) |")
        ax.plot(seconds, [found.mean for found in means], "o-", label=name)
    label = f"mean Dice, {len(common)} patients, all modalities"
    ax.set(xlabel="CPU seconds of training", ylabel=label, xlim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend()
    arguments.out.write_bytes(png(made))
    (first, firsts), *others = methods.items()
    print(f"\n| {first} minus | CPU s | mean difference (95 %) | p (Wilcoxon) |\n|---|---|---|---|")
    for name, runs in others:
        for ours, run in zip(firsts, runs):
            text, p = difference(list(dice[ours] - dice[run]), list(dice[run].index))
            print(f"| {name} | {seconds_of(run, folds[run]):.0f} | {text} | {p:.3f} |")


if __name__ == "__main__":
    main()
