"""Training: MONAI's trainer, alone in its folder, with a manifest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from monai.data import decollate_batch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor

from differseg_med.runs.folder import occupied
from differseg_med.runs.manifest import recording
from differseg_med.runs.stamps import inputs_of
from differseg_med.training import processes
from differseg_med.training.micro_batches import MicroBatches
from differseg_med.training.recorder import STEP, TrainingRecorder
from differseg_med.training.windows import SmallerWindows

logger = logging.getLogger(__name__)


class RecordedTrainer(SupervisedTrainer):
    """MONAI's trainer, alone in its folder, with a manifest, and an exit code that tells of cases left out.

    Args:
        recorder: its handler.
        others: those of `SupervisedTrainer`.

    Handlers get what MONAI's trainer gives them: a list with a dictionary of each sample (image, label, pred, loss), so
    that ``monai.handlers.from_engine`` and the handlers that loggers bring work as they are.

    After a run `problem` tells of cases that could not be read; the others were trained on to the end.
    """

    def __init__(self, recorder: TrainingRecorder, **others: Any) -> None:
        super().__init__(optimizer=recorder.optimizer, decollate=False, **others)
        self.add_event_handler(IterationEvents.MODEL_COMPLETED, _decollate)
        self.recorder, self.problem = recorder, ""
        if isinstance(others.get("iteration_update"), MicroBatches):
            recorder.micro_batches = others["iteration_update"]
        if isinstance(windows := others.get("prepare_batch"), SmallerWindows):
            windows.watch(self)
        recorder.attach(self)

    def run(self) -> None:
        """Train.

        Raises:
            CaseError: if the folder is of another training, the numbers break down, or another process has ended.
        """
        processes.refuse_processes()
        with ExitStack() as held:
            processes.from_first(lambda: self._enter(held))
            with processes.lost_peers():
                super().run()
        if left_out := [error for dataset in self._datasets() for error in getattr(dataset, "unreadable", ())]:
            ids = ", ".join(str(error.case) for error in left_out)
            total = sum(len(getattr(dataset, "cases", ())) for dataset in self._datasets()) or len(left_out)
            self.problem = f"trained without {len(left_out)} of {total} cases, which could not be read: {ids}"
            logger.error("%s", self.problem)

    def _datasets(self) -> list[Any]:
        validation = getattr(self.recorder.evaluator, "data_loader", None)
        return [getattr(loader, "dataset", None) for loader in (self.data_loader, validation)]

    def _enter(self, held: ExitStack) -> None:
        """Hold the folder, and write what is begun there, until ``held`` ends."""
        cases = [case for dataset in self._datasets() for case in getattr(dataset, "cases", ())]
        tables = [table for dataset in self._datasets() for table in getattr(dataset, "tables", ())]
        inputs = [*tables, *(path for case in cases for path in inputs_of(case))]
        folder = self.recorder.output_dir
        held.enter_context(occupied(folder, inputs, "The same command resumes where it stopped."))
        step = self.recorder.step(self)
        self.recorder.accept(step)
        held.enter_context(recording(folder, STEP, step))

    def finish(self) -> None:
        """End the process with an error if cases could not be read; for the ``finalize`` of a bundle.

        Raises:
            SystemExit: with their ids.
        """
        if self.problem:
            raise SystemExit(self.problem)


def _decollate(engine: SupervisedTrainer) -> None:
    """Batch and output by sample. MONAI's own asks for the number of the loss, for which it waits for the GPU."""
    state = engine.state
    state.batch = decollate_batch(_detached(state.batch), detach=False)
    state.output = decollate_batch(_detached(state.output), detach=False)


def _detached(found: Any) -> Any:
    """Without the graph of the gradients, through dictionaries and lists (the levels of deep supervision)."""
    if isinstance(found, Mapping):
        return {name: _detached(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_detached(value) for value in found]
    return found.detach() if isinstance(found, Tensor) else found
