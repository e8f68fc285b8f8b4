"""What would go wrong in the middle of a training, tried before it begins."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.leaks import subject_leaks
from differseg_med.errors import CaseError
from differseg_med.keys import IMAGE

TRIES = 6
"""How often the samples of a case are drawn: several planes, and what happens at random."""


def refuse_leaks(cohort: Cohort) -> None:
    """Refuse a table in which a subject is in several splits: the validation would measure what was learnt by heart.

    Raises:
        CaseError: naming the first subject, its cases and the remedy.
    """
    found = [finding for finding in subject_leaks(cohort.cases) if finding.column == "split"]
    if found:
        more = f"; and {len(found) - 1} more subjects" if len(found) > 1 else ""
        raise CaseError(f"{found[0].text}{more}", file=cohort.path, remedy=found[0].remedy)


def try_samples(items: Sequence[dict[str, Any]], samples: Compose) -> None:
    """Draw samples of the smallest and the thinnest case, which break first.

    Raises:
        CaseError: naming the case.
    """
    shapes = [tuple(item[IMAGE].shape[1:]) for item in items]
    smallest = min(range(len(items)), key=lambda n: shapes[n][0] * shapes[n][1] * shapes[n][2])
    thinnest = min(range(len(items)), key=lambda n: min(shapes[n]))
    trial = copy.deepcopy(samples)  # the training's own random numbers stay as they are
    trial.set_random_state(0)
    for number in dict.fromkeys((smallest, thinnest)):
        case_id = str(items[number]["case_id"])
        for _ in range(TRIES):
            try:
                run_for_case(trial, items[number], Case(case_id, case_id, {}))
            except CaseError as error:
                size = " x ".join(map(str, shapes[number]))
                raise CaseError(
                    f"no training sample can be drawn from this image of {size} voxels on the network's grid",
                    case=case_id,
                    found=error.found,
                    remedy="Take it out of the table, or choose another pixdim or other planes.",
                ) from error
