"""Several processes that train one network: who writes, what the first does for all, and how they end.

``torchrun`` starts them, and `join` makes them a group of torch.distributed. The first one (rank 0) prepares the data,
validates and writes; each function here does nothing special where there is one process.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from ignite import distributed as idist
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from differseg_med.errors import CaseError, ConfigError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which may have thousands of cases to prepare."""


def started() -> int:
    """How many processes the launcher has started, whether they know each other or not."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() else 1


def count() -> int:
    """How many processes train this network together."""
    return int(distributed.get_world_size()) if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return int(distributed.get_rank()) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that validates and writes; also where it is the only one."""
    return rank() == 0


def join(backend: str | None = None) -> None:
    """Make the processes of ``torchrun`` a group; nothing if there is one, or they are one already.

    Args:
        backend: of torch.distributed; default: NCCL between GPUs if each process of this machine has its own, gloo.
    """
    if started() < 2 or count() > 1:
        return
    own_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    distributed.init_process_group(backend or ("cpu:gloo,cuda:nccl" if own_gpus else "gloo"), timeout=PATIENCE)
    atexit.register(_leave)
    idist.get_world_size()  # ignite looks at the group once, with all processes: later each would do so when it likes
    if not is_first():  # what it would say, the first one says
        logging.getLogger("differseg_med").setLevel(logging.CRITICAL)
    else:
        logging.getLogger(__name__).info("%d processes train one network", count())


def own_device() -> torch.device:
    """The GPU of this process, by its number on this machine; the processor where there is no GPU.

    Raises:
        ConfigError: if there are fewer GPUs than processes on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, here, gpus = int(os.environ.get("LOCAL_RANK", "0")), started(), torch.cuda.device_count()
    if number >= gpus:
        raise ConfigError(
            "there are fewer GPUs than processes",
            entry="device",
            expected=f"torchrun --nproc_per_node={gpus}",
            found=os.environ.get("LOCAL_WORLD_SIZE", str(here)),
            remedy="Several processes on one GPU gain nothing; device: cpu trains on the processor.",
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def together(network: nn.Module, device: torch.device | str, sync_batchnorm: bool | None = None) -> nn.Module:
    """What the trainer calls in place of the network: torch's DDP, which averages gradients over the processes.

    Args:
        network: on its device; stays the one whose weights are saved. With ``sync_batchnorm`` its layers are replaced.
        device: of this process.
        sync_batchnorm: batch norm over the batches of all processes; None for where it can be, on GPUs.

    Raises:
        ConfigError: if it cannot be.
    """
    kind = torch.device(device).type
    if sync_batchnorm and kind == "cpu":
        raise ConfigError(
            "batch norm over several processes needs GPUs",
            entry="train::trainer::sync_batchnorm",
            expected="false or null",
            found=True,
        )
    if count() < 2:
        return network
    if sync_batchnorm or (sync_batchnorm is None and kind == "cuda"):
        convert_sync_batchnorm(network)  # timm's: torch's would lose activations that are part of its layers
    chosen = [torch.device(device)] if kind == "cuda" else None
    # A modality may be absent from a whole batch: what belongs to it alone then has no gradient in this process.
    return DistributedDataParallel(network, device_ids=chosen, find_unused_parameters=True)


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in all; it runs there only.

    Raises:
        CaseError: in the others, if it failed there; there the error itself.
    """
    if count() < 2:
        return make()
    told: list[Any] = [None, ""]
    if is_first():
        try:
            told[0] = make()
        except BaseException as error:
            with suppress(RuntimeError):
                distributed.broadcast_object_list([None, str(error) or type(error).__name__], 0, device=_CPU)
            raise
    with lost_peers():
        distributed.broadcast_object_list(told, 0, device=_CPU)
    if told[1]:
        raise CaseError("the first process has stopped", found=told[1])
    made: T = told[0]
    return made


def after_first(make: Callable[[], T]) -> T:
    """What ``make`` gives, in the first process before the others: they find on the disk what it left there."""
    kept: list[T] = []
    from_first(lambda: kept.append(make()))
    return kept[0] if kept else make()


def mean_over_processes(value: float) -> float:
    """The mean of a number over the processes."""
    if count() < 2:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    with lost_peers():
        distributed.all_reduce(total)
    return float(total) / count()


@contextmanager
def lost_peers() -> Iterator[None]:
    """Tell in one line that another process has ended.

    Raises:
        CaseError: instead of what torch says of a broken connection.
    """
    try:
        yield
    except RuntimeError as error:
        broken = isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))
        if count() < 2 or not broken:
            raise
        raise CaseError(
            f"another of the {count()} processes of this training has ended",
            found=re.sub(r"^\[[^]]*\] ?", "", str(error).strip()).split("\n")[0].split(". ")[0],  # no path, no advice
            remedy="Its message says why. The same command resumes after the last whole epoch.",
        ) from error


def refuse_processes() -> None:
    """Refuse to be one of several processes that do not know each other: each would train and write the same.

    Raises:
        CaseError: if a launcher such as ``torchrun`` started more than one.
    """
    if started() > 1 and count() < 2:
        raise CaseError(
            "this configuration trains in one process: several would train the same network and write the same files",
            expected="WORLD_SIZE 1",
            found=started(),
            remedy="Put configs/multi_gpu_train.yaml behind train.yaml (or --preset), or start it without torchrun.",
        )


_CPU = torch.device("cpu")


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
