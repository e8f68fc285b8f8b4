"""Compare two cross-validations of the sarcoma patients, patient by patient.

    python scripts/ablate_sts.py RUNS RUNS_concat

RUNS are folders of `crossvalidate_sts.py` with the same folds. Prints for each subset of modalities the mean difference
in Dice (first minus second) with a bootstrap interval by patient, Wilcoxon's p, and wins and losses; and what the
trainings cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from crossvalidate_sts import SUBSETS
from scipy.stats import wilcoxon

from differseg_med.metrics.statistics import summarize


def difference(gain: Sequence[float], cases: Sequence[str]) -> tuple[str, float]:
    """The mean difference with a bootstrap interval by patient, in words, and Wilcoxon's p."""
    found = summarize(gain, list(cases))
    text = f"{np.mean(gain):+.3f} ({found.mean_low:+.3f} to {found.mean_high:+.3f})"
    return text, float(wilcoxon(gain).pvalue)


def cost(runs: Path) -> str:
    """Steps and CPU seconds of the trainings that were not interrupted."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("fold*/training.json"))]
    spent = [f"{one['cpu_seconds']} CPU s" if "cpu_seconds" in one else f"{one['seconds']:.0f} s" for one in found]
    return f"{found[0]['steps']} steps, {', '.join(spent)}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--common", action="store_true", help="only the patients that both have scores of")
    arguments = parser.parse_args()
    first, second = (pd.read_csv(runs / "cases.csv") for runs in (arguments.first, arguments.second))
    both = first.merge(second, on=["case", "fold", "subset"], validate="one_to_one")
    if not (arguments.common or len(both) == len(first) == len(second)):
        parser.error("the two runs are of other patients or folds")
    print(f"first: {cost(arguments.first)}; second: {cost(arguments.second)}\n")
    print("| given | patients | first | second | mean difference (95 %) | wins / losses | p (Wilcoxon) |")
    print("|---|---|---|---|---|---|---|")
    for subset in SUBSETS:
        rows = both[both["subset"] == subset]
        if arguments.common:
            rows = rows.dropna(subset=["dice_x", "dice_y"])
        gain = rows["dice_x"] - rows["dice_y"]
        text, p = difference(gain, rows["case"])
        print(
            f"| {subset} | {len(rows)} | {rows['dice_x'].mean():.3f} | {rows['dice_y'].mean():.3f} "
            f"| {text} | {(gain > 0).sum()} / {(gain < 0).sum()} | {p:.3f} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
