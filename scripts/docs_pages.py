"""Pages of the site that the code says: nothing here is written twice, `make docs` writes it anew."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count, groupby
from pathlib import Path
from typing import Any

from docs_findings import all_kinds

ROOT = Path(__file__).parents[1]

COMMANDS = """# Commands

`differseg-med COMMAND --help` prints the same. Exit code 0: all went well; 1: something did not, and a line says what;
2: the command was not understood.
"""
API = """# API

`import differseg_med as ds`. Nothing prints or ends the process; errors are `ds.CaseError`.
"""
CONFIGURATION = """# Configuration

A bundle's `configs/*.yaml` name these as `_target_: differseg_med.bundle.NAME`, beside classes of MONAI and torch.
An entry of the file is set for one run by `--set name=value`; `--set network_def::fusion=concat` reaches inside. A
misspelt name is refused with the nearest that exist.
"""
KINDS_OF = """# Kinds of images

What a column of a cohort table holds, said in `cohort.yaml` or by `--kind COLUMN=KIND`. The kind decides how grey
values are normalised, shown and exported.
"""
SETTINGS = """
## Settings of a normalisation

Under the modality's name in `configs/inference.yaml` of a bundle.
"""
FORMATS_OF = """# Formats of masks

`predict --formats` and `export --formats` take these names, separated by commas. Each file is read back and
compared with the mask before it gets its name. Details: [exports](../exports.md).
"""


FINDINGS = """# Findings and errors

What the package can say about a case, a file or a table, and what to do about it. The list is read from the source when
the site is built; `{...}` stands for a number or a name. An **error** stops its case only; a **warning** deserves a
look; a **note** says what was done; **ok** needs nothing. Search the page for the words of the message. *link* is the
address of a message on this page, by its id. Messages that are put together from several parts may lack one here.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def commands() -> str:
    """Every command with its arguments and options, from typer."""
    from typer.main import get_command

    from differseg_med.cli import app

    text = [COMMANDS]
    for name, command in walk("differseg-med", get_command(app)):
        if not getattr(command, "commands", None):
            rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
            table_ = table(["argument or option", "meaning", "default"], rows)
            text += [f"## {name}", "", command.help or "", "", table_, ""]
    return "\n".join(text)


def walk(name: str, command: object) -> Iterator[tuple[str, object]]:
    """All commands below one, by what is typed."""
    yield name, command
    for word, child in sorted(getattr(command, "commands", {}).items()):
        yield from walk(f"{name} {word}", child)


def _parameter(parameter: Any) -> list[str]:
    if parameter.param_type_name == "option":
        names = [*parameter.opts, *parameter.secondary_opts]
    else:
        names = [str(parameter.name).upper()]
    default = "" if parameter.default in (None, "", False, ()) else f"`{parameter.default}`"
    help_ = re.sub(r"([<>])", lambda match: {"<": "&lt;", ">": "&gt;"}[match[1]], getattr(parameter, "help", "") or "")
    return [", ".join(f"`{name}`" for name in names), help_, "required" if parameter.required else default]


def api() -> str:
    """The public functions and classes."""
    from differseg_med import api as public

    return "\n".join([API, *_directives(public, public.__all__)])


def configuration() -> str:
    """What a bundle's configuration may name."""
    from differseg_med import bundle

    return "\n".join([CONFIGURATION, *_directives(bundle, bundle.__all__)])


def _directives(module: object, names: list[str]) -> list[str]:
    """A directive of mkdocstrings per name, at the place where it is defined."""
    lines = []
    for thing in (getattr(module, name) for name in sorted(names, key=str.lower)):
        lines += [f"::: {thing.__module__}.{thing.__qualname__}", "    options: {members: false}", ""]
    return lines


def kinds() -> str:
    """Kinds of images."""
    from differseg_med.modality import KINDS, NORMALIZATIONS

    rows = [
        [
            f"`{name}`",
            kind.label,
            f"`{kind.normalization}`" + (f" {dict(kind.defaults)}" if kind.defaults else ""),
            f"{kind.window[0]:g} to {kind.window[1]:g}" if kind.window else "1st to 99th percentile",
            ", ".join(kind.dicom),
            ", ".join(map(str, kind.channels)),
        ]
        for name, kind in KINDS.items()
    ]
    settings = [
        [f"`{name}`", f"`{key}`", setting.expected]
        for name, keys in NORMALIZATIONS.items()
        for key, setting in keys.items()
    ]
    head = ["kind", "image", "normalisation", "display window", "DICOM Modality", "channels"]
    return "\n".join(
        [KINDS_OF, table(head, rows), SETTINGS, table(["normalisation", "setting", "takes"], settings), ""]
    )


def measures() -> str:
    """Columns of metrics.csv."""
    from differseg_med.metrics.policy import IMAGE2D_MEASURES, MEASURES, POLICY

    text = ["# Measures", "", "Columns of `metrics.csv`. P is the predicted mask, R the reference.", ""]
    for title, known in (("Masks", MEASURES), ("Maps of 2-D images", IMAGE2D_MEASURES)):
        rows = [
            [f"`{name}`", m.label, "near 0" if m.better == "zero" else m.better, m.text] for name, m in known.items()
        ]
        text += [f"## {title}", "", table(["column", "measure", "better", "definition"], rows), ""]
    why = "Why, and how figures compare with other programs: [measures and their policy](../metrics.md)."
    return "\n".join([*text, "## Empty masks", "", POLICY, "", why, ""])


def formats() -> str:
    """Formats that a mask is written in."""
    from differseg_med.export.registry import FORMATS

    rows = []
    for name, kind in FORMATS.items():
        module, _, function = str(kind.writer).partition(":")
        writer = getattr(import_module(module), function)
        rows.append([f"`{name}`", f"`{kind.file}`", (inspect.getdoc(writer) or "").split("\n\n")[0]])
    rows.append(["`png`", "`overlay.png`", "Three planes with the outline of the mask."])
    return "\n".join([FORMATS_OF, table(["name", "file in the case's folder", "what it is"], rows), ""])


def findings() -> str:
    """Every kind of message about a case, a file or a table, from the source."""
    text = [FINDINGS]
    for module, of_module in groupby(all_kinds(), lambda kind: kind.module):
        known: set[str] = set()
        rows = []
        for kind in of_module:
            unique = next(name for name in _numbered(kind.id) if name not in known)
            known.add(unique)
            link = f'<a id="{unique}"></a>[link](#{unique} "{unique}")'
            rows.append([_code(kind.text), _code(kind.remedy), f"{kind.level}, {link}"])
        text += [f"## {module}", "", table(["message", "what to do", "level"], rows), ""]
    return "\n".join(text)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _code(text: str) -> str:
    """A text that Markdown and HTML leave as it is."""
    return re.sub(r"([*_<>\[\]`])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")


def notebook_page(script: Path) -> str:
    """A page of a notebook in jupytext's percent format: its text, and its code as blocks."""
    parts = re.split(r"^# %%(.*)\n", script.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    text = []
    for mark, body in zip(parts[::2], parts[1::2]):
        if "markdown" in mark:
            text.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            text.append(f"```python\n{body.strip()}\n```")
    note = f"As a notebook: `pip install jupytext`, then `jupytext --to ipynb docs/notebooks/{script.name}`."
    return "\n\n".join([*text, note]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/api.md": api,
    "reference/configuration.md": configuration,
    "reference/kinds.md": kinds,
    "reference/measures.md": measures,
    "reference/formats.md": formats,
    "reference/findings.md": findings,
}
"""Pages by their place in the site."""
