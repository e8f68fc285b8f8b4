"""Cases as a data set: one that fails is reported, the others go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, SelectItemsd
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.availability import presence_in_words
from differseg_med.errors import CaseError
from differseg_med.io.dicom.reader import stamp
from differseg_med.keys import AFFINE, CHANNELS, IMAGE, LABEL
from differseg_med.progress import progress_bar
from differseg_med.transforms.affines import KeepAffined

logger = logging.getLogger(__name__)

Item = dict[str, Any]


class CohortDataset(Dataset):
    """Preprocessed cases, one at a time.

    Args:
        data: cases of the cohort.
        transform: from a case's paths to the network's input.
        finished: summary rows of cases that need no work any more, by case id.
        cohort: the table that the cases are of.
        output_dir: folder of the run's results.

    An item is ``{"case": Case, "sample": dict, "seconds": float}``, ``{"case": Case, "error": CaseError}`` or
    ``{"case": Case, "finished": row}``.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Callable[[Item], Item],
        finished: Mapping[str, dict[str, object]] | None = None,
        cohort: Cohort | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.finished = finished or {}
        self.cohort, self.output_dir = cohort, None if output_dir is None else Path(output_dir)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        case = self.data[index]
        start = time.perf_counter()
        try:
            if case.problem is not None:
                raise case.problem.for_case(case.case_id)
            if case.case_id in self.finished:
                return {"case": case, "finished": self.finished[case.case_id]}
            item = {key: value for key, value in case.as_item().items() if key != LABEL}
            sample = run_for_case(self.transform, item, case)
            return {"case": case, "sample": sample, "seconds": time.perf_counter() - start}
        except CaseError as error:
            return {"case": case, "error": error}


def single_item(batch: list[Item]) -> Item:
    """Collate function for batches of one case."""
    return batch[0]


def cached_items(
    cases: Sequence[Case],
    transform: Callable[..., Any],
    cache_dir: str | Path,
    keys: Sequence[str] = (IMAGE, LABEL, CHANNELS),
) -> list[Item]:
    """Preprocess labelled cases once, to disk (MONAI's `PersistentDataset`) and memory, with a progress bar.

    Cases that cannot be used are logged with the reason and left out.

    Args:
        cases: cases with labels.
        transform: deterministic preprocessing; the cache notices when it or a file changes.
        cache_dir: folder of the cache.
        keys: entries of the result to keep, tensors as plain ones, beside ``case_id`` and the ``affine`` of the first.

    Raises:
        CaseError: if no case can be used.
    """
    steps = Compose(
        [*getattr(transform, "transforms", [transform]), KeepAffined(keys[0]), SelectItemsd((*keys, AFFINE, "case_id"))]
    )
    dataset = PersistentDataset([], steps, cache_dir, hash_transform=pickle_hashing)
    usable: list[Item] = []
    for case in progress_bar(cases, desc="preparing", unit="case"):
        try:
            if case.problem is not None:
                raise case.problem
            if case.label is None:
                raise CaseError("the case has no label", case=case.case_id, remedy="Fill in the column label.")
            item = {**case.as_item(), "stamps": [stamp(p) for p in (*case.images.values(), case.label)]}
            # The first time the cache gives MetaTensors, later plain ones: samples must not depend on which.
            content = run_for_case(dataset._cachecheck, item, case)
            if LABEL in keys and not content[LABEL].any():
                logger.warning("case %s: the label is empty on the network's grid", case.case_id)
            usable.append(convert_to_tensor(content, track_meta=False, convert_numeric=False))
        except CaseError as error:
            logger.error("left out: %s", error)
    if not usable:
        raise CaseError("no case can be used", expected="at least one with images and a label")
    return usable


def tell_presence(cases: Sequence[Case], modalities: Sequence[str]) -> None:
    """Log which modalities the cases of a training or its validation have, and warn of those that none has."""
    split = "+".join(dict.fromkeys(case.split for case in cases))
    logger.info("%s: %s", split, presence_in_words(cases))
    for name in modalities:
        if not any(name in case.images for case in cases):
            logger.warning("%s: no case has %s: nothing can be learnt or told about it", split, name)
