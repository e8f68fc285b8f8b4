"""Cases read ahead of the network and written behind it: the same files, whoever fails or is killed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import pytest
from support.running import StopsAt
from support.synthetic import ThresholdCenter

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from torture.common import cohort, differences, evaluator, results

from differseg_med.errors import CaseError, ConfigError
from differseg_med.prediction.dataset import CohortDataset
from differseg_med.prediction.pipeline import Behind
from differseg_med.prediction.summary import read_summary

FORMATS = ("bids", "seg.nrrd")


class Breaks(ThresholdCenter):
    """Gives no numbers for the second case that it sees, which is c."""

    def forward(self, x):
        logits = super().forward(x)
        return logits * float("nan") if len(self.calls) == 2 else logits


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A table of four cases, of which one cannot be read and one gives no mask, and what a run in turn makes."""
    folder = tmp_path_factory.mktemp("in_turn")
    table = cohort(folder, "abcd")
    (folder / "b" / "t1.nii.gz").unlink()
    run(table, folder / "out", jobs=1)
    assert statuses(folder / "out") == {"a": "done", "b": "failed", "c": "failed", "d": "done"}
    return table, results(folder / "out")


def run(table: Path, out: Path, **settings) -> None:
    """Run with a network that gives no mask for case c."""
    evaluator(table, out, **{"formats": FORMATS, "evaluate": True, "network": Breaks(), **settings}).run()


def statuses(out: Path) -> dict[str, str]:
    """Status by case, in the order of the file."""
    return {row["case_id"]: row["status"] for row in read_summary(out / "summary.csv")}


@pytest.mark.parametrize("jobs", [2, 4])
def test_jobs_give_what_a_run_in_turn_gives(in_turn, tmp_path, jobs):
    table, expected = in_turn
    run(table, tmp_path, jobs=jobs)
    assert differences(expected, results(tmp_path)) == []


def test_a_reader_that_is_killed_ends_no_run(in_turn, tmp_path, caplog, monkeypatch):
    table, expected = in_turn
    read, here = CohortDataset.__getitem__, os.getpid()

    def killed(self, index):
        if os.getpid() != here and self.data[index].case_id == "c":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    monkeypatch.setattr(CohortDataset, "__getitem__", killed)
    run(table, tmp_path, jobs=2)
    assert "a process that reads cases ahead was killed" in caplog.text
    assert differences(expected, results(tmp_path)) == []


def test_what_is_interrupted_is_written_and_gone_on_with(in_turn, tmp_path):
    table, expected = in_turn
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path, jobs=2, network=StopsAt(3, KeyboardInterrupt()))
    assert statuses(tmp_path) == {"a": "done", "b": "failed", "c": "done"}
    network = ThresholdCenter()
    run(table, tmp_path, jobs=2, network=network, resume=True)
    assert statuses(tmp_path) == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert len(network.calls) == 1
    found = results(tmp_path)
    assert [found[f"{case}/mask.nii.gz"] == expected[f"{case}/mask.nii.gz"] for case in "ad"] == [True, True]


def test_tasks_are_done_in_order_behind_and_their_errors_are_told():
    done: list[int] = []
    gate = threading.Event()
    behind = Behind(2)
    with behind.open():
        behind.put(lambda: bool(gate.wait()))
        behind.put(lambda: done.append(1))
        assert done == []
        gate.set()
        behind.put(lambda: done.append(2))
    assert done == [1, 2]

    def fails() -> None:
        raise OSError(28, "No space left on device")

    for most in (0, 2):
        behind = Behind(most)
        with pytest.raises(OSError, match="No space"), behind.open():
            behind.put(fails)


@pytest.mark.parametrize(
    "error",
    [
        CaseError("problem", case="a", file="t1.nii.gz", expected=1, found=2, remedy="Do."),
        ConfigError("problem", entry="threshold", given="--set", found=3),
    ],
)
def test_errors_come_back_whole_from_another_process(error):
    again = pickle.loads(pickle.dumps(error.for_case("b", {"t1": Path("t1.nii.gz")})))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)


def test_no_jobs_are_refused(in_turn, tmp_path):
    with pytest.raises(ValueError, match="jobs must be 1 or more, got 0"):
        evaluator(in_turn[0], tmp_path, jobs=0)
