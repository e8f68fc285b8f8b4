"""Batches of training samples, by workers on the processor or at once on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Randomizable
from torch.utils.data import DistributedSampler, RandomSampler

from differseg_med.errors import ConfigError
from differseg_med.keys import IMAGE
from differseg_med.training import processes
from differseg_med.transforms.batched import BatchedSamples, batch_parts

logger = logging.getLogger(__name__)

AUGMENTATION = ("auto", "device", "workers")
"""Where samples are made: ``auto`` is the device if it is a GPU and can, else workers."""


class BatchedLoader:
    """Iterates over batches of `BatchedSamples`, as a data loader would.

    Args:
        dataset: cases, with the samples as its transform.
        batch_size: samples in a batch.
        iterations: batches of an epoch.
        device: where they are made.
        seed: of the first epoch.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, iterations: int, device: torch.device | str, seed: int = 0
    ) -> None:
        self.dataset, self.batch_size, self.iterations = dataset, batch_size, iterations
        self.samples = BatchedSamples(dataset.data, dataset.transform, device)
        self.set_random_state(seed)

    def set_random_state(self, seed: int) -> None:
        """Begin the random numbers anew; each of several processes has its own."""
        self.samples.set_random_state(_mixed(seed, processes.rank()) if processes.rank() else seed)

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.samples.batch(self.batch_size) for _ in range(self.iterations))


class SampleLoader(DataLoader):
    """MONAI's loader, whose sampler, transforms and workers begin anew from one number."""

    def set_random_state(self, seed: int) -> None:
        """Begin the random numbers anew."""
        generator = getattr(self.sampler, "generator", None)
        if generator is not None:
            generator.manual_seed(seed)
        samples = getattr(self.dataset, "transform", None)
        if isinstance(self.dataset, SeededSamples):
            self.dataset.set_random_state(seed)
        elif isinstance(samples, Randomizable):
            samples.set_random_state(seed)


class SeededSamples(Dataset):
    """The samples of an epoch by their position, each from a seed of its own: the same whichever process makes them.

    Args:
        dataset: cases, with the random transforms of a sample.
        count: samples of an epoch, of cases drawn with replacement.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        super().__init__(dataset.data, dataset.transform)
        self.count = count
        for name in ("cases", "unreadable", "tables"):
            setattr(self, name, getattr(dataset, name, ()))
        self.set_random_state(0)

    def set_random_state(self, seed: int) -> None:
        """Draw the cases of another epoch."""
        self._seed = seed
        drawn = torch.randint(len(self.data), (self.count,), generator=torch.Generator().manual_seed(seed))
        self._drawn: list[int] = drawn.tolist()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Any:
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(_mixed(self._seed, position))
        return super().__getitem__(self._drawn[position])


def sample_loader(
    dataset: Dataset,
    batch_size: int,
    iterations: int,
    seed: int = 0,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    augmentation: str = "workers",
    sample_seeds: bool | None = None,
) -> SampleLoader | BatchedLoader:
    """Loader that draws ``iterations`` batches of cases per epoch, with replacement, under a seed.

    Args:
        dataset: cases, with the random transforms of a sample.
        batch_size: samples in a batch.
        iterations: batches of an epoch.
        seed: of the first epoch.
        num_workers: processes that make samples; none are used on the device.
        device: of the training.
        augmentation: where samples are made: ``workers`` on the processor one by one, ``device`` in batches, ``auto``
            on the device if that is a GPU, the samples have a ``placement`` and the cases fit into half of its memory.
        sample_seeds: each sample made on the processor has a seed of its own, so that several processes (always so)
            draw together what one would with the whole batch; else an epoch has one.

    Raises:
        ConfigError: if the samples cannot be made on the device.
    """
    if augmentation not in AUGMENTATION:
        raise ConfigError(
            "samples are not made there", entry="augmentation", expected=", ".join(AUGMENTATION), found=augmentation
        )
    if augmentation == "device" or (augmentation == "auto" and _fits(dataset, torch.device(device))):
        return BatchedLoader(dataset, batch_size, iterations, device, seed)
    together = processes.count()
    if sample_seeds or together > 1:
        dataset = SeededSamples(dataset, batch_size * iterations * together)
        mine: DistributedSampler[Any] = DistributedSampler(dataset, together, processes.rank(), shuffle=False)
        return SampleLoader(dataset, batch_size=batch_size, sampler=mine, num_workers=num_workers, drop_last=True)
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, num_samples=batch_size * iterations, generator=generator)
    return SampleLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, drop_last=True)


def draws_on_gpu(loader: object) -> bool:
    """Whether a loader makes its batches on a GPU, all of one size."""
    return isinstance(loader, BatchedLoader) and loader.samples.device.type == "cuda"


def _fits(dataset: Dataset, device: torch.device) -> bool:
    """Whether a GPU can make these samples, and has room for all cases beside the network."""
    if device.type != "cuda" or not len(dataset):
        return False
    try:
        batch_parts(dataset.transform)
    except ConfigError as error:
        logger.info("samples are made on the processor: %s", error)
        return False
    needed = sum(4 * item[IMAGE].numel() + item[IMAGE][0].numel() for item in dataset.data)
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free // 2:
        logger.info("samples are made on the processor: the cases need %.1f of %.1f GB", needed / 1e9, free / 1e9)
    return needed <= free // 2


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
