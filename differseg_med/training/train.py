"""Training: MONAI's trainer, alone in its folder, with a manifest."""

from __future__ import annotations

import logging
from typing import Any

from monai.engines import SupervisedTrainer

from differseg_med.runs.folder import occupied
from differseg_med.runs.manifest import recording
from differseg_med.runs.stamps import inputs_of
from differseg_med.training.preflight import refuse_processes
from differseg_med.training.recorder import STEP, TrainingRecorder

logger = logging.getLogger(__name__)


class RecordedTrainer(SupervisedTrainer):
    """MONAI's trainer, alone in its folder, with a manifest, and an exit code that tells of cases left out.

    Args:
        recorder: its handler.
        others: those of `SupervisedTrainer`.

    After a run `problem` tells of cases that could not be read; the others were trained on to the end.
    """

    def __init__(self, recorder: TrainingRecorder, **others: Any) -> None:
        super().__init__(optimizer=recorder.optimizer, decollate=False, **others)
        self.recorder, self.problem = recorder, ""
        recorder.attach(self)

    def run(self) -> None:
        """Train.

        Raises:
            CaseError: if the folder is of another training, or the numbers break down.
        """
        refuse_processes()
        validation = getattr(self.recorder.evaluator, "data_loader", None)
        datasets = [getattr(loader, "dataset", None) for loader in (self.data_loader, validation)]
        cases = [case for dataset in datasets for case in getattr(dataset, "cases", ())]
        tables = [table for dataset in datasets for table in getattr(dataset, "tables", ())]
        inputs = [*tables, *(path for case in cases for path in inputs_of(case))]
        folder = self.recorder.output_dir
        with occupied(folder, inputs, "The same command resumes where it stopped."):
            step = self.recorder.step(self)
            self.recorder.accept(step)
            with recording(folder, STEP, step):
                super().run()
        if left_out := [error for dataset in datasets for error in getattr(dataset, "unreadable", ())]:
            ids = ", ".join(str(error.case) for error in left_out)
            total = len(cases) or len(left_out)
            self.problem = f"trained without {len(left_out)} of {total} cases, which could not be read: {ids}"
            logger.error("%s", self.problem)

    def finish(self) -> None:
        """End the process with an error if cases could not be read; for the ``finalize`` of a bundle.

        Raises:
            SystemExit: with their ids.
        """
        if self.problem:
            raise SystemExit(self.problem)
