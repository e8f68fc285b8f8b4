"""Commands, code and names in README and docs; helpers, not tests."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

from differseg_med.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]
COMMAND = get_command(app)

NOT_RUN = {
    r"^differseg-med (pacs|serve) ": "needs a PACS; tests of pacs and serve run them against Orthanc",
    r"^differseg-med view ": "a server that runs until it is stopped; tests/review asks it",
    r"SLURM_ARRAY_TASK_ID|^sbatch |^job=": "needs Slurm; tests/prediction/test_shards.py runs and collects shards",
    r"^docker ": "needs Docker; the workflow in .github builds the image",
    r"^torchrun ": "needs processes of its own; tests/training/test_processes.py starts two",
    r"^make (demo|docs|test|test-label|test-docs|lint|format)\b": "installs, or is this test itself; .ci/run and the "
    "workflow in .github run them",
    r"^(pip|npm) install|^python -m venv|^label/bin": "installs; scripts/check_wheel.py and make test-label do it",
    r"^(export|read|wait)\b": "the reader's own shell",
    r"^python scripts/(crossvalidate_(sts|packed)|ablate_sts|quality_sts|compare_(plan|packed))\.py": "needs the 40 "
    "patients of the collection and hours, or a GPU; what they call is tested in tests/training",
    r"^python scripts/(peers_nnunet|draw_budgets)\.py": "needs nnU-Net, which is not installed, and the 40 patients",
    r"^python scripts/(benchmark|measure|compare_(look|precision))\w*\.py": "measures an idle machine, or needs the 40 "
    "patients",
    r"^python scripts/compare_engines\.py": "needs the 40 patients, an older checkout and half an hour",
    r"^python scripts/(try_cohorts|make_fingerprint|prepare_sts_cohort)\.py": "needs the 40 patients, and minutes",
    r"^python scripts/tune_training\.py": "needs optuna, which the package does not install",
    r"^differseg-med train --set learning_rate=0\.002055": "is what the script above prints",
    r"--rules my_rules\.yaml": "needs a T2 series, which the shipped export lacks; tests/cohort reads rule files",
    r"^differseg-med compare results edited ": "needs masks that somebody corrected; tests/evaluation makes some",
    r"release RUNS --bundle": "needs the five folds of the 40 patients; tests/training/test_release.py releases folds",
}
"""Commands of the docs that `tests/test_docs.py` does not run, and why; their options are parsed all the same."""

MADE_BY_A_RUN = {
    "docs/cohorts.md": "scripts/try_cohorts.py writes this page while it runs the commands",
    "bundles/ms_lesion_mri_segmentation/docs/README.md": "the bundle and this card are what its commands made, from "
    "images of three patients in three hours; the same commands run on docs/cohorts.md",
}
"""Pages whose commands are run elsewhere."""


def name_of(path: Path) -> str:
    """A page as tests call it."""
    return str(path.relative_to(ROOT))


def fenced(page: Path, *languages: str) -> list[str]:
    """Contents of the fenced blocks of these languages."""
    text = page.read_text(encoding="utf-8")
    return [body for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) if language in languages]


def shown_commands(text: str) -> list[str]:
    """Lines of fenced and indented blocks that are typed, in the order of the page; continued lines are one."""
    programs = (
        r"(differseg-med|python|torchrun|make|pip|npm|label/bin/\w+|docker|sbatch|ln|export|read|wait|job=|[A-Z]+=)\b"
    )
    found, language = [], None
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
            continue
        typed = language in ("bash", "console", "") if language is not None else line.startswith("    ")
        if typed and re.match(programs, line.strip()):
            found.append(line.strip())
    return found


def inline_code(text: str) -> list[str]:
    """What stands between backticks outside of fenced blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def words_of(line: str) -> list[str]:
    """Words of a line for the shell."""
    return [word for word in shlex.split(line, comments=True) if word != "&"]


def reason_not_to_run(line: str) -> str:
    """Why a command is not run, empty if it is."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), "")


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words call, and what they give it; words in capitals or ``...`` stand for something."""
    command, rest = COMMAND, [word for word in words if word not in ("...", "…")]
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-") and not rest[0].isupper():
        assert rest[0] in command.commands, f"differseg-med {' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def options_of(*commands: click.Command) -> set[str]:
    """All options of commands, as they are typed."""
    parameters = [parameter for command in commands for parameter in command.params]
    return {"--help"} | {option for p in parameters for option in [*p.opts, *p.secondary_opts]}


def unknown_options(words: list[str]) -> list[str]:
    """Options in the words after ``differseg-med`` that the command has not."""
    command, rest = command_of(words)
    known = options_of(command, COMMAND)
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


class ParsedError(Exception):
    """A script's arguments were understood."""


def parse_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script parse its arguments and stop there.

    Raises:
        SystemExit: if the script does not know them.
    """
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *arguments: object) -> None:
        parse(self, *arguments)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr("sys.argv", words)
        with pytest.raises(ParsedError):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
