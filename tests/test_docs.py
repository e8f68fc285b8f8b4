"""What README and docs show as runnable runs; that what they name exists is held by `test_docs_names`.

A fenced ``bash`` block is run as it stands on what a clone holds, in a folder that links to bundles, scripts and tests.
Commands that are indented, or name something in CAPITALS, need data or a machine of the reader's own: those are parsed
by typer, so that every command, option and argument exists. Python blocks are run where they need only shipped data.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from support.docs import PAGES, ROOT, fenced, name_of
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
TINY = {"predict": ["--set", "planes=[axial]"]}
"""Settings that make a command quick, for bundles of volumes."""
MINUTES = "<!-- minutes -->\n"
"""Before a block of commands that take minutes: they are parsed here and not run."""
OWN_DATA = "<!-- own data -->\n"
"""Before a block of Python that needs files of the reader's own: only its imports are run, and its names looked up."""


def quick(words: list[str]) -> list[str]:
    """More options for a command of volumes."""
    return [] if any("pothole" in word for word in words) else TINY.get(words[1], [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with links to what a clone has."""
    made = tmp_path_factory.mktemp("docs")
    for name in ("bundles", "configs", "docs", "scripts", "tests"):
        (made / name).symlink_to(ROOT / name)
    return made


def runnable(page: Path) -> list[list[str]]:
    """Lines of the page's bash blocks, as words, without those that need something of the reader's own."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for block in fenced(page, "bash") if f"{MINUTES}```bash\n{block}" not in text]
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if not re.search(r"\$\w|\b[A-Z]{3,}\b", line)]
    return [line for line in words if line and line[0] in ("differseg-med", "python")]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_bash_blocks_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in runnable(page):
        if words[0] == "python":
            monkeypatch.setattr("sys.argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
        else:
            result = CliRunner().invoke(app, [*words[1:], *quick(words)])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception}"


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=name_of)
def test_python_blocks_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ds, "segment", partial(ds.segment, settings={"planes": ["axial"]}), raising=False)
    own = [
        body for body in fenced(page, "python") if f"{OWN_DATA}```python\n{body}" in page.read_text(encoding="utf-8")
    ]
    for body in fenced(page, "python"):
        tree = ast.parse(body)
        names: dict[str, object] = {}
        if body in own:
            tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(tree, name_of(page), "exec"), names)
        used = {
            node.attr
            for node in ast.walk(ast.parse(body))
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ds"
        }
        assert used <= set(ds.__all__)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_run(
    notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    try:
        runpy.run_path(str(notebook))
    finally:
        plt.close("all")
    assert capsys.readouterr().out
