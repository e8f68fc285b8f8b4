"""A training step in several micro-batches: where the memory does not suffice for the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from differseg_med.errors import CaseError
from differseg_med.training.processes import count

TrainingStep = Callable[[SupervisedTrainer, Any], Any]


class MicroBatches:
    """An ``iteration_update`` of MONAI's trainer: one step of the optimizer, its gradients summed over micro-batches.

    The gradient is that of the whole batch as far as the loss is a mean over samples; batch norm sees a micro-batch at
    a time, and a Dice over the batch is the mean of theirs. Where a step runs out of memory it is repeated with
    micro-batches of half the size, which then stay; the trainer's recorder keeps that.

    Args:
        parts: micro-batches of a batch, to begin with.
        whole: a step that is not split; None for MONAI's own.
    """

    def __init__(self, parts: int = 1, whole: TrainingStep | None = None) -> None:
        self.parts, self.whole = parts, whole

    def __call__(self, engine: SupervisedTrainer, batchdata: Any) -> Any:
        """One step.

        Raises:
            CaseError: if the memory does not suffice for a single sample.
        """
        while True:
            try:
                if self.parts > 1:
                    return self._step(engine, batchdata)
                return self.whole(engine, batchdata) if self.whole else engine._iteration(engine, batchdata)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                told = str(error).strip().split("\n")[0]
            self._halve(engine, len(batchdata[Keys.IMAGE]), told)  # out of the handler, whose frames hold the memory

    def _halve(self, engine: SupervisedTrainer, size: int, told: str) -> None:
        if count() > 1 or self.parts >= size:
            raise CaseError(
                f"the memory of {engine.state.device} does not suffice for {-(-size // self.parts)} of {size} samples",
                found=told,
                remedy="Set batch_size or roi_size lower"
                + (", or train::trainer::accumulate=2." if count() > 1 else ", or train on another device."),
            )
        engine.state.output = None
        engine.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self.parts = min(2 * self.parts, size)
        engine.recorder.remark(
            f"the memory of {engine.state.device} did not suffice in step {engine.state.iteration}: from there on"
            f" {self.parts} micro-batches of a batch of {size} samples ({told})"
        )

    def _step(self, engine: SupervisedTrainer, batchdata: Any) -> Any:
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        image, label = batch[0], batch[1]
        parts = min(self.parts, len(image))
        engine.state.output = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        outputs, total = [], image.new_zeros(())
        for number, (x, y) in enumerate(zip(image.tensor_split(parts), label.tensor_split(parts))):
            alone = isinstance(engine.network, DistributedDataParallel) and number < parts - 1
            with engine.network.no_sync() if alone else nullcontext():
                with torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext():
                    out = engine.inferer(x, engine.network)
                    loss = engine.loss_function(out, y).mean() * (len(x) / len(image))
                (engine.scaler.scale(loss) if engine.scaler else loss).backward()
            outputs.append([o.detach() for o in out] if isinstance(out, (list, tuple)) else out.detach())
            total = total + loss.detach()
        engine.state.output |= {Keys.PRED: _joined(outputs), Keys.LOSS: total}
        events = (IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED)
        for event in (*events, IterationEvents.BACKWARD_COMPLETED):
            engine.fire_event(event)
        if engine.scaler:
            engine.scaler.step(engine.optimizer)
            engine.scaler.update()
        else:
            engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        done: Any = engine.state.output  # by sample
        return done


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the processor's memory, has no room left."""
    words = ("out of memory", "can't allocate memory", "not enough memory")  # of a processor torch has no class
    found = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return found or any(word in str(error).lower() for word in words)


def _joined(outputs: list[Any]) -> Any:
    """The outputs of all micro-batches as those of the batch: a tensor, or one per level."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return [torch.cat(levels) for levels in zip(*outputs)]
