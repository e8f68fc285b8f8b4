"""Cases as a data set: one that fails is reported, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.errors import CaseError
from differseg_med.keys import LABEL
from differseg_med.runs.shards import Shard

Item = dict[str, Any]


class CohortDataset(Dataset):
    """Preprocessed cases, one at a time.

    Args:
        data: cases of the cohort.
        transform: from a case's paths to the network's input.
        finished: summary rows of an earlier run in the same folder, by case id, to go on with it; those that still hold
            need no work. None to begin anew.
        cohort: the table that the cases are of.
        output_dir: folder of the run's results.
        shard: which part of a run this is.
        everyone: ids of the cases of the whole run, in order; those of ``data`` by default.

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
        shard: Shard | None = None,
        everyone: Sequence[str] = (),
    ) -> None:
        self.data = list(data)
        self.shard, self.everyone = shard, tuple(everyone) or tuple(case.case_id for case in self.data)
        self.transform = transform
        self.finished = finished
        self.cohort, self.output_dir = cohort, None if output_dir is None else Path(output_dir)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        case = self.data[index]
        start = time.perf_counter()
        try:
            if case.problem is not None:
                raise case.problem.for_case(case.case_id)
            if self.finished and case.case_id in self.finished:
                return {"case": case, "finished": self.finished[case.case_id]}
            item = {key: value for key, value in case.as_item().items() if key != LABEL}
            sample = run_for_case(self.transform, item, case)
            return {"case": case, "sample": sample, "seconds": time.perf_counter() - start}
        except CaseError as error:
            return {"case": case, "error": error}


def single_item(batch: list[Item]) -> Item:
    """Collate function for batches of one case."""
    return batch[0]
