"""Is one model better than another? Paired by case, tested by subject, corrected for the number of tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from differseg_med.errors import CaseError
from differseg_med.metrics.policy import KNOWN, badness
from differseg_med.metrics.rows import check_rows, is_failed, subject_of
from differseg_med.metrics.statistics import per_subject, summarize
from differseg_med.reports.comparison import Rows, write_comparison_page
from differseg_med.reports.provenance import provenance
from differseg_med.tables import write_frame

COMPARED = ("dice", "hd95_mm", "surface_dice", "volume_difference_ml")

REFERENCE_SIZES = ("reference_ml", "reference_percent")
"""Columns that tell whether two models were measured against the same references; pictures have no ml."""

TIE = 1e-9
"""Scores that differ by less are a tie: rounding in ``metrics.csv``."""

METHOD = (
    "Differences are paired by case. Wilcoxon signed-rank test, two-sided, on the mean difference of each subject, "
    "because cases of one subject are not independent; zero differences are dropped; no difference at all gives p = 1. "
    "p values are corrected by Holm's method for the pairs of models compared by one measure; measures are not "
    "corrected for each other: name the one that decides before you look. Smallest p possible: what so few subjects "
    "and so many pairs can reach at best, corrected. Rank-biserial correlation: +1 if the second "
    "model is better for every subject, -1 if the first is. Wins, ties and losses are counted by case, for the second "
    "model. Intervals of the mean difference: 95 % percentile bootstrap over subjects. A volume difference is better "
    "the nearer it is to 0, so its size is compared."
)


@dataclass(frozen=True)
class Comparison:
    """Two models compared by one measure; every difference is second minus first.

    Args:
        measure: a key of `KNOWN`; volume differences are compared by their size.
        first: name of the first model.
        second: name of the second model.
        cases: number of paired cases.
        subjects: number of subjects, which is what the test counts.
        mean_difference: mean over cases, in the unit of the measure.
        low: lower end of the bootstrap interval of the mean difference; None with one subject.
        high: upper end.
        median_difference: median over cases.
        rank_biserial: effect size, -1 to 1, positive if the second model is better.
        wins: cases in which the second model is better.
        ties: cases without a difference.
        losses: cases in which the first model is better.
        p: of the Wilcoxon signed-rank test.
        p_holm: corrected for the pairs compared by this measure.
        p_smallest: the smallest corrected p that so many subjects and pairs can give.
    """

    measure: str
    first: str
    second: str
    cases: int
    subjects: int
    mean_difference: float
    low: float | None
    high: float | None
    median_difference: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int
    p: float
    p_holm: float
    p_smallest: float


def compare(
    tables: Mapping[str, str | Path],
    out_dir: str | Path,
    *,
    measures: Sequence[str] = COMPARED,
    against_first: bool = False,
) -> list[Comparison]:
    """Compare models by their ``metrics.csv`` and write ``comparison.csv`` and ``comparison.html``.

    Args:
        tables: path of the ``metrics.csv`` of each model, by the model's name; the first is the baseline of the figure.
        out_dir: folder of the results.
        measures: keys of `KNOWN` to compare by.
        against_first: compare each model with the first only; fewer pairs, so that fewer subjects are enough.

    Returns:
        One comparison per pair of models and measure.

    Raises:
        CaseError: with fewer than two models, a table that cannot be read, cases that differ (they are listed),
            references that differ, or settings that differ.
        ValueError: for an unknown measure.
    """
    if unknown := [name for name in measures if name not in KNOWN]:
        raise ValueError(f"measures must be some of {list(KNOWN)}, got {unknown}")
    if len(tables) < 2:
        raise CaseError("a comparison needs two models", expected="two or more metrics.csv", found=len(tables))
    import pandas as pd  # see metrics_table

    models = {name: read_metrics(path) for name, path in tables.items()}
    check_comparable(models)
    _check_settings({name: Path(path) for name, path in tables.items()})
    measures = [
        m for m in measures if all(m in row for rows in models.values() for row in rows.values() if not is_failed(row))
    ]
    names = list(models)
    chosen = [(names[0], name) for name in names[1:]] if against_first else list(combinations(names, 2))
    results = [r for m in measures for r in _corrected([_pair(models, pair, m) for pair in chosen])]
    pairs = [asdict(result) for result in results]
    write_frame(Path(out_dir) / "comparison.csv", pd.DataFrame(pairs))
    page = Path(out_dir) / "comparison.html"
    write_comparison_page(models, pairs, page, method=METHOD, provenance=provenance())
    return results


def read_metrics(path: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of a ``metrics.csv`` by case id, scores as numbers.

    Raises:
        CaseError: if it is not a metrics table.
    """
    import pandas as pd  # see metrics_table

    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)  # "NA" and "007" are case ids, not numbers
        rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
        for row in rows:
            row.update({name: float(row[name]) for name in (*KNOWN, *REFERENCE_SIZES) if row.get(name)})
        check_rows(rows)
    except (OSError, ValueError) as error:
        raise CaseError(
            "this is not a metrics.csv of an evaluation",
            file=path,
            found=str(error).split("\n")[0] if isinstance(error, ValueError) else "no readable file",
            remedy="Give the metrics.csv that an evaluation wrote.",
        ) from error
    return {str(row["case_id"]): row for row in rows}


def check_comparable(models: Mapping[str, Rows]) -> None:
    """All models were measured on the same cases against the same references.

    Raises:
        CaseError: that lists the cases which are not common; a failed case counts as not measured.
    """
    measured = {name: {case for case, row in rows.items() if not is_failed(row)} for name, rows in models.items()}
    common = set.intersection(*measured.values())
    missing = {name: sorted(set.union(*measured.values()) - cases) for name, cases in measured.items()}
    if any(missing.values()) or not common:
        raise CaseError(
            "the models were not measured on the same cases",
            found="; ".join(f"{name} lacks {', '.join(cases)}" for name, cases in missing.items() if cases)
            or "no case",
            remedy="Evaluate all models on one cohort and repair the failed cases.",
        )
    first, *others = models.values()
    differing = [
        case
        for case in sorted(common)
        for other in others
        if not np.isclose(_reference_size(first[case]), _reference_size(other[case]), rtol=1e-6)
    ]
    if differing:
        raise CaseError(
            "the models were not measured against the same references",
            found=f"other reference volumes for {', '.join(dict.fromkeys(differing))}",
            remedy="Evaluate all models with the same labels.",
        )


def _reference_size(row: Mapping[str, Any]) -> float:
    return float(next(row[name] for name in REFERENCE_SIZES if row.get(name, "") != ""))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p values ``(n,)`` corrected by Holm's step-down method, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def rank_biserial(gains: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation of differences, -1 to 1; 0 if there is no difference."""
    from scipy.stats import rankdata  # a second that only a comparison should wait

    x = np.asarray(gains, dtype=np.float64)
    x = x[np.abs(x) > TIE]
    if not x.size:
        return 0.0
    ranks = rankdata(np.abs(x))
    return float((ranks * np.sign(x)).sum() / ranks.sum())


def _check_settings(paths: Mapping[str, Path]) -> None:
    """Refuse scores with other tolerances or match rules; a table without its ``metrics.json`` is taken on trust."""
    found = {}
    for name, path in paths.items():
        beside = path.with_name("metrics.json")
        if beside.is_file():
            found[name] = json.dumps(json.loads(beside.read_text(encoding="utf-8")).get("settings"), sort_keys=True)
    if len(set(found.values())) > 1:
        text = "; ".join(f"{name}: {settings}" for name, settings in found.items())
        raise CaseError(
            "the models were measured with other settings",
            found=text,
            remedy="Evaluate them again with the same settings.",
        )


def _pair(models: Mapping[str, Rows], pair: tuple[str, str], measure: str) -> Comparison:
    from scipy.stats import wilcoxon

    first, second = (models[name] for name in pair)
    cases = [case for case, row in first.items() if not is_failed(row)]
    a, b = (np.array([float(rows[case][measure]) for case in cases]) for rows in (first, second))
    if KNOWN[measure].better == "zero":
        a, b = np.abs(a), np.abs(b)
    subjects = [subject_of(first[case]) for case in cases]
    gains = badness(measure, a) - badness(measure, b)  # positive: the second model is better
    tested = per_subject(gains, subjects)
    tested[np.abs(tested) <= TIE] = 0.0
    spread = summarize(b - a, subjects)
    effective = int(np.count_nonzero(tested))
    return Comparison(
        measure=measure,
        first=pair[0],
        second=pair[1],
        cases=len(cases),
        subjects=len(tested),
        mean_difference=spread.mean,
        low=spread.mean_low,
        high=spread.mean_high,
        median_difference=spread.median,
        rank_biserial=rank_biserial(tested),
        wins=int((gains > TIE).sum()),
        ties=int((np.abs(gains) <= TIE).sum()),
        losses=int((gains < -TIE).sum()),
        p=float(wilcoxon(tested[tested != 0]).pvalue) if effective else 1.0,
        p_holm=1.0,
        p_smallest=min(1.0, 2.0 ** (1 - len(tested))),
    )


def _corrected(results: Sequence[Comparison]) -> list[Comparison]:
    """Corrected among themselves, and the smallest p that this can give: all of them as small as can be."""
    corrected = holm([result.p for result in results]).tolist()
    return [
        replace(result, p_holm=p, p_smallest=min(1.0, len(results) * result.p_smallest))
        for result, p in zip(results, corrected)
    ]
