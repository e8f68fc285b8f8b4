"""Two processes that train one network, as ``torchrun`` starts them; forked, so that torch is there already."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from support.synthetic import ROOT, SHORT_TRAINING, bundle_workflow, write_split_cohort
from support.training import tiny_trainer
from torch import distributed, nn

from differseg_med.bundles.factories import join_processes
from differseg_med.errors import CaseError, ConfigError
from differseg_med.runs.manifest import read_steps
from differseg_med.training import processes

OVERLAY = ROOT / "configs" / "multi_gpu_train.yaml"


def in_processes(job: Callable[[], object], count: int = 2) -> list[tuple[int, str]]:
    """Run a job in forked processes with the variables of torchrun; exit code and last error of each."""
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    queues = [fork.SimpleQueue() for _ in range(count)]

    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(count)}
        torch.set_num_threads(1)
        try:
            job()
            queues[rank].put("")
        except BaseException as error:
            queues[rank].put(f"{type(error).__name__}: {error}")
        finally:
            processes._leave()

    started = [fork.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()
    told = ["" if queue.empty() else queue.get() for queue in queues]
    return [(process.exitcode, text) for process, text in zip(started, told)]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two cases to train, one to validate."""
    return write_split_cohort(tmp_path_factory.mktemp("cohort"), blank={"b": "pet"})


def train(table: Path, out: Path, killed: int = 0, **settings) -> None:
    """The bundle's training with the overlay; of several processes the last dies at step ``killed``."""
    files = ("inference.yaml", "train.yaml", str(OVERLAY))
    settings = {**SHORT_TRAINING, "planes": ["axial"], "modality_dropout": 1.0, "learning_rate": 0.001, **settings}
    workflow = bundle_workflow(*files, cohort=str(table), output_dir=str(out), **settings)
    engine = workflow.parser.get_parsed_content("train::trainer")
    if killed and processes.rank():
        engine.add_event_handler(
            Events.ITERATION_COMPLETED(once=killed), lambda _: os.kill(os.getpid(), signal.SIGKILL)
        )
    workflow.run()


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def alone(table, tmp_path_factory) -> Path:
    """The folder of a training by one process with the batch of two."""
    out = tmp_path_factory.mktemp("one")
    train(table, out, batch_size=4, **{"train::trainer::sample_seeds": True})
    return out


@pytest.fixture(scope="module")
def together(table, alone, tmp_path_factory) -> Path:
    """The folder of a training by two processes."""
    out = tmp_path_factory.mktemp("two")
    assert in_processes(lambda: train(table, out)) == [(0, ""), (0, "")]
    return out


def test_two_processes_follow_the_curve_of_one_with_the_whole_batch(alone, together):
    """Not to the last digit: batch norm and the Dice of a batch see half of it in each process."""
    one, two = ([float(row["loss"]) for row in rows_of(out)] for out in (alone, together))
    assert two == pytest.approx(one, rel=0.1)
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert len(list((together / "cache").iterdir())) == 3
    step = read_steps(together)["train"]
    assert (step.state, step.settings["processes"]) == ("finished", "2")
    weights = [torch.load(out / "last.pt", weights_only=True)["network"] for out in (alone, together)]
    assert weights[0].keys() == weights[1].keys()


def test_one_of_them_is_killed_and_the_same_command_resumes(table, together, tmp_path):
    first, second = in_processes(lambda: train(table, tmp_path, killed=3))
    assert second == (-signal.SIGKILL, "")
    assert "CaseError: another of the 2 processes of this training has ended" in first[1]
    assert "The same command resumes after the last whole epoch." in first[1]
    assert read_steps(tmp_path)["train"].state == "stopped"
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1"]
    assert in_processes(lambda: train(table, tmp_path)) == [(0, ""), (0, "")]
    assert rows_of(tmp_path) == rows_of(together)
    resumed, whole = (torch.load(out / "last.pt", weights_only=True) for out in (tmp_path, together))
    assert all(torch.equal(resumed["network"][name], whole["network"][name]) for name in whole["network"])


class Plain(nn.Module):
    """No batch norm; ``rare`` is used in batches with a pixel above 0.999 only, like what an absent modality has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.usual, self.rare = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        out, bright = self.usual(x), (x > 0.999).flatten(1).any(dim=1)
        return out + self.rare(x) * bright[:, None, None, None] if bool(bright.any()) else out


def plain_training(out: Path, batch: int, **settings) -> dict[str, torch.Tensor]:
    """Three steps on 8 images, with a loss that is a mean over samples; the weights."""
    join_processes("gloo")
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(1, 8, 8, generator=generator) for _ in range(8)]
    images[0][0, 0, 0] = 1.0
    data = [{"image": x, "label": (x > 0.5).float(), "case_id": str(n)} for n, x in enumerate(images)]
    network = Plain()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    engine = tiny_trainer(
        optimizer,
        data,
        out,
        network=network,
        max_epochs=1,
        iterations=3,
        batch_size=batch,
        sample_seeds=True,
        loss_function=nn.BCEWithLogitsLoss(),
        **settings,
    )
    engine.run()
    return network.state_dict()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_batch_norm_the_weights_are_those_of_one_process(tmp_path, accumulate):
    """Also of a part that only one process uses in a step."""
    one = plain_training(tmp_path / "one", 8)
    ended = in_processes(lambda: plain_training(tmp_path / "two", 4, accumulate=accumulate))
    assert ended == [(0, ""), (0, "")]
    two = torch.load(tmp_path / "two" / "last.pt", weights_only=True)["network"]
    assert not torch.equal(one["rare.weight"], Plain().state_dict()["rare.weight"])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)


def test_what_fails_in_the_first_process_ends_all(tmp_path):
    def fail() -> None:
        raise CaseError("the folder is of another training")

    def job() -> None:
        join_processes()
        processes.from_first(fail)

    first, second = in_processes(job)
    assert first[1] == "CaseError: the folder is of another training"
    assert second[1] == "CaseError: the first process has stopped (found the folder is of another training)"
    assert not distributed.is_initialized()


def test_what_needs_gpus_is_refused():
    with pytest.raises(ConfigError, match=r"sync_batchnorm.*needs GPUs"):
        processes.together(nn.BatchNorm2d(1), "cpu", sync_batchnorm=True)
