"""Predict and evaluate a cohort: masks on the reference's grid, one summary row per case, nothing lost on failure."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import Compose
from tqdm import tqdm

from differseg_med.cohort.table import Case
from differseg_med.engines.dataset import Item, run_for_case
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.evaluation.metrics import binary
from differseg_med.evaluation.report import write_metrics
from differseg_med.export.atomic import write_text
from differseg_med.export.nifti import save_mask
from differseg_med.transforms.grids import NOTES, REFERENCE, check_label, grid_of, original_grid
from differseg_med.transforms.loading import load_volume
from differseg_med.transforms.modalities import IMAGE, PRESENT
from differseg_med.transforms.restoring import PRED

logger = logging.getLogger(__name__)

MASK = "mask.nii.gz"
SUMMARY_COLUMNS = (
    "case_id",
    "status",
    "reason",
    "modalities",
    "seconds",
    "volume_ml",
    "reference",
    "notes",
)


class CohortEvaluator(SupervisedEvaluator):
    """MONAI evaluator that segments a cohort case by case and writes each result at once.

    Per case ``output_dir/<case_id>/mask.nii.gz``; for the cohort ``summary.csv``, and with ``evaluate``
    ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and overlays of the worst cases. A case that fails is
    reported and does not stop the others.

    Args:
        device: where the network runs.
        val_data_loader: loader over a `CohortDataset`, one case per batch.
        network: called by the inferer.
        inferer: volume to logits.
        postprocessing: logits to a mask on the original grid.
        output_dir: folder of the results.
        reference: the declared reference modality.
        evaluate: compare each mask with its case's label.
        amp: bfloat16 autocast.
        val_handlers: more MONAI or ignite handlers.
    """

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Iterable[Item],
        network: torch.nn.Module,
        inferer: Inferer,
        postprocessing: Compose,
        output_dir: str | Path,
        reference: str,
        *,
        evaluate: bool = False,
        amp: bool = False,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            val_handlers=val_handlers,
            amp=amp,
            decollate=False,
        )
        self.case_postprocessing = postprocessing
        self.output_dir, self.reference = Path(output_dir), reference
        self.evaluate = evaluate
        self.summary: list[dict[str, object]] = []
        self.metrics: list[dict[str, Any]] = []
        self._cases: list[Case] = []

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Work through the cohort."""
        self.summary, self.metrics, self._cases = [], [], []
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            super().run()
        finally:  # an interrupted run reports what it has
            if self.evaluate:
                self._write_evaluation()

    def _write_evaluation(self) -> None:
        """Measure the written masks and write the reports; cases that failed are listed as such."""
        problems = {row["case_id"]: row["reason"] for row in self.summary if row["status"] == "failed"}
        if all(row["status"] == "failed" for row in self.summary):
            write_metrics([], self.output_dir, failed={str(k): str(v) for k, v in problems.items()})
            return
        cases = [
            replace(case, problem=CaseError(str(problems[case.case_id])) if case.case_id in problems else None)
            for case in {case.case_id: case for case in self._cases}.values()  # an id may stand in several bad rows
        ]
        evaluation = evaluate_cohort(cases, self.output_dir, self.output_dir)
        self.metrics = evaluation.rows

    @property
    def failures(self) -> list[str]:
        """Messages of the failed cases, also of those that have a mask but could not be measured."""
        failed = [row for row in self.summary if row["status"] == "failed"]
        known = {row["case_id"] for row in failed}
        failed += [row for row in self.metrics if row["status"] == "failed" and row["case_id"] not in known]
        return [str(row["reason"]) for row in failed]

    def finish(self) -> None:
        """End the process with an error if a case failed; for the ``finalize`` of a bundle.

        Raises:
            SystemExit: with a line per failed case.
        """
        if self.failures:
            lines = "\n".join(f"  {message}" for message in self.failures)
            total = len(self.summary)
            raise SystemExit(f"{len(self.failures)} of {total} cases failed, the others are done:\n{lines}")

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Item) -> dict[str, Any]:
        case: Case = batchdata["case"]
        start = time.perf_counter()
        row: dict[str, object] = {**dict.fromkeys(SUMMARY_COLUMNS, ""), "case_id": case.case_id}
        try:
            if "error" in batchdata:
                raise batchdata["error"]
            if "finished" in batchdata:
                row |= batchdata["finished"]
                if self.evaluate:
                    run_for_case(lambda row: self._check_finished(case, row), row, case)
            else:
                row |= run_for_case(lambda sample: self._case(case, sample), batchdata["sample"], case)
                row["seconds"] = f"{batchdata['seconds'] + time.perf_counter() - start:.2f}"
            row["status"] = "done"
        except CaseError as error:
            row |= {"status": "failed", "reason": str(error)}
            if (self.output_dir / case.case_id / MASK).is_file():
                row[NOTES] = "the mask in the folder is of an earlier run"
            logger.error("%s", error)
        self.summary.append(row)
        self._cases.append(case)
        # Rows that an earlier run finished and this one has not reached yet must survive an interruption too.
        reached = {row["case_id"] for row in self.summary}
        rest = [row for case_id, row in self._finished().items() if case_id not in reached]
        write_summary([*self.summary, *rest], self.output_dir)
        engine.state.output = {"case_id": case.case_id, "status": row["status"]}
        return engine.state.output

    def _case(self, case: Case, sample: Item) -> dict[str, object]:
        """Segment one case; returns its part of the summary row."""
        label = _load_label(case) if self.evaluate else None
        if label is not None:
            binary(label.numpy(), "reference", case.label)  # before the work, not after it
        image: MetaTensor = sample[IMAGE]
        grid = original_grid(image)
        if label is not None:
            check_label(label, grid, sample[REFERENCE], self.reference)
        mask = self._segment(image, case.case_id)
        save_mask(mask, grid.affine, self.output_dir / case.case_id / MASK)
        notes = list(sample[NOTES])
        for note in notes:
            logger.warning("case %s: %s", case.case_id, note)
        return {
            "modalities": "+".join(sample[PRESENT]),
            "volume_ml": f"{mask.sum() * grid.voxel_volume_mm3 / 1000:.3f}",
            REFERENCE: sample[REFERENCE],
            NOTES: "; ".join(notes),
        }

    def _segment(self, image: MetaTensor, case_id: str) -> np.ndarray:
        """Mask ``(H, W, D)`` uint8 on the original grid."""
        batch = image.unsqueeze(0).to(self.state.device)
        planes = len(getattr(self.inferer, "planes", ("axial",)))
        with (
            self.mode(self.network),
            torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp),
            tqdm(
                desc=case_id, unit="slice", leave=False, disable=None, total=None if planes > 1 else image.shape[-1]
            ) as bar,
        ):
            logits = self.inferer(batch, self.network, progress=bar.update)
        if not bool(torch.isfinite(logits).all()):
            raise CaseError(
                "the network's output is not a number",
                case=case_id,
                remedy="Check the checkpoint; with amp, try without.",
            )
        sample = {IMAGE: image, PRED: logits[0].float().cpu()}
        restored = self.case_postprocessing(sample)[PRED]
        return np.asarray(restored[0], dtype=np.uint8)

    def _finished(self) -> Mapping[str, dict[str, object]]:
        """Summary rows of an earlier run that this one goes on with."""
        return getattr(getattr(self.data_loader, "dataset", None), "finished", {})

    def _check_finished(self, case: Case, row: dict[str, object]) -> None:
        """Hold the mask of an earlier run to the same rules as one written now."""
        mask = load_volume(self.output_dir / case.case_id / MASK)
        check_label(_load_label(case), grid_of(mask), str(row[REFERENCE]), self.reference)


def _load_label(case: Case) -> MetaTensor:
    if case.label is None:
        raise CaseError("the case has no label to compare with", remedy="Fill in the column label, or only predict.")
    return load_volume(case.label)


def write_summary(rows: Sequence[dict[str, object]], output_dir: Path) -> None:
    """Write ``summary.csv`` in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SUMMARY_COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(output_dir / "summary.csv", text.getvalue())


def read_finished(output_dir: str | Path) -> dict[str, dict[str, object]]:
    """Summary rows of an earlier run whose case is done and whose mask is still there, by case id."""
    path = Path(output_dir) / "summary.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["case_id"]: {column: row.get(column) or "" for column in SUMMARY_COLUMNS}
        for row in rows
        if row.get("status") == "done" and (path.parent / row.get("case_id", "") / MASK).is_file()
    }
