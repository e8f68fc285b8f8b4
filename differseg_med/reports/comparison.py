"""``comparison.html``: models against each other, measure by measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.metrics.policy import KNOWN, POLICY
from differseg_med.metrics.rows import is_failed, subject_of
from differseg_med.metrics.statistics import summarize
from differseg_med.reports import figures
from differseg_med.reports.pages import (
    SUMMARY_HEADER,
    Figure,
    Notice,
    Section,
    Table,
    interval,
    summary_cells,
    write_page,
)

Rows = Mapping[str, Mapping[str, Any]]  # by case id

LEVEL = 0.05
"""p above which nothing is decided."""

PAIR_HEADER = (
    "second - first",
    "mean difference (95 % interval)",
    "median difference",
    "rank-biserial",
    "wins / ties / losses",
    "p",
    "p (Holm)",
    "smallest p (Holm) possible",
)


def write_comparison_page(
    models: Mapping[str, Rows],
    pairs: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    method: str,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a comparison.

    Args:
        models: rows by case id, by name of the model; all on the same cases.
        pairs: the lines of ``comparison.csv``.
        path: the file to write.
        method: how the pairs were tested, in words.
        provenance: what made it.
    """
    first = next(iter(models.values()))
    cases = [case for case, row in first.items() if not is_failed(row)]
    subjects = [subject_of(first[case]) for case in cases]
    sections = []
    for measure in dict.fromkeys(pair["measure"] for pair in pairs):
        found = [pair for pair in pairs if pair["measure"] == measure]
        sections.append(_section(measure, models, found, cases, subjects))
    sections += [Section("Method", [method]), Section("Policy", [POLICY])]
    return write_page(
        path,
        "Comparison of models",
        sections,
        lead=f"{len(models)} models, {len(cases)} cases of {len(set(subjects))} subjects.",
        notices=[*_other_modalities(models, cases), *_undecidable(pairs)],
        provenance=provenance or {},
    )


def magnitude(rows: Rows, case: str, measure: str) -> float:
    """A score as it is compared: volume differences by their size."""
    value = float(rows[case][measure])
    return abs(value) if KNOWN[measure].better == "zero" else value


def _section(
    measure: str,
    models: Mapping[str, Rows],
    pairs: Sequence[Mapping[str, Any]],
    cases: Sequence[str],
    subjects: Sequence[str],
) -> Section:
    label = KNOWN[measure].label
    scores = [
        [name, *summary_cells(summarize([rows[case][measure] for case in cases], subjects))]
        for name, rows in models.items()
    ]
    panels = {}
    for pair in pairs:
        first, second = (models[pair[name]] for name in ("first", "second"))
        panels[f"{pair['second']}\n- {pair['first']}"] = [
            magnitude(second, case, measure) - magnitude(first, case, measure) for case in cases
        ]
    parts = [
        Table(f"{label} of each model", ("model", *SUMMARY_HEADER), scores),
        Table(f"{label}: pairs of models", PAIR_HEADER, [_cells(pair) for pair in pairs]),
        Figure(figures.paired_differences(panels, label), f"{label}: difference of each case, bar: median."),
    ]
    return Section(label, parts)


def _other_modalities(models: Mapping[str, Rows], cases: Sequence[str]) -> Iterator[Notice]:
    """A notice if models were given other modalities of the same case."""
    given = {name: [str(rows[case].get("modalities", "")) for case in cases] for name, rows in models.items()}
    differing = sum(len(set(own)) > 1 for own in zip(*given.values()))
    if differing:
        counts = {name: Counter(own).most_common() for name, own in given.items()}
        words = "; ".join(f"{name}: {', '.join(f'{m} {n}' for m, n in own)}" for name, own in counts.items())
        yield Notice(
            f"{differing} of {len(cases)} cases were given to the models with different modalities ({words}): the "
            "differences below are also those of the modalities."
        )


def _undecidable(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """A notice if no result could have been significant."""
    if pairs and (smallest := min(pair["p_smallest"] for pair in pairs)) > LEVEL:
        per_measure = len({(pair["first"], pair["second"]) for pair in pairs})
        yield Notice(
            f"With {pairs[0]['subjects']} subjects and {per_measure} pairs of models no corrected p can be below "
            f"{smallest:.2g}: this comparison cannot decide. Compare fewer models (--against-first), or more subjects."
        )


def _cells(pair: Mapping[str, Any]) -> list[object]:
    return [
        f"{pair['second']} - {pair['first']}",
        interval(pair["mean_difference"], pair["low"], pair["high"], pair["subjects"]),
        pair["median_difference"],
        pair["rank_biserial"],
        f"{pair['wins']} / {pair['ties']} / {pair['losses']}",
        *(f"{pair[name]:.2g}" for name in ("p", "p_holm", "p_smallest")),
    ]
