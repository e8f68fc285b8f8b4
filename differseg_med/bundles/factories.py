"""Everything that a bundle's configuration may name: factories with flat, keyword arguments.

Bundles hold data only. Their configurations name these factories and MONAI or torch classes, so that a pipeline is
written once, in the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import DataLoader
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose

from differseg_med.bundles.networks import training_network, with_weights
from differseg_med.bundles.overlays import overlay
from differseg_med.bundles.overrides import refuse_unread
from differseg_med.bundles.training import one_cycle, optimizer, trainer, validation_evaluator
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.inferers import SliceWindowInferer
from differseg_med.losses import DeepSupervisionLoss, StructureLoss, dice_ce_loss
from differseg_med.modality import Modality, declared
from differseg_med.networks import DifferSeg
from differseg_med.prediction import writers as exports
from differseg_med.prediction.dataset import CohortDataset
from differseg_med.prediction.evaluator import CohortEvaluator
from differseg_med.prediction.images2d import picture_writers
from differseg_med.prediction.pipeline import CaseLoader
from differseg_med.prediction.quality import fingerprint_of
from differseg_med.prediction.result import CaseWriter
from differseg_med.prediction.summary import read_finished
from differseg_med.runs.shards import Shard
from differseg_med.training import processes
from differseg_med.training.averaging import AveragedNetwork
from differseg_med.training.data import MEMORY_GB, labelled_data
from differseg_med.training.loaders import sample_loader
from differseg_med.training.processes import join as join_processes
from differseg_med.training.processes import own_device as process_device
from differseg_med.training.recorder import TrainingRecorder
from differseg_med.training.windows import SmallerWindows
from differseg_med.transforms.pipelines import preprocessing, training_samples
from differseg_med.transforms.restoring import postprocessing

__all__ = [
    "AveragedNetwork",
    "CohortEvaluator",
    "DeepSupervisionLoss",
    "DifferSeg",
    "SliceWindowInferer",
    "SmallerWindows",
    "StructureLoss",
    "TrainingRecorder",
    "case_loader",
    "cohort_dataset",
    "dice_ce_loss",
    "format_writers",
    "image_samples",
    "join_processes",
    "labelled_cases",
    "one_cycle",
    "optimizer",
    "overlay",
    "picture_writers",
    "postprocessing",
    "preprocessing",
    "process_device",
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
    memory_gb: float = MEMORY_GB,
) -> MonaiDataset:
    """Labelled cases of a split, preprocessed once.

    Args:
        cohort: the table.
        modalities: in the network's order.
        transform: preprocessing, cached.
        cache_dir: folder of the cache.
        split: which rows.
        samples: random part, applied at each access; None for whole volumes (validation). Without rows for a
            validation the data set is empty, and nothing is validated.
        memory_gb: of the cases to keep in memory; the others are read from the cache whenever they are drawn.

    Raises:
        CaseError: if the table cannot be read, a subject is on both sides of its split, no case can be used, or one is
            too small for the samples.
    """
    return labelled_data(read_cohort(cohort, _declared(modalities)), split, transform, cache_dir, samples, memory_gb)


def labelled_cases(
    dataset: CohortDataset,
    *,
    split: str | Sequence[str] = "train",
    samples: Compose | None = None,
    cache_dir: str | Path | None = None,
    memory_gb: float = MEMORY_GB,
) -> MonaiDataset:
    """The `training_dataset` of the same table, modalities, preprocessing and folder as a data set for prediction.

    Args:
        dataset: the bundle's `cohort_dataset`.
        split: which rows.
        samples: random part, applied at each access; None for whole volumes (validation).
        cache_dir: where the preprocessed cases are kept; default: folder ``cache`` of the data set's ``output_dir``.
        memory_gb: of the cases to keep in memory; the others are read from the cache whenever they are drawn.

    Raises:
        CaseError: if no case can be used.
    """
    if dataset.cohort is None or (cache_dir is None and dataset.output_dir is None):
        raise CaseError("the data set has no cohort table or no output_dir", remedy="Make it with cohort_dataset.")
    folder = Path(cache_dir) if cache_dir is not None else Path(str(dataset.output_dir)) / "cache"
    return labelled_data(dataset.cohort, split, dataset.transform, folder, samples, memory_gb)


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
    if processes.is_first():
        fingerprint_of(read_cohort(cohort, _declared(modalities)).select(None), dataset.data).write(path)
    return Path(path)


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


def _declared(modalities: Mapping[str, Any] | Sequence[str]) -> Mapping[str, Modality] | tuple[str, ...]:
    """What a table is compared with: names and, where the bundle says them, kinds."""
    return declared(modalities) if isinstance(modalities, Mapping) else tuple(modalities)
