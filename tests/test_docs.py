"""What README and docs name exists, and what they show as runnable runs.

A fenced ``bash`` block is run as it stands on what a clone holds, in a folder that links to bundles, scripts and tests.
Commands that are indented, or name something in CAPITALS, need data or a machine of the reader's own: those are parsed
by typer, so that every command, option and argument exists. Python blocks are run where they need only shipped data.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import matplotlib.pyplot as plt
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
COMMAND = get_command(app)
TINY = {"predict": ["--set", "planes=[axial]"]}
"""Settings that make a command quick, for bundles of volumes."""
MINUTES = "<!-- minutes -->\n"
"""Before a block of commands that take minutes: they are parsed here and not run."""
OWN_DATA = "<!-- own data -->\n"
"""Before a block of Python that needs files of the reader's own: only its imports are run, and its names looked up."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(page: Path, *languages: str) -> list[str]:
    """Contents of the fenced blocks of these languages."""
    text = page.read_text(encoding="utf-8")
    return [body for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) if language in languages]


def commands_of(text: str) -> list[list[str]]:
    """Words of each call of ``differseg-med`` in a block; lines that end with a backslash are one."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [line.strip() for line in lines if line.strip().startswith("differseg-med ")]
    return [[word for word in shlex.split(line, comments=True)[1:] if word != "&"] for line in found]


def shown_commands(page: Path) -> list[list[str]]:
    """Calls in fenced and indented blocks and between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = fenced(page, "bash", "console", "") + re.findall(r"(?:^ {4,}.*\n)+", text, re.M)
    inline = [re.sub(r"\s+", " ", code) for code in re.findall(r"`(differseg-med [^`]+)`", text)]
    return [words for block in blocks for words in commands_of(block)] + [
        words for code in inline for words in commands_of(code)
    ]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words call, and what they give it; words in capitals or ``...`` stand for something."""
    command, rest = COMMAND, [word for word in words if word not in ("...", "…")]
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-") and not rest[0].isupper():
        assert rest[0] in command.commands, f"differseg-med {' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def unknown_options(words: list[str]) -> list[str]:
    command, rest = command_of(words)
    known = {
        option
        for parameter in [*command.params, *COMMAND.params]
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known | {"--help"}]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page: Path) -> None:
    assert [(words, bad) for words in shown_commands(page) if (bad := unknown_options(words))] == []


def test_what_does_not_exist_is_found() -> None:
    assert unknown_options(["predict", "--cohort", "a.csv", "--colour", "red"]) == ["--colour"]
    with pytest.raises(AssertionError, match="no command paint"):
        command_of(["paint", "--out", "x"])


def paths_named(page: Path) -> Iterator[str]:
    """Files of the repository that a page names in code, and targets of its links."""
    tops = r"bundles/\w+_segmentation|configs|scripts|tests|differseg_med|docs"
    yield from re.findall(rf"(?<![\w./])((?:{tops})/[\w./-]*[\w/])", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    missing = {path for path in paths_named(page) if not any((base / path).exists() for base in (ROOT, page.parent))}
    assert {path for path in missing if not made_by_commands(path)} == set()
    links = re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    )
    assert [link for link in links if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()] == []


def made_by_commands(path: str) -> bool:
    """Files inside of a bundle or a run that commands write: they are in no clone."""
    return bool(re.search(r"docs/(PLAN|fingerprint)|^configs/(inference|train|evaluate|metadata)|README.md$", path))


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
