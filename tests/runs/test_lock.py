"""One process at a time in a folder, and none that is gone keeps others out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from differseg_med.errors import CaseError
from differseg_med.runs.folder import Terminated, occupied, set_aside
from differseg_med.runs.lock import LOCK_FILE, holder, locked

HOLDS = """
import sys, time
from pathlib import Path
from differseg_med.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"held"
        assert holder(tmp_path) == {"host": socket.gethostname(), "pid": process.pid}
        with pytest.raises(CaseError, match=f"another run .*process {process.pid} on {socket.gethostname()}"):
            locked(tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).is_file()
    assert holder(tmp_path) is None
    with locked(tmp_path) as first:  # of a process that is gone
        assert first
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        with locked(tmp_path / "." / "") as again:
            assert not again
        assert holder(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []


def test_a_child_of_a_killed_process_keeps_nobody_out(tmp_path):
    """Data loaders fork; what they inherit must not hold the lock."""
    reads, writes = os.pipe()
    parent = os.fork()
    if parent == 0:
        with locked(tmp_path):
            child = os.fork()
            if child:
                os.write(writes, str(child).encode())
            signal.pause()
    child = int(os.read(reads, 20))
    assert holder(tmp_path)["pid"] == parent
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        assert holder(tmp_path) is None
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_another_machine(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"host": "node17", "pid": 4711}')
    with pytest.raises(CaseError, match=r"process 4711 on node17.*remove \.run\.lock"):
        locked(tmp_path).__enter__()
    (tmp_path / LOCK_FILE).write_text("{")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("stale", ["", '{"host": "HOST", "pid": 1, "longer": "than what comes"}'])
def test_it_is_never_there_without_its_owner(tmp_path, monkeypatch, stale):
    """Whatever call of the system it is killed after: at each the file is whole, or not there."""
    seen, path = [], tmp_path / LOCK_FILE
    if stale:
        path.write_text(stale.replace("HOST", socket.gethostname()))

    def watched(call):
        def instead(*args, **kwargs):
            try:
                return call(*args, **kwargs)
            finally:
                seen.append(json.loads(path.read_text())["pid"] if path.exists() else None)

        return instead

    with monkeypatch.context() as patched:
        for name in ("open", "pwrite", "link", "ftruncate"):
            patched.setattr(os, name, watched(getattr(os, name)))
        with locked(tmp_path):
            assert holder(tmp_path)["pid"] == os.getpid()
    assert set(seen) == {1 if stale else None, os.getpid()}
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    with locked(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(CaseError, match="is a file"):
            locked(path).__enter__()
    with pytest.raises(CaseError, match="cannot be written"):
        locked(Path("/proc/nowhere")).__enter__()


def end_this_process() -> None:
    """Send SIGTERM and stay: another thread may take it, and then it comes a little later."""
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.01)


def test_sigterm_is_like_ctrl_c(tmp_path, caplog):
    with pytest.raises(Terminated), occupied(tmp_path / "out", go_on="Continue with --resume."):
        end_this_process()
    kept = f"what was finished is kept in {tmp_path / 'out'}. Continue with --resume."
    assert f"the system ended the run; {kept}" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert list((tmp_path / "out").iterdir()) == []


def test_half_written_files_are_gone_when_the_next_run_begins(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / ".mask.nii.gz.01234567.tmp.nii.gz").write_text("half")
    with occupied(tmp_path):
        assert list((tmp_path / "case").iterdir()) == []


def test_setting_aside_loses_nothing(tmp_path):
    for run in ("first", "second"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mask.nii.gz").write_text(run)
        target = set_aside(tmp_path, ["summary.csv", "a", "a"], "2026-11-25T10:00:00+00:00")
        assert (target / "a" / "mask.nii.gz").read_text() == run
    assert sorted(p.name for p in (tmp_path / "earlier_runs").iterdir()) == [
        "2026-11-25T10-00-00",
        "2026-11-25T10-00-00_2",
    ]
    assert set_aside(tmp_path, ["a"]) is None
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "label.nii").write_text("x")
    with occupied(tmp_path, [tmp_path / "b" / "label.nii"]), pytest.raises(CaseError, match="data of the cohort"):
        set_aside(tmp_path, ["b"])
    assert (tmp_path / "b" / "label.nii").is_file()
