"""Training: handlers around MONAI's trainer for averaging, checkpoints, resuming, logs and curves."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.transforms import Randomizable
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import RandomSampler

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError
from differseg_med.progress import no_bar
from differseg_med.tables import write_table

logger = logging.getLogger(__name__)

_REMEDY = "Choose another output_dir, or set resume to false to begin anew there."

LAST, BEST, LOG, CURVES = "last.pt", "best.pt", "log.csv", "curves.png"


class AveragedNetwork(nn.Module):
    """Exponential moving average of a network's weights and buffers; it is what validation and inference use.

    Args:
        network: the network that is trained.
        decay: share of the average that stays at each step, lower in the first steps.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards ``network`` after training step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, current in zip(self.average.state_dict().values(), network.state_dict().values()):
            if average.dtype.is_floating_point:
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    def train(self, mode: bool = True) -> AveragedNetwork:
        """Stay in evaluation mode whatever is asked: the average is never trained."""
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the averaged network."""
        out: torch.Tensor = self.average(x)
        return out


class TrainingRecorder:
    """Handler that averages, validates, saves, resumes and logs.

    In ``output_dir``: ``last.pt`` (everything needed to go on), ``best.pt`` (averaged network of the best validation
    Dice, plain tensors), ``log.csv`` (a row per epoch), ``curves.png``.

    Args:
        network: the trained network.
        average: its moving average.
        optimizer: stepped by the trainer.
        scheduler: stepped here after every iteration.
        evaluator: validates ``average``; its key metric decides what is best. None for no validation.
        output_dir: folder of the files.
        val_interval: epochs between validations; the last epoch is always validated.
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
        resume: bool = True,
        max_gradient_norm: float = 5.0,
        seed: int = 0,
    ) -> None:
        self.network, self.average, self.optimizer, self.scheduler = network, average, optimizer, scheduler
        self.evaluator, self.val_interval, self.resume = evaluator, val_interval, resume
        self.output_dir = Path(output_dir)
        self.max_gradient_norm, self.seed = max_gradient_norm, seed
        self.best, self.rows = -1.0, list[dict[str, float | str]]()
        self._losses: list[float] = []

    def attach(self, trainer: SupervisedTrainer) -> None:
        """Hook everything to the trainer's events."""
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._randomize)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        trainer.add_event_handler(Events.COMPLETED, self._end)
        bar = ProgressBar(desc="training", disable=no_bar())
        bar.attach(trainer, output_transform=lambda output: {"loss": float(output["loss"].detach())})
        # Runs between the backward pass and the optimizer's step.
        self.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, *_: Any) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)

    def _start(self, trainer: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / LAST
        if not (self.resume and path.is_file()):
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
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
        left = trainer.state.max_epochs - state["epoch"]
        logger.info("resumed after epoch %d: %s", state["epoch"], f"{left} to go" if left else f"finished. {_REMEDY}")

    def _randomize(self, trainer: Engine) -> None:
        """Start the random numbers of this epoch: of sampler, augmentation, network and workers."""
        seed = int(np.random.SeedSequence((self.seed, trainer.state.epoch)).generate_state(1)[0])
        torch.manual_seed(seed)
        loader = trainer.state.dataloader
        generator = getattr(getattr(loader, "sampler", None), "generator", None)
        if generator is not None:
            generator.manual_seed(seed)
        samples = getattr(getattr(loader, "dataset", None), "transform", None)
        if isinstance(samples, Randomizable):
            samples.set_random_state(seed)

    def _step(self, trainer: Engine) -> None:
        self._losses.append(float(trainer.state.output["loss"].detach()))
        self.scheduler.step()
        self.average.update(self.network, trainer.state.iteration)

    def _epoch(self, trainer: Engine) -> None:
        epoch = trainer.state.epoch
        row: dict[str, float | str] = {
            "epoch": epoch,
            "loss": sum(self._losses) / max(len(self._losses), 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "val_dice": "",
            "val_hd95_mm": "",
        }
        self._losses = []
        if self.evaluator is not None and (epoch % self.val_interval == 0 or epoch == trainer.state.max_epochs):
            self.evaluator.run()
            metrics = self.evaluator.state.metrics
            row |= {name.replace("val_mean_", "val_"): float(value) for name, value in metrics.items()}
            score = float(metrics[self.evaluator.state.key_metric_name])
            if score > self.best:
                self.best = score
                _save(self.average.average.state_dict(), self.output_dir / BEST)
        self.rows.append(row)
        self._save_last(trainer)
        self._write_log()

    def _end(self, trainer: Engine) -> None:
        if self.best >= 0:
            logger.info("%s of %s: validation Dice %.3f", BEST, self.output_dir.name, self.best)

    def _save_last(self, trainer: Engine) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "best": self.best,
            "rows": self.rows,
            "epoch": trainer.state.epoch,
            "iteration": trainer.state.iteration,
        }
        _save(state, self.output_dir / LAST)

    def _write_log(self) -> None:
        write_table(self.output_dir / LOG, list(self.rows[-1]), self.rows)
        draw_curves(self.rows, self.output_dir / CURVES)


def draw_curves(rows: Sequence[dict[str, float | str]], path: Path) -> None:
    """Draw loss and validation Dice over epochs to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
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


def sample_loader(
    dataset: Dataset, batch_size: int, iterations: int, *, seed: int = 0, num_workers: int = 0
) -> DataLoader:
    """Loader that draws ``iterations`` batches of cases per epoch, with replacement, under a seed."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, num_samples=batch_size * iterations, generator=generator)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, drop_last=True)


def _save(content: Any, path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(content, temporary)
