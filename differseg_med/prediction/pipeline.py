"""What goes on beside the network: the next cases are read ahead of it, the last ones are written behind it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.data import DataLoader, MetaTensor
from torch import Tensor

from differseg_med.case import Case
from differseg_med.prediction.dataset import CohortDataset, Item, single_item
from differseg_med.prediction.summary import SummaryRow

logger = logging.getLogger(__name__)

WATCH_SECONDS = 2.0
"""How often a process that reads ahead looks whether its run is still there."""


class CaseLoader(DataLoader):
    """Gives the items of a `CohortDataset` one by one and in order.

    With ``jobs`` over 1, so many less one are read and preprocessed ahead by processes of their own, each with one
    thread. One that the system kills (for want of memory, or of shared memory in a container) ends no run: the rest is
    read in turn. torch's own workers would raise wherever the run happens to be then.

    Args:
        dataset: the cases.
        jobs: cases in work at a time.
    """

    def __init__(self, dataset: CohortDataset, jobs: int = 1) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be 1 or more, got {jobs}")
        super().__init__(dataset, batch_size=1, collate_fn=single_item)
        self.jobs = jobs

    def __iter__(self) -> Iterator[Item]:
        """The items."""
        indices = deque(range(len(self.dataset)))
        if self.jobs > 1:
            try:
                yield from self._ahead(indices)
            except BrokenProcessPool:
                logger.warning(
                    "a process that reads cases ahead was killed, perhaps for want of memory: the others are read in "
                    "turn. Give fewer --jobs; in a container, more shared memory (--shm-size)."
                )
        while indices:
            yield self.dataset[indices.popleft()]

    def _ahead(self, indices: deque[int]) -> Iterator[Item]:
        """The items, read ahead; ``indices`` are those that have not been given yet.

        Raises:
            BrokenProcessPool: if a process was killed.
        """
        pool = ProcessPoolExecutor(self.jobs - 1, initializer=_start_reading, initargs=(self.dataset, os.getpid()))
        try:
            waiting: deque[Future[Item]] = deque()
            while indices:
                for index in list(indices)[len(waiting) : self.jobs - 1]:
                    waiting.append(pool.submit(_read, index))
                item = waiting.popleft().result()
                indices.popleft()
                yield item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_dataset: CohortDataset | None = None
"""In a process that reads ahead: what it reads."""


def _start_reading(dataset: CohortDataset, parent: int) -> None:
    """Make this process ready: interrupts are for the run itself, and when that is gone nobody reads on."""
    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read(index: int) -> Item:
    assert _dataset is not None
    item: Item = _dataset[index]
    return item


@dataclass
class Work:
    """A case on its way.

    Args:
        case: its row of the cohort table.
        row: its row of the summary.
        batch: what the loader gave.
        label: to measure the mask with.
        found: logits ``(1, 1, R, A, S)`` of each network.
        notes: for the reader of the summary.
        seconds: spent on it.
    """

    case: Case
    row: SummaryRow
    batch: Item
    label: MetaTensor | None = None
    found: list[Tensor] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.seconds += self.batch.get("seconds", 0.0)


class Behind:
    """Does tasks in the order that they are given: at once, or one by one in a thread behind the caller.

    Args:
        most: tasks that may wait; 0 does each at once.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def put(self, task: Callable[[], None]) -> None:
        """Do a task, or have it done; waits as long as too many are waiting.

        Raises:
            Exception: whatever this task, or one before it, raised.
        """
        if self._pool is None:
            task()
            return
        while len(self._waiting) >= self.most:
            self._waiting.popleft().result()
        # What is set around the run (its guard of files) holds in the thread, too.
        self._waiting.append(self._pool.submit(copy_context().run, task))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within the block tasks are done behind; at its end, however it ends, all of them are done."""
        if not self.most:
            yield
            return
        with ThreadPoolExecutor(1, "writing") as self._pool:
            try:
                yield
            finally:
                problems = [self._waiting.popleft().exception() for _ in range(len(self._waiting))]
                self._pool = None
        for problem in filter(None, problems):
            raise problem


def jobs_of(loader: Any) -> int:
    """How many cases a loader has in work at a time."""
    return int(getattr(loader, "jobs", 1))
