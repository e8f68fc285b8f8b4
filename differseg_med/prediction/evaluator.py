"""Predict and evaluate a cohort: masks on the reference's grid, one summary row per case, nothing lost on failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import Compose

from differseg_med.backends.engines import installed
from differseg_med.backends.precision import NAMES, Amp, in_bfloat16
from differseg_med.backends.prepared import AUTO, EXPORT_PAYS, Prepared, named_backend
from differseg_med.case import Case, run_for_case
from differseg_med.cohort.kinds import table_files
from differseg_med.errors import CaseError, shown
from differseg_med.evaluation.evaluate import Measurements, check_predictions, read_reference
from differseg_med.evaluation.predictions import mask_file
from differseg_med.evaluation.run import STEP as EVALUATION
from differseg_med.evaluation.run import evaluation_step, make_room
from differseg_med.evaluation.tables import write_metrics
from differseg_med.guard import writing_for
from differseg_med.inferers import SliceWindowInferer, check_channels
from differseg_med.io.volumes import load_mask
from differseg_med.keys import CHANNELS, IMAGE, NOTES, PRED, PRESENT, PROBABILITY, REFERENCE
from differseg_med.metrics.case import Settings
from differseg_med.networks.ensemble import mean_logits, members_of
from differseg_med.prediction.dataset import Item
from differseg_med.prediction.pipeline import Behind, Work, jobs_of
from differseg_med.prediction.quality import Fingerprint, QualityFlags, mean_agreement
from differseg_med.prediction.result import CaseResult, CaseWriter, write_mask, write_view
from differseg_med.prediction.resuming import STEP, keep_what_holds, written_names
from differseg_med.prediction.summary import COLUMNS, DONE, FAILED, INCOMPLETE, Summary, SummaryRow, problem_of
from differseg_med.progress import progress_bar
from differseg_med.reports.provenance import CHECKPOINT, provenance
from differseg_med.reports.run import write_results_page
from differseg_med.runs.describe import described
from differseg_med.runs.folder import occupied, refuse_data
from differseg_med.runs.manifest import Step, recording
from differseg_med.runs.shards import Shard, whole_run
from differseg_med.runs.stamps import case_stamps, inputs_of
from differseg_med.transforms.grids import check_label, grid_of, original_grid
from differseg_med.transforms.modalities import ConcatModalitiesd
from differseg_med.transforms.restoring import threshold_of

logger = logging.getLogger(__name__)


class CohortEvaluator(SupervisedEvaluator):
    """MONAI evaluator that segments a cohort case by case and writes each result at once.

    With a `CaseLoader` of several jobs cases are read ahead of the network and written behind it; then ``state.output``
    has no status yet. Per case ``output_dir/<case_id>/mask.nii.gz`` (of a picture ``mask.png``); for the cohort
    ``summary.csv`` and ``report.html``; with ``evaluate`` ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and
    overlays of the worst cases. A case that fails is reported and does not stop the others.

    Args:
        device: where the network runs.
        val_data_loader: loader over a `CohortDataset`, one case per batch.
        network: called by the inferer.
        inferer: volume to logits.
        postprocessing: logits to a mask on the original grid.
        output_dir: folder of the results.
        reference: the declared reference modality.
        evaluate: compare each mask with its case's label.
        hd95_pooled: also measure HD95 as MedPy does, see docs/metrics.md.
        stretch: pictures: stretch each probability to the full range before it is measured, as benchmarks do.
        amp: bfloat16 autocast; ``auto`` where the device computes in it, see `in_bfloat16`.
        backend: what computes the network: one of `differseg_med.backends.prepared.BACKENDS`.
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
        hd95_pooled: bool = False,
        amp: Amp = False,
        backend: str = AUTO,
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
            amp=in_bfloat16(amp, device),
            decollate=False,
        )
        stack = getattr(getattr(getattr(val_data_loader, "dataset", None), "transform", None), "transforms", [None])[-1]
        if isinstance(stack, ConcatModalitiesd):
            check_channels(network, inferer, stack.channels)
        self.case_postprocessing = postprocessing
        self.backend, self.precision = named_backend(backend), amp
        self._prepared: list[Prepared] = []
        self._behind = Behind(jobs_of(val_data_loader) - 1)
        judge = QualityFlags(Fingerprint.read(fingerprint) if fingerprint else None)
        self.writers: tuple[CaseWriter, ...] = (judge, write_view, *writers)
        self.output_dir, self.reference = Path(output_dir), reference
        self.evaluate, self.settings = evaluate, Settings(stretch=stretch, hd95_pooled=hd95_pooled)
        self.summary = Summary(self.output_dir)
        self.metrics: list[dict[str, Any]] = []
        self._cases: dict[str, Case] = {}
        self._measured = Measurements(self.settings)
        self.problems: dict[str, CaseError] = {}

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Work through the cohort."""
        dataset = getattr(self.data_loader, "dataset", None)
        cases: Sequence[Case] = getattr(dataset, "data", ())
        cohort = getattr(dataset, "cohort", None)
        tables = table_files(cohort.path) if cohort is not None else ()
        inputs = [*tables, *(path for case in cases for path in inputs_of(case))]
        everyone: Sequence[str] = getattr(dataset, "everyone", [case.case_id for case in cases])
        with occupied(self.output_dir, inputs, "Continue with --resume."):
            self._prepared = []  # the weights may be others than in the run before
            step = self._manifest(cases, getattr(dataset, "transform", None))
            if (shard := getattr(dataset, "shard", None)) is not None:
                step.shard.update(self._shard(shard, everyone, cases))
            finished = keep_what_holds(self.output_dir, cases, step, getattr(dataset, "finished", None))
            if dataset is not None:
                dataset.finished = finished
            for writer in self.writers:
                reserve = getattr(writer, "reserve", None)
                if reserve is not None:  # its files of all cases lie in one folder
                    reserve(everyone)
                foresee = getattr(writer, "foresee", None)
                if foresee is not None:  # what cannot be is said before the work
                    foresee(cases, self.reference)
            self.summary, self.metrics = Summary(self.output_dir, finished), []
            self._cases, self._measured, self.problems = {}, Measurements(self.settings), {}
            with recording(self.output_dir, STEP, step):
                try:
                    self._work()
                finally:
                    self._tell_backend(step)
                    step.remarks.extend(dict.fromkeys(str(f) for n in self._prepared for f in n.findings))

    def _manifest(self, cases: Sequence[Case], transform: object) -> Step:
        """What this run is made of, for its manifest."""
        parts = {"preprocessing": transform, "network": self.network, "inferer": self.inferer}
        others = {"postprocessing": self.case_postprocessing, "quality": self.writers[0]}
        settings = described(**parts, **others, amp=self.precision, reference=self.reference)
        names = [str(getattr(writer, "name", getattr(writer, "__name__", ""))) for writer in self.writers[1:]]
        stamps = {c.case_id: case_stamps(c) for c in cases if c.problem is None}
        step = Step.now(settings, stamps, written_names(names))
        self._tell_backend(step)
        return step

    def _shard(self, shard: Shard, everyone: Sequence[str], cases: Sequence[Case]) -> dict[str, Any]:
        """What `collect` needs to know of a shard.

        Raises:
            CaseError: for an evaluation, which is made of all cases at once.
        """
        if self.evaluate:
            remedy = "Predict by shards, collect them, then use evaluate --predictions."
            raise CaseError("shards are for predict: scores are of all cases together", remedy=remedy)
        if home := whole_run(self.output_dir):
            refuse_data(home, cases)
        return {"number": shard.number, "of": shard.of, "cases": list(everyone), "provenance": self._provenance()}

    def _tell_backend(self, step: Step) -> None:
        """What computes, as soon as that is known; until then the setting."""
        backend = self._prepared[0].backend if self._prepared else self.backend
        step.environment["backend"] = f"{backend} {installed(backend)}".strip()
        step.environment["precision"] = NAMES[self.amp]

    def _work(self) -> None:
        try:
            if len(self.data_loader):  # a shard may be left without any case
                with self._behind.open():
                    super().run()
        finally:  # an interrupted run reports what it has
            if self.summary.rows:
                self.summary.write()
            if self.evaluate:
                self._write_evaluation()
            page = write_results_page(self.summary.all_rows, self.output_dir, provenance=self._provenance())
        done = len(self.summary.with_status(DONE))
        logger.info("%d of %d cases done: %s", done, len(self.summary.rows), shown(page))

    def _write_evaluation(self) -> None:
        """Write the scores of what has been measured; cases that failed are listed as such."""
        rows = self._measured.rows
        if not self.summary.with_status(DONE, INCOMPLETE):
            reasons = {row["case_id"]: row["reason"] for row in rows}
            write_metrics([], self.output_dir, failed=reasons)
            self.metrics = [{"case_id": c, "status": FAILED, "reason": reason} for c, reason in reasons.items()]
            return
        extra = check_predictions(list(self._cases.values()), self.output_dir)
        masks = {case_id: mask_file(self.output_dir, case_id) for case_id in self._cases}
        made = evaluation_step(self._cases.values(), masks, self.settings)
        make_room(self.output_dir, self.output_dir)
        with recording(self.output_dir, EVALUATION, made):
            self.metrics = self._measured.write(self.output_dir, extra, self._provenance()).rows

    def _measure(self, case: Case, row: SummaryRow, label: MetaTensor | None) -> None:
        """Measure the written mask against the label that was read before it was made."""
        if case.case_id in self._cases:
            return  # an id may stand in several bad rows
        used = str(row["modalities"]).split("+")  # a modality may have been withheld, or hold nothing
        if row["status"] != FAILED and case.images.keys() >= set(used):
            case = replace(case, images={m: case.images[m] for m in used})
        self._cases[case.case_id] = case
        self._measured.add(case, mask_file(self.output_dir, case.case_id), label)

    def _provenance(self) -> dict[str, str]:
        return provenance(getattr(self.network, CHECKPOINT, None))

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
        files = "summary.csv and metrics.csv say" if self.evaluate else "summary.csv says"
        return problem_of(self.failures, len(self.summary.rows), files)

    def finish(self) -> None:
        """End the process with an error if a case failed; for the ``finalize`` of a bundle.

        Raises:
            SystemExit: with the ids of the failed cases; why, was logged when it happened.
        """
        if problem := self.problem:
            raise SystemExit(problem)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Item) -> dict[str, Any]:
        case: Case = batchdata["case"]
        row: SummaryRow = {**dict.fromkeys(COLUMNS, ""), "case_id": case.case_id, "modalities": case.modalities}
        work = Work(case, row, batchdata)
        with self._failing(work):
            if "error" in batchdata:
                raise batchdata["error"]
            row |= batchdata.get("finished", {})
            if self.evaluate:  # before the work, not after it
                work.label = run_for_case(lambda batch: self._label(case, batch), batchdata, case)
            if "sample" in batchdata:
                work.found = run_for_case(lambda sample: self._infer(case, sample, work), batchdata["sample"], case)
        self._behind.put(partial(self._complete, work))
        engine.state.output = {"case_id": case.case_id, "status": row["status"]}  # empty while it is written
        return engine.state.output

    def _complete(self, work: Work) -> None:
        """Write what the network found, and report the case."""
        with self._failing(work):
            if work.found:
                work.row.update(run_for_case(self._case, work, work.case))
                work.row["seconds"] = f"{work.seconds:.2f}"
        self.summary.add(work.row)
        if self.evaluate:
            self._measure(work.case, work.row, work.label)

    @contextmanager
    def _failing(self, work: Work) -> Iterator[None]:
        """Count the time; what goes wrong is the case's."""
        start = time.perf_counter()
        try:
            yield
        except CaseError as error:
            work.case, work.found = replace(work.case, problem=error), []
            self.problems[work.case.case_id] = error
            work.row.update({"status": FAILED, "reason": str(error)})
            if mask_file(self.output_dir, work.case.case_id).is_file():
                work.row[NOTES] = "the mask in the folder is of an earlier run"
            logger.error("%s", error)
        finally:
            work.seconds += time.perf_counter() - start

    def _case(self, work: Work) -> SummaryRow:
        """Write the files of a case; returns its part of the summary row."""
        result = self._result(work)
        for note in result.notes:
            logger.warning("case %s: %s", result.case.case_id, note)
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
        with writing_for(case.case_id):
            row: SummaryRow = dict(write_mask(result, folder))
        problems = []

        def write(writer: CaseWriter) -> Mapping[str, object]:
            return writer(result, folder)

        for writer in self.writers:
            try:
                with writing_for(case.case_id):
                    row |= run_for_case(write, writer, case)
            except CaseError as error:
                logger.error("%s", error)
                problems.append(str(error))
        return row | ({"status": INCOMPLETE, "reason": "; ".join(problems)} if problems else {})

    def _infer(self, case: Case, sample: Item, work: Work) -> list[torch.Tensor]:
        """Logits ``(1, 1, R, A, S)`` of each network."""
        image: MetaTensor = sample[IMAGE]
        batch = image.unsqueeze(0).to(self.state.device)
        own = isinstance(self.inferer, SliceWindowInferer)  # others would pass the progress on to the network
        slices = image.shape[-1] if own and len(self.inferer.planes) == 1 else None
        place = f"{case.case_id} ({self.state.iteration}/{self.state.epoch_length})"
        networks = self._prepare()
        known = [len(network.findings) for network in networks]
        with (
            self.mode(self.network),
            torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp),
            progress_bar(desc=place, unit="slice", leave=False, total=slices) as bar,
        ):
            more = {"progress": bar.update} if own else {}
            found = [self.inferer(batch, network, **more).float().cpu() for network in networks]
        notes = (str(f) for network, count in zip(networks, known) for f in network.findings[count:])
        work.notes = tuple(dict.fromkeys(notes))
        return found

    def _result(self, work: Work) -> CaseResult:
        """The mask of what the networks found, on the grid of the reference."""
        sample, found = work.batch["sample"], work.found
        image: MetaTensor = sample[IMAGE]
        logits = mean_logits(found)
        if not bool(torch.isfinite(logits).all()):
            raise CaseError(
                "the network's output is not a number", remedy="Check the checkpoint; with amp, try without."
            )
        restored = self._restored(image, logits)
        masks = [self._restored(image, member)[PRED][0].numpy() > 0 for member in found] if len(found) > 1 else []
        return CaseResult(
            case=work.case,
            mask=np.asarray(restored[PRED][0], dtype=np.uint8),
            probability=np.asarray(restored[PROBABILITY][0], dtype=np.float32),
            grid=original_grid(image),
            reference=sample[REFERENCE],
            modalities=tuple(sample[PRESENT]),
            image=image,
            notes=(*sample[NOTES], *work.notes),
            channels=tuple(sample[CHANNELS]),
            agreement=mean_agreement(masks),
            threshold=threshold_of(self.case_postprocessing),
        )

    def _prepare(self) -> list[Prepared]:
        """The networks made ready: of an ensemble each; not before, as handlers may have loaded the weights."""
        if not self._prepared:
            cases = len(getattr(getattr(self.data_loader, "dataset", None), "everyone", range(EXPORT_PAYS)))
            members = members_of(self.network)
            window = self.inferer.roi_size if isinstance(self.inferer, SliceWindowInferer) else None
            self._prepared = [Prepared(n, self.backend, bfloat16=self.amp, cases=cases, window=window) for n in members]
        return self._prepared

    def _restored(self, image: MetaTensor, logits: torch.Tensor) -> dict[Any, Any]:
        """Mask and probability of logits ``(1, 1, R, A, S)`` on the original grid of ``image``."""
        found: dict[Any, Any] = self.case_postprocessing({IMAGE: image, PRED: logits[0]})
        return found

    def _label(self, case: Case, batch: Item) -> MetaTensor:
        """The label, which must be where the mask will be, or where that of an earlier run is."""
        label = read_reference(case)
        if "sample" in batch:
            grid, reference = original_grid(batch["sample"][IMAGE]), batch["sample"][REFERENCE]
        else:
            grid, reference = grid_of(load_mask(mask_file(self.output_dir, case.case_id))), batch["finished"][REFERENCE]
        check_label(label, grid, str(reference), self.reference)
        return label
