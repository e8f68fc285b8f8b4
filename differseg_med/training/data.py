"""Labelled cases of a table as a data set: preprocessed once, checked before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, SelectItemsd
from monai.utils import convert_to_tensor
from torch import Tensor

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.availability import presence_in_words
from differseg_med.cohort.kinds import table_files
from differseg_med.errors import CaseError
from differseg_med.keys import AFFINE, CHANNELS, IMAGE, LABEL
from differseg_med.progress import progress_bar
from differseg_med.runs.cache import cached, prune
from differseg_med.runs.describe import described, digest
from differseg_med.runs.stamps import case_stamps, code_hash, stamp
from differseg_med.training.folds import OUT_OF_FOLD
from differseg_med.training.preflight import refuse_leaks, try_samples
from differseg_med.training.processes import after_first, is_first, refuse_processes
from differseg_med.transforms.affines import KeepAffined

logger = logging.getLogger(__name__)

_Item = dict[str, Any]

MEMORY_GB = 2.0
"""Of preprocessed cases of a training that are kept in memory; the others are read from the disk at each access."""


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


class TrainingDataset(MonaiDataset):
    """Preprocessed cases, with a random transform at each access.

    Args:
        data: items, see `cached_items`, which says where they are kept.
        transform: the random part; None for whole volumes.
        cases: rows of the table that the items were made from.
        unreadable: why others could not be used.
        tables: the files of the cohort table.
    """

    def __init__(
        self,
        data: Sequence[_Item],
        transform: Callable[..., Any] | None,
        cases: Sequence[Case] = (),
        unreadable: Sequence[CaseError] = (),
        tables: Sequence[Path] = (),
    ) -> None:
        super().__init__(data, transform)
        self.cases, self.unreadable, self.tables = tuple(cases), tuple(unreadable), tuple(tables)


class CachedItems(Sequence[_Item]):
    """Preprocessed cases, the first ones in memory, the others read from the cache on disk at each access.

    Args:
        room: bytes of tensors to keep in memory.
    """

    def __init__(self, room: float) -> None:
        self._items: list[_Item | Callable[[], _Item]] = []
        self._room = room

    def add(self, load: Callable[[], _Item], content: _Item) -> None:
        """Add a case: what reads it, and what that gave just now."""
        size = sum(value.numel() * value.element_size() for value in content.values() if isinstance(value, Tensor))
        kept = size <= self._room
        self._room -= size if kept else 0
        self._items.append(content if kept else load)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> _Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[_Item]: ...

    def __getitem__(self, index: int | slice) -> _Item | list[_Item]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        found = self._items[index]
        return found() if callable(found) else found


def cached_items(
    cases: Sequence[Case],
    transform: Callable[..., Any],
    cache_dir: str | Path,
    keys: Sequence[str] = (IMAGE, LABEL, CHANNELS),
    unreadable: list[CaseError] | None = None,
    memory_gb: float = MEMORY_GB,
) -> CachedItems:
    """Preprocess labelled cases once, to disk, with a progress bar.

    Cases that cannot be used are logged with the reason and left out. An entry of the cache is used only if nothing
    that decides it has changed: settings, code, and the files of the case; `differseg_med.runs.cache` has its bound.

    Args:
        cases: cases with labels.
        transform: deterministic preprocessing; the cache notices when it or a file changes.
        cache_dir: folder of the cache.
        keys: entries of the result to keep, tensors as plain ones, beside ``case_id`` and the ``affine`` of the first.
        unreadable: gets the reasons of those that are left out although they have a label.
        memory_gb: of the cases to keep in memory too; the others are read from the disk whenever they are asked for.

    Raises:
        CaseError: if no case can be used; at an access, if the files of a case have changed and its entry is gone.
    """
    steps = Compose(
        [*getattr(transform, "transforms", [transform]), KeepAffined(keys[0]), SelectItemsd((*keys, AFFINE, "case_id"))]
    )
    pipeline = digest(described(steps=steps), code_hash())
    prune(Path(cache_dir))
    usable = CachedItems(memory_gb * 1e9)
    for case in progress_bar(cases, desc="preparing", unit="case"):
        try:
            if case.problem is not None:
                raise case.problem
            if case.label is None:
                raise CaseError("the case has no label", case=case.case_id, remedy="Fill in the column label.")
            key = run_for_case(partial(_key, pipeline), case, case)
            make = partial(_made, steps=steps, pipeline=pipeline, key=key)
            load = partial(run_for_case, partial(_loaded, folder=Path(cache_dir), key=key, make=make), case, case)
            content = load()
            if LABEL in keys and not content[LABEL].any():
                logger.warning("case %s: the label is empty on the network's grid", case.case_id)
            usable.add(load, content)
        except CaseError as error:
            logger.error("left out: %s", error)
            if unreadable is not None and (case.label is not None or case.problem is not None):
                unreadable.append(error.for_case(case.case_id))
    if not usable:
        raise CaseError("no case can be used", expected="at least one with images and a label")
    return usable


def _key(pipeline: str, case: Case) -> str:
    """What decides the entry of a case: the steps, and its files."""
    return digest(pipeline, case.case_id, case_stamps(case), stamp(case.label or ""))


def _loaded(case: Case, folder: Path, key: str, make: Callable[[Case], _Item]) -> _Item:
    """A case from the cache, made if it is not there."""
    plain: _Item = cached(folder, key, partial(make, case))
    return plain


def _made(case: Case, steps: Compose, pipeline: str, key: str) -> _Item:
    """A case through the steps.

    Raises:
        CaseError: if its files are not those of the key any more: a training would go on with other voxels.
    """
    if _key(pipeline, case) != key:
        raise CaseError(
            "the files of the case have changed since the training began, and its entry of the cache is gone",
            case=case.case_id,
            remedy="Start the training again with the files as they are now.",
        )
    plain: _Item = convert_to_tensor(dict(steps(case.as_item())), track_meta=False, convert_numeric=False)
    return plain


def tell_presence(cases: Sequence[Case], modalities: Sequence[str]) -> None:
    """Log which modalities the cases of a training or its validation have, and warn of those that none has."""
    split = "+".join(dict.fromkeys(case.split for case in cases))
    logger.info("%s: %s", split, presence_in_words(cases))
    for name in modalities:
        if not any(name in case.images for case in cases):
            logger.warning("%s: no case has %s: nothing can be learnt or told about it", split, name)
