"""Everything that a bundle's configuration may name: factories with flat, keyword arguments.

Bundles hold data only. Their configurations name these factories and MONAI or torch classes, so that a pipeline is
written once, in the package.
"""

from __future__ import annotations

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

from differseg_med.bundles.networks import training_network, with_weights
from differseg_med.bundles.overrides import refuse_unread
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.inferers import AutocastInferer, SliceWindowInferer, check_channels
from differseg_med.keys import CHANNELS, LABEL, PRED
from differseg_med.losses import DeepSupervisionLoss, StructureLoss, dice_ce_loss
from differseg_med.metrics.handlers import CaseMetric
from differseg_med.modality import Modality, declared
from differseg_med.networks import DifferSeg
from differseg_med.prediction import writers as exports
from differseg_med.prediction.dataset import CohortDataset
from differseg_med.prediction.evaluator import CohortEvaluator
from differseg_med.prediction.images2d import picture_writers
from differseg_med.prediction.pipeline import CaseLoader
from differseg_med.prediction.quality_flags import fingerprint_of
from differseg_med.prediction.result import CaseWriter
from differseg_med.prediction.summary import read_finished
from differseg_med.runs.shards import Shard
from differseg_med.training.averaging import AveragedNetwork
from differseg_med.training.data import labelled_data
from differseg_med.training.graphs import GraphedIteration
from differseg_med.training.loaders import draws_on_gpu, sample_loader
from differseg_med.training.recorder import TrainingRecorder
from differseg_med.training.train import RecordedTrainer
from differseg_med.transforms.affines import RestoreAffined
from differseg_med.transforms.pipelines import preprocessing, training_samples
from differseg_med.transforms.restoring import RestoreGridd, postprocessing

__all__ = [
    "AveragedNetwork",
    "CohortEvaluator",
    "DeepSupervisionLoss",
    "DifferSeg",
    "SliceWindowInferer",
    "StructureLoss",
    "TrainingRecorder",
    "case_loader",
    "cohort_dataset",
    "dice_ce_loss",
    "format_writers",
    "image_samples",
    "labelled_cases",
    "one_cycle",
    "optimizer",
    "picture_writers",
    "postprocessing",
    "preprocessing",
    "sample_loader",
    "trainer",
    "training_dataset",
    "training_fingerprint",
    "training_network",
    "training_samples",
    "validation_evaluator",
    "with_weights",
]


def cohort_dataset(
    cohort: str | Path,
    modalities: Mapping[str, Any] | Sequence[str],
    transform: Compose,
    *,
    split: str | Sequence[str] | None = None,
    withhold: Sequence[str] = (),
    output_dir: str | Path | None = None,
    resume: bool = False,
    shard: str | None = None,
) -> CohortDataset:
    """Cases of a cohort table to predict.

    Args:
        cohort: the table.
        modalities: in the network's order.
        transform: preprocessing.
        split: only these splits; None or empty for all rows.
        withhold: modalities to leave out although the table has them.
        output_dir: where an earlier run wrote its ``summary.csv``.
        resume: leave out the work on cases that it finished, as long as that still holds; see `keep_what_holds`.
        shard: ``2/4`` for the second of four shards: every fourth case from the second on.

    Raises:
        CaseError: if the table cannot be read, the shard is none, or ``monai.bundle run`` was given what nothing reads.
    """
    refuse_unread()
    table = read_cohort(cohort, _declared(modalities)).withhold(withhold)
    cases = table.select(split or None)
    finished = read_finished(output_dir) if resume and output_dir is not None else None
    chosen = Shard.parse(shard) if shard is not None else None
    everyone = [case.case_id for case in cases]
    return CohortDataset(
        chosen.take(cases) if chosen else cases, transform, finished, table, output_dir, chosen, everyone
    )


def case_loader(dataset: CohortDataset, jobs: int = 1) -> DataLoader:
    """Loader of one case at a time; with ``jobs`` over 1 the next ones are read ahead, see `CaseLoader`."""
    return CaseLoader(dataset, jobs)


def format_writers(formats: Sequence[str] = ("nifti",), bundle: str | Path = ".") -> list[CaseWriter]:
    """Writers for the formats of a run besides NIfTI, see `differseg_med.prediction.writers`.

    Args:
        formats: names, ``seg.nrrd`` or ``dicom-seg`` for example.
        bundle: folder whose metadata say what the masks show.

    Raises:
        CaseError: if there is no such format, or the metadata are not right.
    """
    return exports.format_writers(formats, bundle)


def training_dataset(
    cohort: str | Path,
    modalities: Mapping[str, Any] | Sequence[str],
    transform: Compose,
    cache_dir: str | Path,
    *,
    split: str | Sequence[str] = "train",
    samples: Compose | None = None,
) -> MonaiDataset:
    """Labelled cases of a split, preprocessed once and kept in memory.

    Args:
        cohort: the table.
        modalities: in the network's order.
        transform: preprocessing, cached.
        cache_dir: folder of the cache.
        split: which rows.
        samples: random part, applied at each access; None for whole volumes (validation). Without rows for a
            validation the data set is empty, and nothing is validated.

    Raises:
        CaseError: if the table cannot be read, a subject is on both sides of its split, no case can be used, or one is
            too small for the samples.
    """
    return labelled_data(read_cohort(cohort, _declared(modalities)), split, transform, cache_dir, samples)


def labelled_cases(
    dataset: CohortDataset,
    *,
    split: str | Sequence[str] = "train",
    samples: Compose | None = None,
    cache_dir: str | Path | None = None,
) -> MonaiDataset:
    """The `training_dataset` of the same table, modalities, preprocessing and folder as a data set for prediction.

    Args:
        dataset: the bundle's `cohort_dataset`.
        split: which rows.
        samples: random part, applied at each access; None for whole volumes (validation).
        cache_dir: where the preprocessed cases are kept; default: folder ``cache`` of the data set's ``output_dir``.

    Raises:
        CaseError: if no case can be used.
    """
    if dataset.cohort is None or (cache_dir is None and dataset.output_dir is None):
        raise CaseError("the data set has no cohort table or no output_dir", remedy="Make it with cohort_dataset.")
    folder = Path(cache_dir) if cache_dir is not None else Path(str(dataset.output_dir)) / "cache"
    return labelled_data(dataset.cohort, split, dataset.transform, folder, samples)


def training_fingerprint(
    cohort: str | Path, modalities: Mapping[str, Any] | Sequence[str], dataset: MonaiDataset, path: str | Path
) -> Path:
    """Write what the training cases measure, for the quality flags of predictions; see `Fingerprint`.

    Args:
        cohort: the table.
        modalities: in the network's order.
        dataset: the `training_dataset` of the table.
        path: the JSON file to write; put it beside the released weights.

    Raises:
        CaseError: if a label cannot be read any more.
    """
    fingerprint_of(read_cohort(cohort, _declared(modalities)).select(None), dataset.data).write(path)
    return Path(path)


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
    """
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


def image_samples(
    in_channels: Sequence[int],
    roi_size: Sequence[int],
    *,
    modality_dropout: float = 0.2,
    dropout_weights: Sequence[float] | None = None,
    max_shift: float = 2.0,
) -> Compose:
    """`training_samples` for 2-D images: upright, mirrored left and right only, magnified rather than made smaller."""
    return training_samples(
        in_channels,
        roi_size,
        num_slices=1,
        modality_dropout=modality_dropout,
        dropout_weights=dropout_weights,
        intensity=0.7,
        max_shift=max_shift,
        rotate_degrees=15,
        zoom=(1.0, 1.8),
        shift=0.15,
        flip_axis=1,
    )


def validation_evaluator(
    device: torch.device,
    dataset: MonaiDataset,
    network: nn.Module,
    inferer: Inferer,
    threshold: float = 0.5,
    *,
    postprocessing: Compose | None = None,
    amp: bool = False,
) -> SupervisedEvaluator | None:
    """Mean Dice and HD95 in mm over whole volumes on the network's grid, with the policy of reports.

    Masks are made as the bundle's ``postprocessing`` makes them, components and all; without it by ``threshold``. The
    key metric is ``val_mean_dice``; ``amp`` computes in bfloat16. None if there is no case to validate on.
    """
    if not len(dataset):
        return None

    def mean(measure: str) -> IgniteMetricHandler:
        return IgniteMetricHandler(metric_fn=CaseMetric(measure), output_transform=from_engine([PRED, LABEL]))

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
    val_interval: int = 5,
    resume: bool = True,
    seed: int = 0,
    num_workers: int = 0,
    augmentation: str = "auto",
    loss_function: Callable[..., torch.Tensor] | None = None,
    inferer: Inferer | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    lr_scheduler: LRScheduler | None = None,
    amp: bool = False,
    cuda_graph: bool | None = None,
    **kwargs: Any,
) -> SupervisedTrainer:
    """MONAI's trainer with a `TrainingRecorder`, which is made of the arguments where it is not given.

    Args:
        network: the network to train.
        recorder: or dataset, output_dir, optimizer and lr_scheduler; other arguments are those of `TrainingRecorder`.
        max_epochs: of the whole training.
        device: where the network is.
        dataset: of samples; `sample_loader` draws ``iterations`` batches an epoch, and says what ``augmentation`` is.
        average_decay: of the moving average of the weights; see `AveragedNetwork`.
        evaluator: validates the average, whatever network it had; None for no validation.
        loss_function: default: Dice and cross-entropy.
        inferer: default: one forward pass.
        amp: compute in bfloat16 (autocast), on CPU and GPU; weights, loss and gradients stay float32.
        cuda_graph: replay steps as one CUDA graph, see `GraphedIteration`; None where samples are made on a GPU.
        kwargs: more arguments of `SupervisedTrainer`, such as its ``train_handlers``.

    Raises:
        CaseError: if neither a recorder nor what makes one is given.
    """
    if recorder is None:
        if dataset is None or output_dir is None or optimizer is None or lr_scheduler is None:
            raise CaseError("the trainer needs dataset, output_dir, optimizer and lr_scheduler, or a recorder")
        average = AveragedNetwork(network, average_decay)
        if evaluator is not None:
            evaluator.network = average.average
        parts = (network, average, optimizer, lr_scheduler, output_dir)
        recorder = TrainingRecorder(*parts, evaluator=evaluator, val_interval=val_interval, resume=resume, seed=seed)
        drawn = (dataset, batch_size, iterations, seed, num_workers, device, augmentation)
        kwargs["train_data_loader"] = sample_loader(*drawn)
    if cuda_graph or (cuda_graph is None and draws_on_gpu(kwargs.get("train_data_loader"))):
        kwargs.setdefault("iteration_update", GraphedIteration())
    forward = inferer or SimpleInferer()
    kwargs |= {"max_epochs": max_epochs, "device": device, "loss_function": loss_function or dice_ce_loss()}
    kwargs["inferer"] = AutocastInferer(forward) if amp else forward
    return RecordedTrainer(recorder, network=network, **kwargs)


def _declared(modalities: Mapping[str, Any] | Sequence[str]) -> Mapping[str, Modality] | tuple[str, ...]:
    """What a table is compared with: names and, where the bundle says them, kinds."""
    return declared(modalities) if isinstance(modalities, Mapping) else tuple(modalities)
