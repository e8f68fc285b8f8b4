"""A handler of MONAI's trainer for averaging, checkpoints, resuming, logs and curves."""

from __future__ import annotations

import copy
import csv
import logging
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError, shown
from differseg_med.progress import no_bar
from differseg_med.runs.describe import described, digest
from differseg_med.runs.folder import set_aside
from differseg_med.runs.manifest import Step, list_differences, read_steps, write_steps
from differseg_med.runs.names import MANIFEST
from differseg_med.tables import write_table
from differseg_med.training import processes
from differseg_med.training.averaging import AveragedNetwork
from differseg_med.training.loaders import BatchedLoader, SeededSamples
from differseg_med.training.micro_batches import MicroBatches
from differseg_med.training.saving import save
from differseg_med.training.windows import SmallerWindows

logger = logging.getLogger(__name__)

_REMEDY = "Choose another output_dir, or set resume to false to start again there."

LAST, BEST, LOG, CURVES = "last.pt", "best.pt", "log.csv", "curves.png"
STEP = "train"
RESULTS = (LAST, BEST, LOG, CURVES, "fingerprint.json")
"""What a training leaves in its folder, beside the manifest and the cache."""


class TrainingRecorder:
    """Handler that averages, validates, saves, resumes and logs; see `RecordedTrainer` for what surrounds a run.

    In ``output_dir``: ``last.pt`` (everything needed to go on), ``best.pt`` (averaged network of the best validation
    Dice, plain tensors; without validation that of the last epoch), ``log.csv`` (a row per epoch), ``curves.png``.

    What the caller has set wins over the disk: if the network was given other weights since this handler was made, or
    since its last run (a round of federated learning), nothing is resumed, the average starts from them, and the
    schedule of the learning rate begins anew.

    A loss or a gradient that is not a number stops the training before it reaches the weights. Of several processes the
    first one averages, validates and writes.

    Args:
        network: the trained network.
        average: its moving average.
        optimizer: stepped by the trainer.
        scheduler: stepped here after every iteration.
        evaluator: validates ``average``; its key metric decides what is best. None for no validation.
        output_dir: folder of the files.
        val_interval: epochs between validations; the last epoch is always validated.
        early_stop: end after so many validations without a better one; None for never.
        resume: go on from ``last.pt`` if it is there.
        max_gradient_norm: gradients are scaled down to this norm.
        seed: with the number of the epoch it decides everything random in that epoch, so that a resumed training
            gives the same weights as one that was never interrupted.
    """

    def __init__(
        self,
        network: nn.Module,
        average: AveragedNetwork,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
        output_dir: str | Path,
        *,
        evaluator: SupervisedEvaluator | None = None,
        val_interval: int = 5,
        early_stop: int | None = None,
        resume: bool = True,
        max_gradient_norm: float = 5.0,
        seed: int = 0,
    ) -> None:
        self.network, self.average, self.optimizer, self.scheduler = network, average, optimizer, scheduler
        self.evaluator, self.val_interval, self.resume = evaluator, val_interval, resume
        self.early_stop, self.micro_batches = early_stop, MicroBatches()
        self.output_dir = Path(output_dir)
        self.max_gradient_norm, self.seed = max_gradient_norm, seed
        self.best, self.rows = -1.0, list[dict[str, float | str]]()
        self._losses: list[torch.Tensor] = []
        self._remarks: list[str] = []
        self._engine: Engine | None = None
        self._settings: dict[str, Any] = {}
        self._runs, self._known = 0, digest(network.state_dict())
        self._first_schedule = copy.deepcopy(scheduler.state_dict()) if scheduler is not None else {}

    def attach(self, trainer: SupervisedTrainer) -> None:
        """Hook everything to the trainer's events."""
        self._engine = trainer
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._randomize)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        trainer.add_event_handler(Events.COMPLETED, self._end)
        bar = ProgressBar(desc="training", disable=no_bar())
        bar.attach(trainer, output_transform=lambda output: {"loss": float(output[0]["loss"])})
        # Runs between the backward pass and the optimizer's step.
        self.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, *_: Any) -> None:
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)
        if not bool(torch.isfinite(norm)):
            raise self._not_a_number("gradients")

    def _not_a_number(self, what: str) -> CaseError:
        """Where the numbers went wrong, and what is left."""
        state = getattr(self._engine, "state", None)
        batch = getattr(state, "batch", None) or ()
        cases = (
            batch.get("case_id", ()) if isinstance(batch, dict) else [sample.get("case_id", "?") for sample in batch]
        )
        return CaseError(
            f"the training stops: the {what} are not numbers any more (NaN or infinite)",
            found=f"step {getattr(state, 'iteration', '?')} in epoch {getattr(state, 'epoch', '?')}, "
            f"with {', '.join(dict.fromkeys(map(str, cases))) or 'unnamed cases'}",
            remedy=f"{LAST} and {BEST} are of the epochs before. Look at the images and labels of these cases, or lower"
            " learning_rate (in another output_dir).",
        )

    def step(self, trainer: SupervisedTrainer) -> Step:
        """What the training is made of, for its manifest; to be asked for before it starts."""
        loader = trainer.data_loader
        data = getattr(loader, "dataset", None)
        scheduled = self.scheduler.state_dict() if self.scheduler is not None else {}
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        if not self._settings:  # of the first run: rounds change the learning rate
            self._settings = described(
                network={"class": type(self.network).__qualname__, "layers": digest(repr(self.network))},
                optimizer={"class": type(self.optimizer).__qualname__, "groups": groups},
                scheduler={k: v for k, v in scheduled.items() if isinstance(v, int | float | str)},
                loss=getattr(trainer, "loss_function", None),
                samples=getattr(data, "transform", None),
                batch_size=getattr(loader, "batch_size", None),
                iterations=len(loader) if loader is not None else None,
                augmentation="device" if isinstance(loader, BatchedLoader) else "workers",
                validation=[getattr(self.evaluator, name, None) for name in ("inferer", "postprocessing")],
                average_decay=self.average.decay,
                val_interval=self.val_interval,
                max_gradient_norm=self.max_gradient_norm,
                seed=self.seed,
                **self._unusual(trainer),
            )
        validation = getattr(getattr(self.evaluator, "data_loader", None), "dataset", None)
        sides = {"train": data, "validation": validation}
        inputs = {
            f"{side} {item['case_id']}": {"voxels": digest(item)}
            for side, dataset in sides.items()
            for item in getattr(dataset, "data", None) or ()
            if isinstance(item, dict) and "case_id" in item
        }
        step = Step.now(self._settings, inputs)
        self._remarks = step.remarks
        return step

    def _unusual(self, trainer: SupervisedTrainer) -> dict[str, Any]:
        """Settings that most trainings do not have: the manifests of those stay as they were."""
        samples = getattr(trainer.data_loader, "dataset", None)
        windows = getattr(trainer, "prepare_batch", None)
        found = {
            "windows": [windows.size, windows.steps] if isinstance(windows, SmallerWindows) else None,
            "early_stop": self.early_stop,
            "accumulate": self.micro_batches.parts if self.micro_batches.parts > 1 else None,
            "amp": "fp16" if getattr(trainer, "amp", False) else None,
            "compile": getattr(trainer, "compile", None) or None,
            "sample_seeds": isinstance(samples, SeededSamples) or None,
            "processes": processes.count() if processes.count() > 1 else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def remark(self, text: str) -> None:
        """Say what happened to the training, and keep it in the manifest."""
        logger.warning("%s", text)
        self._remarks.append(text)
        steps = read_steps(self.output_dir)
        if processes.is_first() and STEP in steps:
            write_steps(self.output_dir, {**steps, STEP: replace(steps[STEP], remarks=list(self._remarks))})

    def accept(self, step: Step) -> None:
        """Hold the training against the one that the folder has begun; without resume move that aside.

        Raises:
            CaseError: if it is another one, with each difference.
        """
        earlier = read_steps(self.output_dir).get(STEP)
        path = self.output_dir / LAST
        if not self.resume:
            set_aside(self.output_dir, [MANIFEST, *RESULTS], earlier.started if earlier else "")
        elif path.is_file() and earlier is None:
            logger.warning(
                "%s: %s does not say what made it; it resumes with the present settings", path.name, MANIFEST
            )
        elif path.is_file() and earlier is not None:
            cases = [
                f"{name}: {'changed' if name in earlier.inputs and name in step.inputs else 'in one of the two only'}"
                for name in dict.fromkeys((*earlier.inputs, *step.inputs))
                if earlier.inputs.get(name) != step.inputs.get(name)
            ]
            if differences := [*earlier.differences(step), *cases]:
                raise CaseError(
                    f"{path.name} is of another training",
                    file=path,
                    found=list_differences(differences),
                    remedy=_REMEDY,
                )

    def _start(self, trainer: Engine) -> None:
        path = self.output_dir / LAST
        if self._continues() or not self.resume:
            return
        try:
            if (state := processes.from_first(lambda: _read(path))) is None:
                return
            self.network.load_state_dict(state["network"])
            self.average.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).split("\n")[0]
            raise CaseError(f"{path} is of another training: {reason}", remedy=_REMEDY) from error
        planned, steps = state["scheduler"].get("total_steps"), getattr(self.scheduler, "total_steps", None)
        if planned != steps:
            raise CaseError(
                f"{path} is of a training planned for {planned} steps, this one has {steps}", remedy=_REMEDY
            )
        self.scheduler.load_state_dict(state["scheduler"])
        self.best, self.rows = state["best"], state["rows"]
        trainer.state.epoch = state["epoch"]
        trainer.state.iteration = state["iteration"]
        left = 0 if self._is_over() else trainer.state.max_epochs - state["epoch"]
        logger.info("resumed after epoch %d: %s", state["epoch"], f"{left} to go" if left else f"finished. {_REMEDY}")
        if (parts := state.get("accumulate", 1)) > self.micro_batches.parts:
            self.micro_batches.parts = parts
            self.remark(f"{parts} micro-batches of a batch, as before: the memory did not suffice")
        if self.rows and processes.is_first() and not self._log_is_whole():  # killed between the checkpoint and the log
            self._write_log()
        if self._is_over():
            trainer.state.max_epochs = state["epoch"]
            self._remark_end(state["epoch"])

    def _continues(self) -> bool:
        """Whether the training starts from what is in memory, and not from the disk."""
        known, self._known = self._known, ""  # until the run is complete
        self._runs += 1
        if not known:  # the run before was interrupted
            return False
        given = digest(self.network.state_dict()) != known
        if given:
            logger.info("the training starts from the weights that the network was given; nothing is resumed")
            self.average.average.load_state_dict(self.network.state_dict())
        if self._runs > 1:
            self.scheduler.load_state_dict(copy.deepcopy(self._first_schedule))
        return given or self._runs > 1

    def _randomize(self, trainer: Engine) -> None:
        """Start the random numbers of this epoch: of sampler, augmentation, network and workers."""
        seed = int(np.random.SeedSequence((self.seed, trainer.state.epoch)).generate_state(1)[0])
        torch.manual_seed(seed + processes.rank())
        loader = trainer.state.dataloader
        if hasattr(loader, "set_random_state"):
            loader.set_random_state(seed)

    def _iteration(self, trainer: Engine) -> None:
        self._losses.append(trainer.state.output[0]["loss"])  # asking for the number would wait for the GPU
        self.scheduler.step()
        if processes.is_first():
            self.average.update(self.network, trainer.state.iteration)

    def _epoch(self, trainer: Engine) -> None:
        loss = processes.mean_over_processes(sum(map(float, self._losses)) / max(len(self._losses), 1))
        self._losses = []
        if processes.from_first(lambda: self._finish_epoch(trainer, loss)):
            trainer.should_terminate = True

    def _finish_epoch(self, trainer: Engine, loss: float) -> bool:
        """Validate and write; whether the training ends here."""
        epoch = trainer.state.epoch
        row: dict[str, float | str] = {
            "epoch": epoch,
            "loss": loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "val_dice": "",
            "val_hd95_mm": "",
        }
        if self.evaluator is not None and (epoch % self.val_interval == 0 or epoch == trainer.state.max_epochs):
            self.evaluator.run(global_epoch=epoch)  # loggers say when it was
            metrics = self.evaluator.state.metrics
            row |= {name.replace("val_mean_", "val_"): float(value) for name, value in metrics.items()}
            score = float(metrics[self.evaluator.state.key_metric_name])
            if score > self.best:
                self.best = score
                save(self._finite(self.average.average), self.output_dir / BEST)
        elif self.evaluator is None and (epoch % self.val_interval == 0 or epoch == trainer.state.max_epochs):
            save(self._finite(self.average.average), self.output_dir / BEST)
        self.rows.append(row)
        self._save_last(trainer)
        self._write_log()
        if over := self._is_over():
            self._remark_end(epoch)
        return over or bool(trainer.should_terminate)

    def _is_over(self) -> bool:
        """Whether as many validations as allowed were no better than the best one before them."""
        scores = [float(row["val_dice"]) for row in self.rows if row["val_dice"] != ""]
        if self.early_stop is None or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.early_stop

    def _remark_end(self, epoch: int) -> None:
        self.remark(f"ended after epoch {epoch}: {self.early_stop} validations without a better one")

    def _end(self, trainer: Engine) -> None:
        self._known = digest(self.network.state_dict())
        if self.evaluator is None:
            logger.info("%s of %s: the average of the last epoch", BEST, shown(self.output_dir))
        if self.best >= 0:
            logger.info("%s of %s: validation Dice %.3f", BEST, shown(self.output_dir), self.best)

    def _save_last(self, trainer: Engine) -> None:
        state = {
            "network": self._finite(self.network),
            "average": self.average.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": self.best,
            "rows": self.rows,
            "epoch": trainer.state.epoch,
            "iteration": trainer.state.iteration,
            **({"accumulate": self.micro_batches.parts} if self.micro_batches.parts > 1 else {}),
        }
        save(state, self.output_dir / LAST)

    def _finite(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """The weights, if all are numbers: a file that lies on disk is always a good one."""
        state: dict[str, torch.Tensor] = network.state_dict()
        if not all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point()):
            raise self._not_a_number("weights")
        return state

    def _log_is_whole(self) -> bool:
        """Whether log and curves on disk are of the rows that were resumed."""
        path = self.output_dir / LOG
        if not path.is_file() or not (self.output_dir / CURVES).is_file():
            return False
        with path.open(newline="", encoding="utf-8") as file:
            return [row.get("epoch") for row in csv.DictReader(file)] == [str(row["epoch"]) for row in self.rows]

    def _write_log(self) -> None:
        draw_curves(self.rows, self.output_dir / CURVES)  # first: a log that is whole says that the curves are, too
        write_table(self.output_dir / LOG, list(self.rows[-1]), self.rows)


def _read(path: Path) -> dict[str, Any] | None:
    """What a training has kept to go on; None if it has not."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def draw_curves(rows: Sequence[dict[str, float | str]], path: Path) -> None:
    """Draw loss and validation Dice over epochs to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    figure.subplots_adjust(0.11, 0.13, 0.89, 0.96)
    axes = figure.subplots()
    axes.plot([float(r["epoch"]) for r in rows], [float(r["loss"]) for r in rows], color="tab:gray")
    axes.set(xlabel="epoch", ylabel="training loss")
    scored = [r for r in rows if r["val_dice"] != ""]
    if scored:
        right = axes.twinx()
        right.plot([float(r["epoch"]) for r in scored], [float(r["val_dice"]) for r in scored], "o-", color="tab:blue")
        right.set(ylim=(0, 1))
        right.set_ylabel("validation Dice", color="tab:blue")
    with replacing(path, ".png") as temporary:
        figure.savefig(temporary, dpi=120)
