"""Predict and evaluate a cohort: masks on the reference's grid, one summary row per case, nothing lost on failure."""

from __future__ import annotations

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

from differseg_med.case import Case, run_for_case
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_cohort, mask_file
from differseg_med.evaluation.tables import write_metrics
from differseg_med.inferers import SliceWindowInferer, check_channels
from differseg_med.io.labels import load_case_label
from differseg_med.io.volumes import load_mask
from differseg_med.keys import CHANNELS, IMAGE, NOTES, PRED, PRESENT, PROBABILITY, REFERENCE
from differseg_med.metrics.case import Settings, binary
from differseg_med.prediction.dataset import Item
from differseg_med.prediction.quality import Fingerprint
from differseg_med.prediction.quality_flags import QualityFlags
from differseg_med.prediction.result import CaseResult, CaseWriter, write_mask, write_view
from differseg_med.prediction.summary import COLUMNS, DONE, FAILED, INCOMPLETE, Summary, SummaryRow, as_predicted
from differseg_med.progress import progress_bar
from differseg_med.reports.run import write_results_page
from differseg_med.transforms.grids import check_label, grid_of, original_grid
from differseg_med.transforms.modalities import StackModalitiesd

logger = logging.getLogger(__name__)


class CohortEvaluator(SupervisedEvaluator):
    """MONAI evaluator that segments a cohort case by case and writes each result at once.

    Per case ``output_dir/<case_id>/mask.nii.gz`` (of a picture ``mask.png``); for the cohort ``summary.csv`` and
    ``report.html``; with ``evaluate`` ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and overlays of the worst
    cases. A case that fails is reported and does not stop the others.

    Args:
        device: where the network runs.
        val_data_loader: loader over a `CohortDataset`, one case per batch.
        network: called by the inferer.
        inferer: volume to logits.
        postprocessing: logits to a mask on the original grid.
        output_dir: folder of the results.
        reference: the declared reference modality.
        evaluate: compare each mask with its case's label.
        stretch: pictures: stretch each probability to the full range before it is measured, as benchmarks do.
        amp: bfloat16 autocast.
        fingerprint: file of what the training cases measured, for the quality flags; None judges the mask alone.
        writers: what else to write of each case, after the mask. One that fails does not take away what others wrote.
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
        stretch: bool = False,
        amp: bool = False,
        fingerprint: str | Path | None = None,
        writers: Sequence[CaseWriter] = (),
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
        stack = getattr(getattr(getattr(val_data_loader, "dataset", None), "transform", None), "transforms", [None])[-1]
        if isinstance(stack, StackModalitiesd):
            check_channels(network, inferer, stack.channels)
        self.case_postprocessing = postprocessing
        judge = QualityFlags(Fingerprint.read(fingerprint) if fingerprint else None)
        self.writers: tuple[CaseWriter, ...] = (judge, write_view, *writers)
        self.output_dir, self.reference = Path(output_dir), reference
        self.evaluate, self.settings = evaluate, Settings(stretch=stretch)
        self.summary = Summary(self.output_dir)
        self.metrics: list[dict[str, Any]] = []
        self._cases: list[Case] = []
        self.problems: dict[str, CaseError] = {}

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Work through the cohort."""
        finished = getattr(getattr(self.data_loader, "dataset", None), "finished", {})
        self.summary, self.metrics = Summary(self.output_dir, finished), []
        self._cases, self.problems = [], {}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            super().run()
        finally:  # an interrupted run reports what it has
            if self.evaluate:
                self._write_evaluation()
            page = write_results_page(self.summary.all_rows, self.output_dir)
        done = len(self.summary.with_status(DONE))
        logger.info("%d of %d cases done: %s", done, len(self.summary.rows), "/".join(page.parts[-2:]))

    def _write_evaluation(self) -> None:
        """Measure the written masks and write the reports; cases that failed are listed as such."""
        if not self.summary.with_status(DONE, INCOMPLETE):
            reasons = {case_id: str(problem) for case_id, problem in self.problems.items()}
            write_metrics([], self.output_dir, failed=reasons)
            self.metrics = [{"case_id": c, "status": FAILED, "reason": reason} for c, reason in reasons.items()]
            return
        cases = [
            replace(case, problem=self.problems.get(case.case_id))
            for case in {case.case_id: case for case in self._cases}.values()  # an id may stand in several bad rows
        ]
        cases = as_predicted(cases, self.output_dir)
        self.metrics = evaluate_cohort(cases, self.output_dir, self.output_dir, settings=self.settings).rows

    @property
    def failures(self) -> list[str]:
        """Ids of the cases that failed or are incomplete, also of those whose mask could not be measured."""
        failed = [str(row["case_id"]) for row in self.summary.with_status(FAILED, INCOMPLETE)]
        return failed + [
            row["case_id"] for row in self.metrics if row["status"] == FAILED and row["case_id"] not in failed
        ]

    @property
    def problem(self) -> str:
        """The failures in one sentence; empty if there are none."""
        failed = self.failures
        if not failed:
            return ""
        ids = ", ".join(dict.fromkeys(failed))
        files = "summary.csv and metrics.csv say" if self.evaluate else "summary.csv says"
        total = len(self.summary.rows)
        others = ", the others are done" if len(failed) < total else ""
        return f"{len(failed)} of {total} cases failed or are incomplete{others}; {files} why: {ids}"

    def finish(self) -> None:
        """End the process with an error if a case failed; for the ``finalize`` of a bundle.

        Raises:
            SystemExit: with the ids of the failed cases; why, was logged when it happened.
        """
        if problem := self.problem:
            raise SystemExit(problem)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Item) -> dict[str, Any]:
        case: Case = batchdata["case"]
        start = time.perf_counter()
        row: SummaryRow = {**dict.fromkeys(COLUMNS, ""), "case_id": case.case_id, "modalities": case.modalities}
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
        except CaseError as error:
            self.problems[case.case_id] = error
            row |= {"status": FAILED, "reason": str(error)}
            if mask_file(self.output_dir, case.case_id).is_file():
                row[NOTES] = "the mask in the folder is of an earlier run"
            logger.error("%s", error)
        self._cases.append(case)
        self.summary.add(row)
        engine.state.output = {"case_id": case.case_id, "status": row["status"]}
        return engine.state.output

    def _case(self, case: Case, sample: Item) -> SummaryRow:
        """Segment one case and write its files; returns its part of the summary row."""
        if self.evaluate:  # before the work, not after it
            label = load_case_label(case)
            binary(label.numpy(), "reference", case.label)
            check_label(label, original_grid(sample[IMAGE]), sample[REFERENCE], self.reference)
        result = self._segment(case, sample)
        for note in result.notes:
            logger.warning("case %s: %s", case.case_id, note)
        row: SummaryRow = {
            "status": DONE,
            "modalities": "+".join(result.modalities),
            "volume_ml": f"{result.volume_ml:.3f}",
            REFERENCE: result.reference,
            NOTES: "; ".join(result.notes),
        }
        return row | self._write(result)

    def _write(self, result: CaseResult) -> SummaryRow:
        """Write the mask, then whatever else was asked for; returns the writers' columns of the summary."""
        case, folder = result.case, self.output_dir / result.case.case_id
        row: SummaryRow = dict(write_mask(result, folder))
        problems = []

        def write(writer: CaseWriter) -> Mapping[str, object]:
            return writer(result, folder)

        for writer in self.writers:
            try:
                row |= run_for_case(write, writer, case)
            except CaseError as error:
                logger.error("%s", error)
                problems.append(str(error))
        return row | ({"status": INCOMPLETE, "reason": "; ".join(problems)} if problems else {})

    def _segment(self, case: Case, sample: Item) -> CaseResult:
        image: MetaTensor = sample[IMAGE]
        batch = image.unsqueeze(0).to(self.state.device)
        own = isinstance(self.inferer, SliceWindowInferer)  # others would pass the progress on to the network
        slices = image.shape[-1] if own and len(self.inferer.planes) == 1 else None
        place = f"{case.case_id} ({len(self._cases) + 1}/{self.state.epoch_length})"
        with (
            self.mode(self.network),
            torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp),
            progress_bar(desc=place, unit="slice", leave=False, total=slices) as bar,
        ):
            logits = self.inferer(batch, self.network, **({"progress": bar.update} if own else {}))
        if not bool(torch.isfinite(logits).all()):
            raise CaseError(
                "the network's output is not a number", remedy="Check the checkpoint; with amp, try without."
            )
        restored = self.case_postprocessing({IMAGE: image, PRED: logits[0].float().cpu()})
        return CaseResult(
            case=case,
            mask=np.asarray(restored[PRED][0], dtype=np.uint8),
            probability=np.asarray(restored[PROBABILITY][0], dtype=np.float32),
            grid=original_grid(image),
            reference=sample[REFERENCE],
            modalities=tuple(sample[PRESENT]),
            image=image,
            notes=tuple(sample[NOTES]),
            channels=tuple(sample[CHANNELS]),
        )

    def _check_finished(self, case: Case, row: SummaryRow) -> None:
        """Hold the mask of an earlier run to the same rules as one written now."""
        mask = load_mask(mask_file(self.output_dir, case.case_id))
        check_label(load_case_label(case), grid_of(mask), str(row[REFERENCE]), self.reference)
