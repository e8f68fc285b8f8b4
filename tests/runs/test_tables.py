"""Tables that commands write: a kill at any moment leaves one that the next run knows as ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from differseg_med.atomic import write_text
from differseg_med.errors import CaseError
from differseg_med.runs.tables import written_table


def scan(out: Path, text: str, *, killed: str = "") -> None:
    """Write a table; ``killed`` before or after it got its name, which no handler of exceptions sees in a real kill."""
    with written_table(out, "scan"):
        if killed != "before":
            write_text(out, text)
        if killed:
            raise KeyboardInterrupt


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("killed", ["before", "after"])
def test_the_next_run_replaces_what_a_killed_one_left(tmp_path, earlier, killed):
    out = tmp_path / "cohort.csv"
    if earlier:
        scan(out, "case_id\nold\n")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            scan(out, "case_id\nnew\n", killed=killed)
    scan(out, "case_id\nnewest\n")
    assert out.read_text() == "case_id\nnewest\n"


def test_a_kill_between_the_record_and_the_name(tmp_path, monkeypatch):
    out = tmp_path / "cohort.csv"
    scan(out, "case_id\nold\n")
    rename = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if Path(target) == out:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            scan(out, "case_id\nnew\n")
    assert out.read_text() == "case_id\nold\n"
    scan(out, "case_id\nnewest\n")


def test_a_table_that_was_changed_by_hand_stays(tmp_path):
    out = tmp_path / "cohort.csv"
    with pytest.raises(KeyboardInterrupt):
        scan(out, "case_id\nnew\n", killed="after")
    out.write_text("case_id\nby hand\n")
    with pytest.raises(CaseError, match="made or changed by hand"):
        scan(out, "case_id\nnewest\n")
    assert out.read_text() == "case_id\nby hand\n"
