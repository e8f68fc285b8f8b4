"""Cohorts through the evaluator with a network whose masks are known; helpers, not tests."""

from __future__ import annotations

from pathlib import Path

import torch

from differseg_med.bundles.factories import CohortEvaluator, case_loader, cohort_dataset, postprocessing, preprocessing
from differseg_med.inferers import SliceWindowInferer
from support.synthetic import (
    MODALITIES,
    ThresholdCenter,
    read_rows,
    row_of,
    write_case,
    write_table,
)


class StopsAt(ThresholdCenter):
    """Raises at the n-th case; with batches of all slices a case is one call. To a manifest it is the same network."""

    __qualname__ = ThresholdCenter.__qualname__

    def __repr__(self) -> str:
        return repr(ThresholdCenter())

    def __init__(self, case: int, error: BaseException) -> None:
        super().__init__()
        self._case, self._error = case, error

    def forward(self, x):
        if len(self.calls) + 1 == self._case:
            self.calls.append(())
            raise self._error
        return super().forward(x)


def evaluator_of(
    table: Path, network=None, resume: bool = False, evaluate: bool = True, **settings: object
) -> CohortEvaluator:
    out = table.parent / "out"
    transform = preprocessing(MODALITIES, "t1", None)
    dataset = cohort_dataset(table, MODALITIES, transform, output_dir=out, resume=resume)
    return CohortEvaluator(
        device=torch.device("cpu"),
        val_data_loader=case_loader(dataset),
        network=network or ThresholdCenter(),
        inferer=SliceWindowInferer((24, 24), sw_batch_size=16),
        postprocessing=postprocessing(),
        output_dir=out,
        reference="t1",
        evaluate=evaluate,
        **settings,
    )


def picture_evaluator(table: Path, **settings: object) -> CohortEvaluator:
    """A run over photographs, column ``rgb``, with masks measured against their labels."""
    modalities, out = {"rgb": {"kind": "image"}}, table.parent / "out"
    dataset = cohort_dataset(table, modalities, preprocessing(modalities, "rgb", spatial_size=(32, 32)), output_dir=out)
    return CohortEvaluator(
        device=torch.device("cpu"),
        val_data_loader=case_loader(dataset),
        network=ThresholdCenter(threshold=0.0, num_slices=1),
        inferer=SliceWindowInferer((32, 32), num_slices=1),
        postprocessing=postprocessing(),
        output_dir=out,
        reference="rgb",
        evaluate=True,
        **settings,
    )


def cohort(folder: Path, *cases: str, **changes: dict) -> Path:
    """A table of good cases; ``changes`` replace cells of a case's row."""
    table = folder / "cohort.csv"
    rows = [row_of(c, write_case(folder / c, seed=i), table) | changes.get(c, {}) for i, c in enumerate(cases)]
    return write_table(table, rows)


def summary(table: Path) -> dict[str, dict[str, str]]:
    return read_rows(table.parent / "out" / "summary.csv")


def masks(table: Path) -> dict[str, int]:
    """Time of the last change of each mask by case."""
    return {p.parent.name: p.stat().st_mtime_ns for p in (table.parent / "out").glob("*/mask.nii.gz")}
