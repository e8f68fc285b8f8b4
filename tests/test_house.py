"""Rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "differseg_med").rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_MB = 400, 60, 25
# Put together here, so that this file names no registry itself.
REGISTRIES = "|".join(
    rf"{host}\.org" for host in ("py" + "pi", "python" + "hosted", "download.py" + "torch", "ana" + "conda")
)
PLACES = re.compile(rf"{REGISTRIES}|/opt/py{'pi'}|(?<![\w.}}])/(?:{'wor' + 'k'}|root|home/\w+)/")
HINTS = ("py" + "pi", "python" + "hosted", "py" + "torch.org", "ana" + "conda", "/wor" + "k/", "/root/", "/home/")
"""One of them is in whatever `PLACES` finds; they are found in a hundredth of its time."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def tracked() -> list[Path]:
    """Files that git knows; a release without git has none to check."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The text of a file, empty for binary ones."""
    data = path.read_bytes()
    return "" if b"\0" in data[:8000] else data.decode("utf-8", errors="replace")


def test_files_and_functions_stay_small():
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in SOURCES if (n := len(p.read_text().splitlines())) > MAX_FILE]
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, Function) and (n := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION:
                long.append(f"{path.relative_to(ROOT)}: {node.name} has {n} lines")
    assert long == []


def test_public_things_have_docstrings():
    bare = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [tree, *(n for n in tree.body if isinstance(n, Function | ast.ClassDef))]
        public += [n for c in public if isinstance(c, ast.ClassDef) for n in c.body if isinstance(n, Function)]
        for node in public:
            name = getattr(node, "name", "module")
            if not name.startswith("_") and not ast.get_docstring(node) and path.read_text().strip():
                bare.append(f"{path.relative_to(ROOT)}: {name}")
    assert bare == []


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    texts = {path.relative_to(ROOT): text_of(path) for path in tracked() if path != Path(__file__)}
    near = {path: text for path, text in texts.items() if any(word in text for word in HINTS)}
    assert [f"{path}: {m[0]}" for path, text in near.items() for m in PLACES.finditer(text)] == []


@pytest.mark.parametrize("text", [f"see https://py{'pi'}.org/x", f"cp /wor{'k'}/a b", '"/home/anna/data"', "\n/root/x"])
def test_such_places_are_found(text):
    assert PLACES.search(text)
    assert any(hint in text for hint in HINTS)
    assert not PLACES.search("data/work/a, ../root/b, {out}/work/c, https://example.org/home/x/")


def test_tracked_files_are_no_larger_than_a_bundle_may_be():
    assert [str(path) for path in tracked() if path.stat().st_size > MAX_MB * 2**20] == []


def test_checkpoints_never_run_code():
    # torch.load(weights_only=False) would execute whatever a downloaded checkpoint holds.
    unsafe = [
        f"{path.relative_to(ROOT)}:{node.value.lineno}"
        for path in [*SOURCES, *(ROOT / "scripts").rglob("*.py")]
        for node in nodes(path)
        if isinstance(node, ast.keyword)
        and node.arg == "weights_only"
        and getattr(node.value, "value", None) is not True
    ]
    assert unsafe == []


def test_only_commands_and_what_a_bundle_s_finalize_calls_end_the_process():
    """A factory or `create_workflow(...).run()` raises exceptions: whoever calls it goes on."""
    ending = {"SystemExit", "sys.exit", "exit", "quit", "os._exit", "typer.Exit"}
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT / "differseg_med").as_posix()
        for function in (n for n in nodes(path) if isinstance(n, Function)):
            raised = [n.exc for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc is not None]
            called = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
            ends = {ast.unparse(n.func if isinstance(n, ast.Call) else n) for n in (*raised, *called)} & ending
            if ends and not name.startswith("cli/"):
                found.append(f"{name}: {function.name}")
    processes = {"api/folds.py: _process", "prediction/pipeline.py: _start_reading", "prediction/pipeline.py: watch"}
    assert set(found) == {"prediction/evaluator.py: finish", "training/train.py: finish", *processes}


def code_in(name: str) -> list[str]:
    """What a Markdown file shows as code: fenced, indented or between backticks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    fenced = r"^```.*?^```"
    blocks = re.findall(fenced, text, re.S | re.M)
    rest = re.sub(fenced, "", text, flags=re.S | re.M)
    return blocks + re.findall(r"^ {4}.*$", rest, re.M) + re.findall(r"`([^`]+)`", rest)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_commands_name_existing_targets(name):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    code = code_in(name) if name.endswith(".md") else [text_of(ROOT / name)]
    named = {target for piece in code for target in re.findall(r"\bmake ([a-z]+)", piece)}
    assert named <= set(targets)
    assert {"demo", "test", "lint", "format", "clean"} <= set(targets)


def test_contributing_names_existing_files_and_is_short():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 100
    paths = re.findall(r"`((?:differseg_med|tests|docs|bundles|scripts)/[^`<]*)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_file_has_a_known_origin():
    known = (ROOT / "tests/data/README.md").read_text()
    entries = {
        path.relative_to(ROOT / "tests/data").parts[0] for path in tracked() if ROOT / "tests/data" in path.parents
    }
    assert [name for name in sorted(entries) if f"`{name}" not in known and name != "README.md"] == []


def test_imports_are_declared_dependencies():
    """``pip install`` without extras must be enough to import every module of the package."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11; one supported version is enough for this
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in declared}
    provided = importlib.metadata.packages_distributions()
    missing = set()
    for top in (
        {top for path in SOURCES for top in top_level_imports(path)} - sys.stdlib_module_names - {"differseg_med"}
    ):
        if not names & {normal(distribution) for distribution in provided.get(top, [top])}:
            missing.add(top)
    assert missing == set()


def top_level_imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
