"""What the folds say together: a rule for masks, scores of every patient by a network that never saw him, intervals."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from differseg_med.atomic import write_text
from differseg_med.case import Case, run_for_case
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import GROUP_COLUMNS, read_reference
from differseg_med.evaluation.images2d import OVERLAP
from differseg_med.evaluation.subsets import write_subsets
from differseg_med.evaluation.tables import write_metrics
from differseg_med.geometry import BoolArray, Grid
from differseg_med.io.images2d import is_image2d
from differseg_med.metrics import calibration
from differseg_med.metrics.calibration import BinCounts
from differseg_med.metrics.case import binary, boundary_entropy, case_metrics
from differseg_med.metrics.rows import DONE, is_failed
from differseg_med.metrics.statistics import summarize
from differseg_med.progress import progress_bar
from differseg_med.reports.evaluation import write_evaluation_page
from differseg_med.reports.provenance import provenance
from differseg_med.tables import write_table
from differseg_med.training.out_of_fold import (
    ALL,
    mean_probability,
    read_prediction,
    restored,
    subset_names,
)
from differseg_med.training.rules import Rule, best_rule, candidates, nested_rules, scores_of
from differseg_med.transforms.grids import grid_of

logger = logging.getLogger(__name__)

PREDICTIONS, CASES, RULE, CALIBRATION = "predictions", "cases.csv", "rule.json", "calibration.csv"
FOLD_SUMMARY, SUMMARY_TABLE = "summary.md", "summary.csv"
RESULTS = (
    *(CASES, RULE, FOLD_SUMMARY, SUMMARY_TABLE, "metrics.csv", "metrics.json", "evaluation.html"),
    *("subsets.csv", "subsets.html", "subsets.png", CALIBRATION),
)
"""What `write_tables` leaves."""

ROWS = (
    *("case", "fold", "subset", "threshold", "largest_only", "dice", "hd95_mm", "volume_ml", "reference_ml"),
    *("reason", "boundary_entropy"),
)
NOTHING_LEFT = "nothing is left"
"""How the reason begins where a case has no other modality than the one withheld: no failure of anything."""

LOW = 0.7
"""Dice below which a case is counted."""

Scores = NDArray[np.float64]
FoldRow = dict[str, Any]


@dataclass(frozen=True)
class OutOfFold:
    """What predictions of several folds say.

    Args:
        rows: per case and subset the scores of `case_metrics`, with ``case``, ``fold``, ``subset`` and the rule.
        rule: the best on all cases, to ship; None without a prediction.
        rule_dice: its mean Dice on the network's grid, on the cases that it was chosen on.
        own_dice: that of the bundle's own rule there.
        counts: of the reliability diagram, by case, on the network's grid with all modalities.
    """

    rows: list[FoldRow]
    rule: Rule | None
    rule_dice: float
    own_dice: float
    counts: Mapping[str, BinCounts] = field(default_factory=dict)


def measure_folds(
    cases: Sequence[Case],
    folder: Path,
    modalities: Sequence[str],
    own: Rule,
    reasons: Mapping[str, str] | None = None,
) -> OutOfFold:
    """Choose a rule for each fold on the others, and measure each case with it on its label's grid.

    Args:
        cases: of the folds that were predicted, each with its fold.
        folder: of the predictions, ``<case_id>.pt``.
        modalities: of the bundle.
        own: the bundle's rule.
        reasons: why a case has no prediction, by case id.
    """
    rules = [*candidates(own), own]
    scores: dict[str, Scores] = {}
    counts: dict[str, BinCounts] = {}
    for case in cases:
        if (content := read_prediction(folder / f"{case.case_id}.pt")) is not None:
            probability, label = mean_probability(content), content["label"][0].numpy() > 0
            scores[case.case_id] = _scores(probability, label, rules)
            counts[case.case_id] = calibration.counts_of(probability[0].numpy(), label)
    folds = {case.case_id: case.fold for case in cases}
    nested = nested_rules({name: score[:-1] for name, score in scores.items()}, folds, rules[:-1], own)
    rows: list[FoldRow] = []
    for case in progress_bar(cases, desc="measuring", unit="case"):
        why = (reasons or {}).get(case.case_id, "there is no prediction")
        rule = nested.get(case.fold, own)
        try:
            if case.case_id not in scores:
                raise CaseError(why, case=case.case_id)
            measure = partial(_measured, folder=folder, modalities=modalities, rule=rule)
            rows += run_for_case(measure, case, case)
        except CaseError as error:
            told = str(error) if case.case_id in scores else why
            rows += [
                _identity(case, name, given) | {"status": "failed", "reason": told}
                for name, given in subset_names(modalities).items()
            ]
    if not scores:
        return OutOfFold(rows, None, 0.0, 0.0)
    chosen, dice = best_rule([score[:-1] for score in scores.values()], rules[:-1])
    return OutOfFold(rows, chosen, dice, float(np.mean([score[-1] for score in scores.values()])), counts)


def _scores(probability: MetaTensor, label: BoolArray, rules: Sequence[Rule]) -> Scores:
    """Dice of each rule on the network's grid, with all modalities."""
    voxel = Grid(tuple(probability.shape[1:]), np.asarray(probability.affine)).voxel_volume_mm3
    return scores_of(probability[0].numpy(), label, voxel, rules)


def _identity(case: Case, subset: str, given: Sequence[str]) -> FoldRow:
    left = [name for name in case.images if name in given]
    row = {"case": case.case_id, "case_id": case.case_id, "subject_id": case.subject_id, "fold": case.fold}
    row |= {"status": DONE, "reason": "", "subset": subset, "modalities": "+".join(left) or "none"}
    return row | {name: case.extra.get(name, "") for name in GROUP_COLUMNS}


def _measured(case: Case, folder: Path, modalities: Sequence[str], rule: Rule) -> list[FoldRow]:
    """The rows of a case."""
    content = read_prediction(folder / f"{case.case_id}.pt")
    if content is None:
        raise CaseError("the prediction cannot be read any more", file=folder / f"{case.case_id}.pt")
    label = read_reference(case)
    reference, grid = binary(label[0].numpy(), "reference"), grid_of(label)
    flat = is_image2d(label)
    spacing = (1.0, 1.0, 1.0) if flat else grid.spacing_mm
    rows = []
    for index, (name, given) in enumerate(subset_names(modalities).items()):
        row = _identity(case, name, given) | {"threshold": rule.threshold, "largest_only": rule.largest_only}
        probability = restored(content, index, grid)
        if np.isnan(probability).any():
            rows.append(row | {"status": "failed", "reason": f"{NOTHING_LEFT} {name}"})
            continue
        mask = rule.apply(probability, grid.voxel_volume_mm3)
        found = case_metrics(mask, reference, spacing)
        if name == ALL and (entropy := boundary_entropy(mask, probability, spacing)) is not None:
            row["boundary_entropy"] = entropy
        if flat:
            found = {name: found[name] for name in OVERLAP}
            found |= {"area_percent": 100 * float(mask.mean()), "reference_percent": 100 * float(reference.mean())}
        rows.append(row | found)
    return rows


def write_tables(found: OutOfFold, modalities: Sequence[str], out: Path, own: Rule, notices: Sequence[str]) -> str:
    """Write everything of `RESULTS`; returns the text of ``summary.md``.

    Args:
        found: what `measure_folds` returned.
        modalities: of the bundle.
        out: folder of the run.
        own: the bundle's rule.
        notices: what a reader must know: folds that are not there yet, rows that were not used.
    """
    write_cases(found.rows, out / CASES)
    whole = [_without_subset(row) for row in found.rows if row["subset"] == ALL]
    summary = write_metrics(whole, out, notices=notices)
    bins = _reliability(found)
    write_table(out / CALIBRATION, calibration.BIN_COLUMNS, bins)
    write_evaluation_page(
        whole,
        summary,
        out / "evaluation.html",
        bins=bins,
        group_by=("fold", *GROUP_COLUMNS),
        title="Out-of-fold predictions",
        provenance=provenance(),
    )
    if any(not is_failed(row) for row in found.rows):
        by_subset = {
            given: [_without_subset(row) for row in found.rows if row["subset"] == name]
            for name, given in subset_names(modalities).items()
        }
        write_subsets(by_subset, modalities, out)
    write_table(out / SUMMARY_TABLE, SUMMARY_COLUMNS, summary_rows(found.rows))
    text = summary_text(found.rows) + "".join(f"\n{line}\n" for line in (*_rule_lines(found, own), *notices))
    write_text(out / FOLD_SUMMARY, text)
    if found.rule is not None:
        chosen = {"rule": found.rule.as_dict(), "cases": len({row["case"] for row in found.rows if "dice" in row})}
        figures = {"dice_where_chosen": round(found.rule_dice, 4), "dice_of_the_bundles_rule": round(found.own_dice, 4)}
        write_text(out / RULE, json.dumps(chosen | figures, indent=1) + "\n")
    return text


def _reliability(found: OutOfFold) -> list[FoldRow]:
    of = {row["case"]: str(row.get("subject_id") or row["case"]) for row in found.rows}
    return calibration.reliability(found.counts, [of[case] for case in found.counts]) if found.counts else []


def write_cases(rows: Sequence[FoldRow], path: Path) -> None:
    """Write ``cases.csv``: a row per case and subset, four digits."""
    rounded = [{name: round(v, 4) if isinstance(v := row.get(name, ""), float) else v for name in ROWS} for row in rows]
    write_table(path, ROWS, rounded)


def _without_subset(row: FoldRow) -> FoldRow:
    return {name: value for name, value in row.items() if name not in ("case", "subset")}


def _rule_lines(found: OutOfFold, own: Rule) -> list[str]:
    if found.rule is None:
        return []
    return [
        "Every score above is nested: threshold and component rule of a fold were chosen on the other folds.",
        f"The rule to ship, chosen on the predictions of all these cases: {found.rule}. With it their mean Dice is "
        f"{found.rule_dice:.3f} (on the network's grid, and optimistic, as it was chosen on them); with the bundle's "
        f"own rule ({own}) it is {found.own_dice:.3f}.",
    ]


SUMMARY_COLUMNS = (
    *("subset", "cases", "failed", "nothing_left", "patients"),
    *(
        f"{measure}_{part}"
        for measure in ("dice", "hd95_mm")
        for part in ("mean", "mean_low", "mean_high", "median", "median_low", "median_high")
    ),
    "dice_below_0.7",
)


def summary_rows(rows: Sequence[FoldRow]) -> list[FoldRow]:
    """Per subset the means and medians of Dice and HD95, with 95 % bootstrap intervals by patient."""
    lines = []
    for subset in dict.fromkeys(str(row["subset"]) for row in rows):
        own = [row for row in rows if row["subset"] == subset]
        done = [row for row in own if not is_failed(row)]
        patients = [str(row.get("subject_id") or row["case"]) for row in done]
        empty = sum(str(row.get("reason", "")).startswith(NOTHING_LEFT) for row in own)
        line: FoldRow = {"subset": subset, "cases": len(done), "failed": len(own) - len(done) - empty}
        line["nothing_left"] = empty
        line["patients"] = len(set(patients))
        for measure in ("dice", "hd95_mm"):
            if done and all(measure in row for row in done):
                found = summarize([row[measure] for row in done], patients).as_dict()
                line |= {f"{measure}_{name}": found[name] for name in found if name.startswith(("mean", "median"))}
        line["dice_below_0.7"] = sum(row["dice"] < LOW for row in done)
        lines.append(line)
    return lines


def summary_text(rows: Sequence[FoldRow]) -> str:
    """`summary_rows` as a Markdown table."""
    lines = ["| given | patients | mean Dice (95 %) | median Dice (95 %) | Dice < 0.7 | mean HD95 mm (95 %) | median |"]
    lines.append("|---|---|---|---|---|---|---|")
    for line in summary_rows(rows):
        dice, hd95 = (
            [_interval(line, f"{measure}_{part}", digits) for part in ("mean", "median")]
            for measure, digits in (("dice", 3), ("hd95_mm", 1))
        )
        median = "" if line.get("hd95_mm_median") is None else f"{line['hd95_mm_median']:.1f}"
        counts = [f"{line['failed']} failed"] if line["failed"] else []
        counts += [f"{line['nothing_left']} without another image"] if line["nothing_left"] else []
        told = f" ({', '.join(counts)})" if counts else ""
        cells = [line["subset"], f"{line['patients']}{told}", *dice, line["dice_below_0.7"], hd95[0], median]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _interval(line: FoldRow, name: str, digits: int) -> str:
    value, low, high = (line.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.{digits}f}" + ("" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})")
