"""What of an earlier prediction in the same folder still holds, and where the rest goes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from differseg_med.case import Case
from differseg_med.errors import CaseError, shown
from differseg_med.evaluation.predictions import IMAGE2D_MASK, MASK
from differseg_med.evaluation.run import RESULTS as EVALUATION
from differseg_med.prediction.summary import FILE, Summary, SummaryRow
from differseg_med.runs.folder import refuse_data, set_aside
from differseg_med.runs.manifest import Step, list_differences, read_steps
from differseg_med.runs.names import MANIFEST

logger = logging.getLogger(__name__)

STEP = "predict"
RESULTS = (FILE, "report.html", "derivatives", *EVALUATION)
"""Results of the whole cohort."""


def keep_what_holds(
    folder: Path, cases: Sequence[Case], step: Step, finished: Mapping[str, SummaryRow] | None
) -> dict[str, SummaryRow]:
    """The finished cases that need no work; whatever else an earlier run left is moved aside.

    A case is kept if the earlier run had the same settings, weights and code, and the case the same files. A run with
    other settings cannot be resumed; cases whose files have changed, or that lack a format asked for now, are computed
    again.

    Args:
        folder: of the results.
        cases: of this run.
        step: this run.
        finished: summary rows of the earlier run, to resume; None to begin anew.

    Raises:
        CaseError: if results would lie among the data, or the earlier run had other settings.
    """
    refuse_data(folder, cases)
    earlier = read_steps(folder).get(STEP)
    folders = [case.case_id for case in cases if case.problem is None]
    if finished is None:
        set_aside(folder, [MANIFEST, *RESULTS, *(earlier.inputs if earlier else ()), *folders], _start(earlier))
        return {}
    if earlier is None:
        if finished:
            logger.warning("%s does not say what made the masks in %s: all are computed again", MANIFEST, shown(folder))
        set_aside(folder, [*RESULTS, *folders])
        return {}
    if differences := earlier.differences(step):
        raise CaseError(
            "the results in this folder were made with other settings, so this run cannot resume there",
            file=folder,
            found=list_differences(differences),
            remedy="Use the earlier settings, choose another --out, or leave out --resume: the old results are kept.",
        )
    kept = {}
    for case_id, row in finished.items():
        if why := _changed(case_id, earlier, step):
            logger.warning("case %s: computed again: %s", case_id, why)
        else:
            kept[case_id] = row
    stale = [case_id for case_id in folders if case_id in finished and case_id not in kept]
    if stale:  # before the new stamps are written: else a run that is killed now would take the old masks for its own
        Summary(folder, kept).write()
    set_aside(folder, [*stale, *(EVALUATION if stale else ())], _start(earlier))
    return kept


def _changed(case_id: str, earlier: Step, step: Step) -> str:
    """Why a finished case is computed again; empty if it holds."""
    if case_id not in step.inputs:
        return ""  # not of this run: its row stays
    if new := sorted(step.results.keys() - earlier.results.keys()):
        return f"now with {', '.join(new)}"
    before, now = earlier.inputs.get(case_id, {}), step.inputs[case_id]
    columns = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    return f"{', '.join(columns)} changed" if columns else ""


def _start(step: Step | None) -> str:
    return step.started if step else ""


def written_names(names: Sequence[str]) -> dict[str, str]:
    """The masks and formats of a run, for its manifest."""
    return dict.fromkeys((MASK, IMAGE2D_MASK, *names), "")
