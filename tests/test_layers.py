"""Imports go downwards only: read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "differseg_med"
ROOT = Path(__file__).parents[1] / PACKAGE

PAGE = ROOT.parent / "docs" / "architecture.md"


def layers(page: str) -> list[set[str]]:
    """The layers that the page shows, from the bottom: names separated by commas, then two spaces and a remark."""
    block = re.search(r"^```layers\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert block, "the page has no block of layers"
    return [set(re.split(r"\s{2,}", line)[0].split(", ")) for line in reversed(block[1].splitlines())]


LAYERS = layers(PAGE.read_text(encoding="utf-8"))
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
PURE = {"networks", "losses", "geometry", "components", "grids", "case"}  # torch and numpy only
NOT_PURE = ("monai.transforms", "monai.data", "monai.bundle", "monai.engines", "monai.handlers", "SimpleITK", "pandas")


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a module imports; ``from a import b`` gives ``a.b``, relative names are resolved."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_sources() -> dict[str, tuple[str, bool]]:
    """Source of each module of the package, and whether it is an ``__init__``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        is_package = path.stem == "__init__"
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if is_package else parts)] = (path.read_text(encoding="utf-8"), is_package)
    return found


def violations(sources: Mapping[str, tuple[str, bool]]) -> list[str]:
    """All breaches of the layers, in words."""
    found = []
    rooms: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        room = room_of(module)
        names = list(imported(source, module, is_package))
        if not room:
            others = [n for n in names if n.startswith(PACKAGE) and room_of(n) != "api"]  # which it names, lazily
            found += [f"{module} may import nothing of the package: {n}" for n in others]
            continue
        if room not in LEVEL:
            found.append(f"{module} is in no layer")
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                other = room_of(name)
                if LEVEL.get(other, len(LAYERS)) > LEVEL[room]:
                    found.append(f"{module} imports {name}, which lies above it")
                if other != room:
                    rooms.setdefault(room, set()).add(other)
                target = name if name in sources else name.rpartition(".")[0]
                if target != module:
                    modules.setdefault(module, set()).add(target)
            elif room in PURE and f"{name}.".startswith(tuple(f"{banned}." for banned in NOT_PURE)):
                found.append(f"{module} imports {name}: its layer is torch and numpy only")
    return found + cycle(rooms) + cycle(modules)


def room_of(name: str) -> str:
    """``differseg_med.training.train`` is in the room ``engines``; the package itself in none."""
    return [*name.split("."), ""][1]


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of imports in words, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"imports go in a circle: {' <- '.join(error.args[1])}"]
    return []


def test_imports_go_downwards_only():
    assert violations(package_sources()) == []


def made(**sources: str) -> dict[str, tuple[str, bool]]:
    return {f"{PACKAGE}.{name.replace('__', '.')}": (source, False) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (made(geometry="import differseg_med.cohort.table"), "lies above it"),
        (made(networks__blocks="def f():\n    from differseg_med import prediction"), "lies above it"),
        (made(networks__blocks="from ..export import nifti"), "lies above it"),
        (made(training__train="from differseg_med.bundle import names"), "lies above it"),
        (made(training__train="from differseg_med import nowhere"), "lies above it"),
        (made(errors="from differseg_med.losses import x"), "lies above it"),
        (made(helpers="x = 1"), "in no layer"),
        (made(losses="from monai.transforms import Compose"), "torch and numpy only"),
        (made(geometry="from monai import data"), "torch and numpy only"),
        (made(cohort__a="from differseg_med.export import x", export__b="import differseg_med.cohort"), "circle"),
        (made(export__a="from .b import x", export__b="from differseg_med.export.a import y"), "circle"),
    ],
)
def test_the_checker_catches(sources, words):
    assert any(words in violation for violation in violations(sources)), violations(sources)


def test_the_checker_lets_pass():
    assert (
        violations(made(cli="from differseg_med.training import train", losses="from monai.losses import DiceLoss"))
        == []
    )
    assert violations(made(training__a="from differseg_med.errors import CaseError\nimport monai.transforms")) == []


def test_the_page_names_every_module_and_no_other():
    found = {room_of(module) for module in package_sources()} - {""}
    assert found == set(LEVEL)


def test_folders_of_the_table_of_jobs_exist():
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("## I want to") : page.index("## What happens")]
    names = re.findall(r"`([\w/.]+)`", table)
    assert len(table.splitlines()) - 4 >= 15
    missing = [n for n in names if not (ROOT / n).exists() and not (ROOT / f"{n}.py").exists()]
    assert not missing, missing
