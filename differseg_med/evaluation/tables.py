"""``metrics.csv`` and ``metrics.json``: the scores of each case, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from differseg_med.atomic import write_text
from differseg_med.metrics.case import Settings
from differseg_med.metrics.policy import KNOWN, POLICY
from differseg_med.metrics.rows import DONE, Row, check_rows, is_failed, subject_of
from differseg_med.metrics.statistics import CONFIDENCE, RESAMPLES, SEED, summarize
from differseg_med.tables import write_frame

if TYPE_CHECKING:
    import pandas as pd

FIRST_COLUMNS = ("case_id", "subject_id", "status", "reason", *KNOWN, "volume_ml", "reference_ml", "empty")


def write_metrics(
    rows: Sequence[Row],
    directory: str | Path,
    *,
    failed: Iterable[str] | Mapping[str, str] = (),
    settings: Settings | None = None,
    notices: Iterable[str] = (),
    saliency: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write ``metrics.csv`` (one line per case) and ``metrics.json`` (the summary), each in one step.

    Args:
        rows: per case ``case_id`` and what `case_metrics` returns, or ``status`` ``failed`` and a ``reason``. Optional:
            ``subject_id``, a ``notice``, and any columns to group by.
        directory: folder of the two files; created.
        failed: cases without a row that could not be predicted or measured, with the reasons if known.
        settings: the settings that `case_metrics` had; default: its default.
        notices: sentences that concern the whole run, for example extra predictions.
        saliency: measures of the whole set of pictures, see `Saliency.results`.

    Returns:
        The content of ``metrics.json``, see `summarize_rows`.

    Raises:
        ValueError: for a row without ``case_id`` or with one used twice, or that has neither scores nor failed.
    """
    directory = Path(directory)
    reasons = failed if isinstance(failed, Mapping) else dict.fromkeys(failed, "")
    rows = [*rows, *({"case_id": case, "status": "failed", "reason": reason} for case, reason in reasons.items())]
    summary = summarize_rows(rows, settings=settings)
    summary["notices"] = [*notices, *(f"{row['case_id']}: {row['notice']}" for row in rows if row.get("notice"))]
    summary |= {"saliency": dict(saliency)} if saliency else {}
    table = metrics_table(rows)
    write_frame(directory / "metrics.csv", table)
    write_text(directory / "metrics.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def metrics_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table, in the order given, the columns that everybody knows first."""
    import pandas as pd  # not with the module: every prediction starts with it, and none needs pandas

    table = pd.DataFrame([{"status": DONE, "reason": "", **row} for row in rows])
    known = [name for name in FIRST_COLUMNS if name in table.columns or name == "case_id"]
    return table.reindex(columns=known + [name for name in table.columns if name not in known])


def summarize_rows(rows: Sequence[Row], *, settings: Settings | None = None) -> dict[str, Any]:
    """What the rows say together.

    Returns:
        ``policy`` in words, ``settings``, ``counts`` (cases, evaluated, failed, subjects, empty_prediction,
        empty_reference, empty_both), ``empty_cases`` (case ids by kind), ``failed_cases`` (case id and reason),
        ``intervals`` (how they were made) and ``metrics``: per measure the fields of `MeasureSummary`.
    """
    check_rows(rows)
    done = [row for row in rows if not is_failed(row)]
    subjects = [subject_of(row) for row in done]
    empty = {
        kind: [str(row["case_id"]) for row in done if row["empty"] == kind]
        for kind in ("prediction", "reference", "both")
    }
    return {
        "policy": POLICY,
        "settings": (settings or Settings()).describe(),
        "counts": {
            "cases": len(rows),
            "evaluated": len(done),
            "failed": len(rows) - len(done),
            "subjects": len(set(subjects)),
            **{f"empty_{kind}": len(cases) for kind, cases in empty.items()},
        },
        "empty_cases": empty,
        "failed_cases": [
            {"case_id": str(row["case_id"]), "reason": str(row.get("reason", ""))} for row in rows if is_failed(row)
        ],
        "intervals": f"{CONFIDENCE:.0%} percentile bootstrap over subjects, {RESAMPLES} samples, seed {SEED}",
        "metrics": {
            name: summarize([float(row[name]) for row in done], subjects).as_dict()
            for name in KNOWN
            if done and all(name in row for row in done)
        },
    }
