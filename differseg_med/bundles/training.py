"""Factories of a training: optimizer, schedule, validation and MONAI's trainer, as configurations name them."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.data import Dataset as MonaiDataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Activationsd, AsDiscreted, Compose
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from differseg_med.errors import CaseError, ConfigError
from differseg_med.inferers import AutocastInferer, check_channels
from differseg_med.keys import CHANNELS, LABEL, PRED
from differseg_med.losses import dice_ce_loss
from differseg_med.metrics.handlers import CaseMetric
from differseg_med.training import processes
from differseg_med.training.averaging import AveragedNetwork
from differseg_med.training.graphs import GraphedIteration
from differseg_med.training.loaders import draws_on_gpu, sample_loader
from differseg_med.training.micro_batches import MicroBatches
from differseg_med.training.recorder import TrainingRecorder
from differseg_med.training.train import RecordedTrainer
from differseg_med.training.windows import SmallerWindows
from differseg_med.transforms.affines import RestoreAffined
from differseg_med.transforms.restoring import RestoreGridd

OF_RECORDER = ("val_interval", "early_stop", "max_gradient_norm")
"""Arguments of `trainer` that only its recorder reads."""

AMP = (False, True, "bf16", "fp16")
"""Precision of forward and backward pass: float32, bfloat16, bfloat16, float16 with a scaled loss."""


def optimizer(
    network: nn.Module, learning_rate: float = 1e-3, weight_decay: float = 0.01, encoder_share: float = 1.0
) -> torch.optim.AdamW:
    """AdamW on the parameters that need gradients.

    Args:
        network: to train.
        learning_rate: of everything but the encoder.
        weight_decay: for all.
        encoder_share: the encoder's learning rate as a share of ``learning_rate``; its weights are pretrained, the
            others freshly drawn. Other than 1 it makes two groups, the encoder's first.

    Raises:
        ConfigError: if a rate is not above 0, which would unlearn or do nothing.
    """
    for name, value in (("learning_rate", learning_rate), ("encoder_share", encoder_share)):
        if not 0 < value < math.inf:
            raise ConfigError(
                f"{name} cannot be this", entry=f"train::optimizer::{name}", expected="more than 0", found=value
            )
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name.startswith("encoder.")], "lr": learning_rate * encoder_share},
        {"params": [p for name, p in named if not name.startswith("encoder.")], "lr": learning_rate},
    ]
    if encoder_share == 1.0 or not groups[0]["params"]:
        groups = [{"params": [p for _, p in named], "lr": learning_rate}]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay)


def one_cycle(optimizer: torch.optim.Optimizer, total_steps: int, warm_up: float = 0.1) -> OneCycleLR:
    """Warm up to each group's own learning rate, then down to nothing along a cosine.

    Args:
        optimizer: whose groups have their highest learning rates.
        total_steps: steps of the training.
        warm_up: share of them before the highest rate; none where that is a step or less, which torch cannot divide.
    """
    highest = [group["lr"] for group in optimizer.param_groups]
    share = warm_up if warm_up * total_steps > 1 else 0.0
    return OneCycleLR(optimizer, highest, total_steps=total_steps, pct_start=share, cycle_momentum=False)


def validation_evaluator(
    device: torch.device,
    dataset: MonaiDataset,
    network: nn.Module,
    inferer: Inferer,
    threshold: float = 0.5,
    *,
    postprocessing: Compose | None = None,
    amp: bool | str = False,
    val_handlers: Sequence[Any] | None = None,
) -> SupervisedEvaluator | None:
    """Mean Dice and HD95 in mm over whole volumes on the network's grid, with the policy of reports.

    Masks are made as the bundle's ``postprocessing`` makes them, components and all; without it by ``threshold``. The
    key metric is ``val_mean_dice``; ``amp`` computes in bfloat16, ``val_handlers`` are handlers of MONAI or ignite.
    None if there is no case to validate on.
    """
    if not len(dataset):
        return None

    def mean(measure: str) -> IgniteMetricHandler:
        alone = processes.count() == 1  # MONAI gathers details from all processes, and one of them validates
        found = {"metric_fn": CaseMetric(measure), "output_transform": from_engine([PRED, LABEL])}
        return IgniteMetricHandler(**found, save_details=alone)

    if dataset.data and CHANNELS in dataset.data[0]:
        check_channels(network, inferer, list(Counter(dataset.data[0][CHANNELS]).values()))
    steps = [Activationsd(PRED, sigmoid=True), AsDiscreted(PRED, threshold=threshold)]
    if postprocessing is not None:  # but for the way back to the file's grid
        steps = [step for step in postprocessing.transforms if not isinstance(step, RestoreGridd)]
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=network,
        inferer=AutocastInferer(inferer) if amp else inferer,
        postprocessing=Compose([RestoreAffined((LABEL, PRED)), *steps]),
        key_val_metric={"val_mean_dice": mean("dice")},
        additional_metrics={"val_mean_hd95_mm": mean("hd95_mm")},
        val_handlers=val_handlers,
    )


def trainer(
    network: nn.Module,
    recorder: TrainingRecorder | None = None,
    *,
    max_epochs: int,
    device: torch.device | str,
    dataset: MonaiDataset | None = None,
    output_dir: str | Path | None = None,
    average_decay: float = 0.99,
    evaluator: SupervisedEvaluator | None = None,
    iterations: int = 50,
    batch_size: int = 16,
    resume: bool = True,
    seed: int = 0,
    num_workers: int = 0,
    augmentation: str = "auto",
    loss_function: Callable[..., torch.Tensor] | None = None,
    inferer: Inferer | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    lr_scheduler: LRScheduler | None = None,
    accumulate: int = 1,
    amp: bool | str = False,
    cuda_graph: bool | None = None,
    sync_batchnorm: bool | None = None,
    **kwargs: Any,
) -> SupervisedTrainer:
    """MONAI's trainer with a `TrainingRecorder`, which is made of the arguments where it is not given.

    Args:
        network: the network to train.
        recorder: or dataset, output_dir, optimizer and lr_scheduler; evaluator, resume and seed are arguments of it.
        device: where the network is.
        dataset: of samples; `sample_loader` draws ``iterations`` batches an epoch, and says what ``augmentation`` is.
        average_decay: of the moving average of the weights; see `AveragedNetwork`.
        loss_function: default: Dice and cross-entropy; the default of ``inferer`` is one forward pass.
        accumulate: micro-batches of a batch, see `MicroBatches`; where memory lacks, a batch is split by itself.
        amp: ``true`` or ``bf16``: bfloat16 (autocast); ``fp16``: float16 with a scaled loss, on GPUs only.
        cuda_graph: replay steps as one CUDA graph, see `GraphedIteration`; None where samples are made on a GPU.
        sync_batchnorm: of several processes, see `differseg_med.training.processes.together`.
        kwargs: ``val_interval``, ``early_stop`` and ``max_gradient_norm`` of `TrainingRecorder`, ``sample_seeds`` of
            `sample_loader`; others of `SupervisedTrainer`, such as ``train_handlers`` or ``compile``.

    Raises:
        CaseError: for what is not given, or what this device cannot do.
    """
    check_counts(max_epochs=max_epochs, iterations=iterations, batch_size=batch_size, accumulate=accumulate, **kwargs)
    _check(device, amp, accumulate, bool(cuda_graph), kwargs)
    own = {name: kwargs.pop(name) for name in OF_RECORDER if name in kwargs}
    seeds = kwargs.pop("sample_seeds", None)
    if recorder is None:
        if dataset is None or output_dir is None or optimizer is None or lr_scheduler is None:
            raise CaseError("the trainer needs dataset, output_dir, optimizer and lr_scheduler, or a recorder")
        own |= {"resume": resume, "seed": seed}
        recorder = _recorder(network, optimizer, lr_scheduler, output_dir, average_decay, evaluator, **own)
        drawn = (dataset, batch_size, iterations, seed, num_workers, device, augmentation, seeds)
        kwargs["train_data_loader"] = sample_loader(*drawn)
    kwargs["iteration_update"] = MicroBatches(accumulate, _whole_step(accumulate, amp, cuda_graph, kwargs))
    kwargs |= {"max_epochs": max_epochs, "device": device, "loss_function": loss_function or dice_ce_loss()}
    kwargs |= {"inferer": _forward(inferer or SimpleInferer(), amp), "amp": amp == "fp16"}
    return RecordedTrainer(recorder, network=processes.together(network, device, sync_batchnorm), **kwargs)


def _forward(inferer: Inferer, amp: bool | str) -> Inferer:
    """The forward pass, in bfloat16 where that was asked for."""
    return AutocastInferer(inferer) if amp in (True, "bf16") else inferer


def _recorder(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    output_dir: str | Path,
    decay: float,
    evaluator: SupervisedEvaluator | None,
    **others: Any,
) -> TrainingRecorder:
    average = AveragedNetwork(network, decay)
    if evaluator is not None:
        evaluator.network = average.average
    return TrainingRecorder(network, average, optimizer, scheduler, output_dir, evaluator=evaluator, **others)


def _whole_step(
    accumulate: int, amp: bool | str, cuda_graph: bool | None, others: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """How a batch that is not split is computed; None for MONAI's own step."""
    given: Callable[..., Any] | None = others.get("iteration_update")
    small = isinstance(others.get("prepare_batch"), SmallerWindows)
    usual = accumulate == 1 and not small and amp != "fp16" and not others.get("compile") and processes.count() == 1
    on_gpu = cuda_graph is None and usual and draws_on_gpu(others.get("train_data_loader"))
    return given if given is not None else GraphedIteration() if cuda_graph or on_gpu else None


COUNTS = ("max_epochs", "iterations", "batch_size", "accumulate", "val_interval")
"""Arguments of `trainer` that are at least 1."""


def check_counts(**given: Any) -> None:
    """Refuse a training without epochs, steps, samples or validations.

    Raises:
        ConfigError: naming the argument.
    """
    for name in COUNTS:
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"{name} cannot be this", entry=f"train::trainer::{name}", expected="1 or more, whole", found=value
            )


def check_precision(amp: bool | str, device: torch.device | str) -> None:
    """Refuse a precision that there is not, or not on this device.

    Raises:
        ConfigError: naming ``amp``.
    """
    if amp not in AMP:
        raise ConfigError("no such precision", entry="amp", expected=", ".join(map(str, AMP)), found=amp)
    if amp == "fp16" and torch.device(device).type != "cuda":
        raise ConfigError("float16 is for GPUs only", entry="amp", expected="false or bf16", found=amp)


def _check(
    device: torch.device | str, amp: bool | str, accumulate: int, cuda_graph: bool, given: Mapping[str, Any]
) -> None:
    """Refuse what would be ignored, or stop the first step.

    Raises:
        ConfigError: naming the argument.
    """
    on_gpu, place, compiled = torch.device(device).type == "cuda", "train::trainer::", bool(given.get("compile"))
    small = isinstance(given.get("prepare_batch"), SmallerWindows)  # a graph is for batches of one size
    check_precision(amp, device)
    others = {"amp: fp16": amp == "fp16", "accumulate": accumulate > 1, "compile": compiled}
    others |= {"prepare_batch: SmallerWindows": small}
    others |= {"several processes": processes.count() > 1, f"device {device}": not on_gpu}
    if cuda_graph and any(others.values()):
        raise ConfigError(
            "steps cannot be one CUDA graph here",
            entry=f"{place}cuda_graph",
            expected="false or null",
            found=", ".join(name for name, value in others.items() if value),
        )
    if compiled and not on_gpu and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise ConfigError(
            "torch.compile needs a C++ compiler on a processor", entry=f"{place}compile", expected="g++", found="none"
        )
