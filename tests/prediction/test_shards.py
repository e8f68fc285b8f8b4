"""Shards of a prediction, put together: what one process gives, whatever is killed in between."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic import ThresholdCenter, read_rows

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from torture.common import cohort, differences, evaluator, results

from differseg_med.errors import CaseError
from differseg_med.prediction.collecting import collect
from differseg_med.prediction.summary import read_summary
from differseg_med.runs.lock import locked
from differseg_med.runs.manifest import read_steps, write_steps
from differseg_med.runs.shards import Shard, shards_in
from differseg_med.runs.status import status_lines

IDS = ["S1_11", "b", "S11_1", "c", "d"]  # the first and the third are one subject in BIDS unless all ids are known
FORMATS = ("bids", "seg.nrrd")


class Kills(ThresholdCenter):
    """Ends its process at the n-th case, as the system does when memory is short."""

    __qualname__ = ThresholdCenter.__qualname__  # to a manifest it is the same network

    def __init__(self, case: int) -> None:
        super().__init__(threshold=0.7)
        self._case = case

    def __repr__(self) -> str:
        return repr(ThresholdCenter(threshold=0.7))

    def forward(self, x):
        if len(self.calls) + 1 == self._case:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def shard(table: Path, out: Path, text: str, **settings):
    """Run a shard."""
    evaluator(table, Shard.parse(text).folder(out), shard=text, **settings).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A table with a case that fails, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    table = cohort(folder, IDS)
    (folder / "c" / "t1.nii.gz").unlink()
    evaluator(table, folder / "whole", formats=FORMATS).run()
    return table, results(folder / "whole")


@pytest.fixture(scope="module")
def halves(whole, tmp_path_factory) -> Path:
    """Two shards of the same, both done, to be copied."""
    folder = tmp_path_factory.mktemp("halves")
    for text in ("1/2", "2/2"):
        shard(whole[0], folder, text, formats=FORMATS)
    return folder


def copied(folder: Path, target: Path) -> Path:
    """A copy of results."""
    return Path(shutil.copytree(folder, target, dirs_exist_ok=True))


def changed(folder: Path, text: str, **fields) -> None:
    """The manifest of a shard with other fields."""
    place = Shard.parse(text).folder(folder)
    write_steps(place, {"predict": replace(read_steps(place)["predict"], **fields)})


def collected(out: Path) -> dict[str, str]:
    """The results, without what the shards said of themselves."""
    return {name: text for name, text in results(out).items() if not name.startswith("earlier_runs")}


def test_shards_give_what_one_process_gives_and_a_kill_loses_nothing(whole, tmp_path):
    table, expected = whole
    child = os.fork()
    if child == 0:
        shard(table, tmp_path, "1/2", formats=FORMATS, network=Kills(2))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    shard(table, tmp_path, "2/2", formats=FORMATS)
    with pytest.raises(CaseError, match=r"shard 1/2 is not finished .*found killed.*--shard 1/2 --resume"):
        collect(tmp_path)
    assert "shard 1/2: predict: was killed" in " ".join(status_lines(tmp_path))
    first = shards_in(tmp_path)[Shard(2, 1)]
    kept = (first / "S1_11" / "mask.nii.gz").stat().st_mtime_ns
    network = ThresholdCenter(threshold=0.7)
    shard(table, tmp_path, "1/2", formats=FORMATS, network=network, resume=True)
    assert len(network.calls) == 2  # of its three
    rows = collect(tmp_path)
    assert [(row["case_id"], row["status"]) for row in rows] == [(i, "failed" if i == "c" else "done") for i in IDS]
    assert differences(expected, collected(tmp_path)) == []
    assert (tmp_path / "S1_11" / "mask.nii.gz").stat().st_mtime_ns == kept
    before = collected(tmp_path)
    assert collect(tmp_path) == read_summary(tmp_path / "summary.csv")  # again
    assert differences(before, collected(tmp_path)) == []


def test_what_was_collected_can_be_gone_on_with(whole, halves, tmp_path):
    table, expected = whole
    collect(copied(halves, tmp_path))
    network = ThresholdCenter(threshold=0.7)
    evaluator(table, tmp_path, formats=FORMATS, network=network, resume=True).run()
    assert network.calls == []
    assert differences(expected, collected(tmp_path)) == []


@pytest.mark.parametrize("moves", [0, 1, 4])
def test_a_collection_that_was_killed_is_taken_up_again(whole, halves, tmp_path, moves, monkeypatch):
    table, expected = whole
    copied(halves, copied(table.parent / "whole", tmp_path))  # an earlier run is there, which is set aside
    real, done = Path.rename, []

    def rename(self, target):
        if "shards" in str(self):
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(self)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path)
    assert read_steps(tmp_path)["predict"].state == ("finished" if moves == 4 else "running")
    collect(tmp_path)
    assert differences(expected, collected(tmp_path)) == []
    (aside,) = [path for path in (tmp_path / "earlier_runs").iterdir() if not path.name.startswith("shards")]
    assert differences(expected, results(aside)) == []


def test_more_shards_than_cases(whole, tmp_path):
    two = whole[0].with_name("two.csv")
    two.write_text("".join(whole[0].read_text().splitlines(keepends=True)[:3]))
    for number in range(1, 4):
        shard(two, tmp_path, f"{number}/3")
    assert [row["case_id"] for row in collect(tmp_path)] == IDS[:2]
    assert [step.inputs.keys() for step in read_steps(tmp_path).values()] == [set(IDS[:2])]


def test_what_does_not_belong_together_is_refused(whole, halves, tmp_path):
    with pytest.raises(CaseError, match=r"there are no shards here"):
        collect(tmp_path)
    first, second = (Shard.parse(text).folder(tmp_path) for text in ("1/2", "2/2"))
    copied(Shard(2, 1).folder(halves), first)
    with pytest.raises(CaseError, match=r"shards are missing .*expected 2 shards, found none for 2/2"):
        collect(tmp_path)
    shard(whole[0], tmp_path, "2/2", formats=FORMATS, threshold=0.4)
    with pytest.raises(CaseError, match=r"shards 1/2 and 2/2 do not belong together .*was \[0\.5\], is \[0\.4\]"):
        collect(tmp_path)
    good = read_steps(Shard(2, 2).folder(halves))["predict"]
    for fields, words in (
        ({"settings": good.settings | {"network.weights": "other"}}, r"network\.weights: was .*, is other"),
        ({"software": good.software | {"code": "other"}}, "code: was .*, is other"),
        ({"results": {"mask.nii.gz": ""}}, r"formats: was .*bids.*, is mask\.nii\.gz"),
        ({"shard": good.shard | {"cases": IDS[:-1]}}, "other cases in the table"),
    ):
        copied(Shard(2, 2).folder(halves), second)
        changed(tmp_path, "2/2", **fields)
        with pytest.raises(CaseError, match=rf"do not belong together .*{words}"):
            collect(tmp_path)
    copied(second, Shard(3, 2).folder(tmp_path))
    with pytest.raises(CaseError, match=r"do not belong together .*found 1/2, 2/2, 2/3"):
        collect(tmp_path)
    shutil.rmtree(Shard(3, 2).folder(tmp_path))
    changed(tmp_path, "2/2", shard=good.shard | {"of": 3})
    with pytest.raises(CaseError, match=r"this is not shard 2/2 .*found 2/3"):
        collect(tmp_path)
    changed(tmp_path, "2/2", shard=good.shard)
    (second / "summary.csv").unlink()
    with pytest.raises(CaseError, match=r"summary\.csv of shard 2 has no row"):
        collect(tmp_path)
    assert not (tmp_path / "summary.csv").exists()


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Another process holds the lock of a folder; its number."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(folder):
            os.write(writes, b"x")
            signal.pause()
    os.read(reads, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_shards_may_run_together_but_not_beside_the_whole(whole, tmp_path):
    table, _ = whole
    busy = "another run is writing .*process {} on"
    with held(tmp_path / "shards" / "1_of_2") as process:
        for blocked in (collect, lambda out: evaluator(table, out).run(), lambda out: shard(table, out, "1/2")):
            with pytest.raises(CaseError, match=busy.format(process)):
                blocked(tmp_path)
        shard(table, tmp_path, "2/2")
    assert set(read_rows(tmp_path / "shards" / "2_of_2" / "summary.csv")) == {"b", "c"}
    with held(tmp_path) as process, pytest.raises(CaseError, match=busy.format(process)):
        shard(table, tmp_path, "1/2")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "1/2/3", "-1/2", "a/b", ""])
def test_what_is_no_shard(text):
    with pytest.raises(CaseError, match=r"is not understood .*Write --shard 2/4"):
        Shard.parse(text)


def test_scores_are_not_made_by_shards(whole, tmp_path):
    with pytest.raises(CaseError, match="shards are for predict"):
        shard(whole[0], tmp_path, "1/2", evaluate=True)
    (tmp_path / "b").mkdir()
    with pytest.raises(CaseError, match=r"results and data would lie in one folder"):
        shard(cohort(tmp_path, "ab"), tmp_path, "2/2")
