"""Dice of the jobs of `crossvalidate_packed.py`, each against the first name, patient by patient.

    python scripts/compare_packed.py OUT --against dpf_fgd --seed 0

OUT holds the results of ``train``. Dice on the network's grid at 0.4 without component rule, which nobody chose.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from ablate_sts import difference
from crossvalidate_sts import SUBSETS


def main() -> int:
    """Print a row per name and subset of modalities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--against", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    files = sorted(arguments.results.glob("results*.pickle"))
    results: list[dict[str, Any]] = [one for path in files for one in pickle.loads(path.read_bytes())]
    dice: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result["job"]["seed"] == arguments.seed:
            dice.setdefault(result["job"]["name"], {}).update(result["dice"])
    print("| network | given | patients | Dice | difference (95 %) | p (Wilcoxon) |\n|---|---|---|---|---|---|")
    for name in (name for name in dice if name != arguments.against):
        cases = sorted(set(dice[name]) & set(dice[arguments.against]))
        for n, subset in enumerate(SUBSETS):
            own = np.array([dice[name][case][n] for case in cases])
            gain = np.array([dice[arguments.against][case][n] for case in cases]) - own
            text, p = difference(gain, cases)
            print(f"| {name} | {subset} | {len(cases)} | {own.mean():.3f} | {text} | {p:.3f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
