"""Can a case's Dice be told from its prediction alone? Disagreement of subsets and planes, on out-of-fold predictions.

    python scripts/quality_sts.py DATA/sts DATA/sts_2mm --out RUNS

RUNS is the folder of `crossvalidate_sts.py`. Dice is predicted for each fold by a line through the patients of the
other folds. Writes `quality.csv` and `quality.md` there.
"""

from __future__ import annotations

import argparse
import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crossvalidate_sts import SUBSETS
from scipy.stats import rankdata, spearmanr

from differseg_med.metrics.case import overlap
from differseg_med.training.rules import Rule

LOW = 0.7
FEWEST = 5
"""With fewer cases below `LOW` an area would say nothing."""
MEASURES = {
    "t1+ct against ct+pet": "mask without PET against mask without T1",
    "subsets": "mean Dice of the three pairs of masks that lack one modality each",
    "planes": "mean Dice of the three pairs of planes",
    "entropy": "mean entropy of the probability within the mask, in bits, negative",
    "subsets and planes": "mean of the two agreements",
}


def agreement(masks: list[np.ndarray]) -> float:
    """Mean Dice of all pairs; two empty masks agree."""
    pairs = [overlap(a, b) if (a | b).any() else 1.0 for a, b in combinations(masks, 2)]
    return float(np.mean(pairs))


def measures(content: dict[str, Any], rule: Rule) -> dict[str, float]:
    """The measures of one case, all higher for better predictions."""
    probabilities = content["probabilities"].float().numpy()  # planes, subsets, R, A, S
    masks = [rule.apply(p, 1.0) for p in probabilities.mean(axis=0)]
    names = list(SUBSETS)
    without = {name: masks[names.index(f"without {name}")] for name in ("t1", "ct", "pet")}
    mean = probabilities[:, 0].mean(axis=0)
    p = np.clip(mean[masks[0]], 1e-6, 1 - 1e-6)
    found = {
        "t1+ct against ct+pet": agreement([without["pet"], without["t1"]]),
        "subsets": agreement(list(without.values())),
        "planes": agreement([rule.apply(plane, 1.0) for plane in probabilities[:, 0]])
        if len(probabilities) > 1
        else 1.0,
        "entropy": float((p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()) if p.size else -1.0,
    }
    return found | {"subsets and planes": (found["subsets"] + found["planes"]) / 2}


def area_under_curve(score: np.ndarray, low: np.ndarray) -> float:
    """Chance that a case with a low Dice has a lower score than one without."""
    ranks, n, m = rankdata(-score), int(low.sum()), int((~low).sum())
    return float((ranks[low].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def interval(score: np.ndarray, low: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the area by patient."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(score), size=len(score)) for _ in range(resamples))
    areas = [area_under_curve(score[i], low[i]) for i in drawn]
    return tuple(np.nanpercentile(areas, (2.5, 97.5)).tolist())


def predicted_dice(score: np.ndarray, dice: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Dice of each case from a line fitted on the other folds."""
    found = np.zeros_like(dice)
    for fold in np.unique(folds):
        inside, others = folds == fold, folds != fold
        found[inside] = np.polyval(np.polyfit(score[others], dice[others], 1), score[inside])
    return np.clip(found, 0, 1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="not needed; so that the commands look alike")
    parser.add_argument("--out", required=True, type=Path)
    out = parser.parse_args().out
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["subset"] == "all"]
    found = []
    for row in rows:
        content = torch.load(out / "predictions" / f"{row['case']}.pt", weights_only=True)
        found.append(measures(content, Rule(float(row["threshold"]), row["largest_only"] == "True")))
    dice = np.array([float(row["dice"]) for row in rows])
    folds = np.array([row["fold"] for row in rows])
    lines = [f"{len(rows)} patients, {(dice < LOW).sum()} with Dice < {LOW}.", ""]
    guess = np.abs(np.array([dice[folds != fold].mean() for fold in folds]) - dice).mean()
    lines += [f"Guessing the mean of the other folds errs by {guess:.3f}.", ""]
    lines += ["| measure | Spearman with Dice | area for Dice < 0.7 (95 %) | mean error of the predicted Dice |"]
    lines += ["|---|---|---|---|"]
    for name in MEASURES:
        score = np.array([case[name] for case in found])
        low, high = interval(score, dice < LOW)
        area = f"{area_under_curve(score, dice < LOW):.2f} ({low:.2f} to {high:.2f})"
        if (dice < LOW).sum() < FEWEST:
            area = "too few such cases"
        error = np.abs(predicted_dice(score, dice, folds) - dice).mean()
        lines += [f"| {name} | {spearmanr(score, dice)[0]:+.2f} | {area} | {error:.3f} |"]
    text = "\n".join(lines) + "\n"
    (out / "quality.md").write_text(text, encoding="utf-8")
    with (out / "quality.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "dice", *MEASURES])
        writer.writerows([r["case"], r["dice"], *(round(c[m], 4) for m in MEASURES)] for r, c in zip(rows, found))
    print(text)


if __name__ == "__main__":
    main()
