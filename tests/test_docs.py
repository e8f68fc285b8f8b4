"""What README, docs and bundle cards show runs: every command, every block of Python, every notebook.

A page is a session in the working folder of `support.stage`, where shipped bundles lie and a reader's own files have
stand-ins. Commands that cannot run here are listed, with the reason, in `support.docs.NOT_RUN`; their options are
parsed all the same (`tests/test_docs_names.py`). Pages whose commands take more than a few seconds are marked
``docs``: `make test-docs` runs them.
"""

from __future__ import annotations

import re
import runpy
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from support.docs import MADE_BY_A_RUN, NOT_RUN, PAGES, ROOT, fenced, name_of, reason_not_to_run, shown_commands
from support.forking import in_fork
from support.stage import COARSE, FLAT, Stage, make_readers_data, play

import differseg_med as ds

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
QUICK = ("docs/howto/rtstruct_labels.md", "docs/howto/other_grids.md")
"""Pages whose commands are part of `make test`."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader brings."""
    return make_readers_data(tmp_path_factory.mktemp("readers_data"))


def lines_to_run(page: Path) -> list[str]:
    if name_of(page) in MADE_BY_A_RUN:
        return []
    return [line for line in shown_commands(page.read_text(encoding="utf-8")) if not reason_not_to_run(line)]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=() if name_of(page) in QUICK else pytest.mark.docs)
        for page in PAGES
        if lines_to_run(page)
    ],
)
def test_every_command_runs(page: Path, data: Path, tmp_path: Path) -> None:
    failed = in_fork(partial(play, page, lines_to_run(page), data, tmp_path))
    assert not failed, failed


def test_what_is_not_run_is_shown_somewhere() -> None:
    shown = [line for page in PAGES for line in shown_commands(page.read_text(encoding="utf-8"))]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in shown)] == []
    assert set(MADE_BY_A_RUN) | set(QUICK) <= {name_of(page) for page in PAGES}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("differseg-med cohort check nowhere.csv --out CHECK", "nowhere.csv"),
        ("rm -r results", "who runs"),
        ("python scripts/make_multiphase_ct.py --cases none", "invalid int value"),
    ],
)
def test_a_command_that_fails_is_found(line: str, message: str, data: Path, tmp_path: Path, capfd) -> None:
    failed = in_fork(partial(play, PAGES[0], [line], data, tmp_path))
    assert line in failed
    assert message in failed + "".join(capfd.readouterr())


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=name_of)
def test_python_blocks_run(page: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Stage(tmp_path, page.read_text(encoding="utf-8"), data)
    monkeypatch.setattr(ds, "segment", partial(ds.segment, settings=COARSE), raising=False)
    for body in fenced(page, "python"):
        exec(compile(body, name_of(page), "exec"), {})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_run(
    notebook: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Stage(tmp_path, notebook.read_text(encoding="utf-8"), data)
    monkeypatch.setattr(ds, "segment", partial(ds.segment, settings=FLAT[:1]), raising=False)
    try:
        runpy.run_path(str(notebook))
    finally:
        plt.close("all")
    assert capsys.readouterr().out
