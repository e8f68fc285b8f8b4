"""Labelled cases of a table as a data set: preprocessed once, checked before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose

from differseg_med.case import Cohort
from differseg_med.cohort.kinds import table_files
from differseg_med.errors import CaseError
from differseg_med.prediction.dataset import MEMORY_GB, TrainingDataset, cached_items, tell_presence
from differseg_med.training.folds import OUT_OF_FOLD
from differseg_med.training.preflight import refuse_leaks, try_samples
from differseg_med.training.processes import after_first, is_first, refuse_processes

logger = logging.getLogger(__name__)


def labelled_data(
    cohort: Cohort,
    split: str | Sequence[str],
    transform: Callable[..., Any],
    cache_dir: str | Path,
    samples: Compose | None,
    memory_gb: float = MEMORY_GB,
) -> MonaiDataset:
    """Labelled cases of a split; see the factory `differseg_med.bundles.factories.training_dataset`.

    Raises:
        CaseError: if this is one of several processes, a subject is on both sides of the split, no case can be used,
            or one is too small for the samples.
    """
    refuse_processes()
    refuse_leaks(cohort)
    wanted = [split] if isinstance(split, str) else split
    if samples is None and not any(case.split in wanted for case in cohort.cases):
        if not any(case.split == OUT_OF_FOLD for case in cohort.cases):  # the folds say what becomes of those
            logger.warning("no row is for %s: best.pt will be the average of the last epoch, unvalidated", split)
        return TrainingDataset([], None, tables=table_files(cohort.path))
    if samples is None and not is_first():  # of several processes the first one validates
        return TrainingDataset([], None, tables=table_files(cohort.path))
    cases, unreadable = cohort.select(split or None), list[CaseError]()

    def prepared() -> Sequence[Any]:
        room = memory_gb if samples is not None else 0.0  # a validation reads each case once
        items = cached_items(cases, transform, cache_dir, unreadable=unreadable, memory_gb=room)
        if samples is not None and is_first():
            try_samples(items, samples)
        return items

    items = prepared() if samples is None else after_first(prepared)
    usable = {item["case_id"] for item in items}
    tell_presence([case for case in cases if case.case_id in usable], cohort.modalities)
    return TrainingDataset(items, samples, cases, unreadable, table_files(cohort.path))
