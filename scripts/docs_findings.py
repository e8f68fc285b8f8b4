"""What the package can say about a case, a file or a table: read from its source, for `reference/findings.md`.

Collected are the texts of `CaseError`, `ConfigError` and `Finding`, of errors that readers raise without knowing the
case, of tuples that begin with a level (they become findings), of notes that are appended, and of the quality flags. A
name is followed to what its function or module assigns to it; what another function returns is not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "differseg_med"
ERRORS = ("CaseError", "ConfigError", "ValueError")
ABOUT_FILES = ("io", "cohort", "export", "planning")
"""Folders whose ``ValueError`` becomes a `CaseError` of the case; elsewhere one is for who writes Python."""
LEVELS = ("ok", "note", "warning", "error")
NOTES = ("notes", "NOTES")
Function = ast.FunctionDef | ast.AsyncFunctionDef
FLAGS = "differseg_med/prediction/quality.py"
"""The module whose generators yield the flags of a mask."""


@dataclass(frozen=True, order=True)
class Kind:
    """A kind of finding: its module, level, text with ``{...}`` for what is put in, remedy, and place in the source."""

    module: str
    level: str
    text: str
    remedy: str
    line: int

    @property
    def id(self) -> str:
        """A name for links: the module and the first words of the text."""
        words = re.findall(r"[a-z0-9]+", self.text.lower().replace("{...}", ""))[:7]
        return "-".join([self.module.rpartition(".")[2].replace("_", "-"), *words])


def kinds_of(path: Path) -> list[Kind]:
    """The findings that a file of the package makes, each once, in the order of the file."""
    source = _Source(path)
    found: dict[tuple[str, str], Kind] = {}
    for level, text, remedy, line in source.findings():
        if re.search(r"[a-z]{2}.* ", text.replace("{...}", "")):
            found.setdefault((level, text), Kind(source.module, level, text, remedy, line))
    return sorted(found.values(), key=lambda kind: kind.line)


class _Source:
    """A module: what its names stand for, and the calls in it that make findings."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, ast.parse(path.read_text(encoding="utf-8"))
        parts = path.with_suffix("").parts
        self.module = ".".join(parts[len(ROOT.parts) :] if path.is_relative_to(ROOT) else parts[-1:])
        self.errors = ERRORS if any(f".{folder}." in self.module for folder in ABOUT_FILES) else ERRORS[:2]
        self.assigned: dict[str, list[ast.expr]] = {}

    def findings(self) -> Iterator[tuple[str, str, str, int]]:
        """Level, text, remedy and line of each."""
        seen: set[ast.AST] = set()
        for scope in [node for node in ast.walk(self.tree) if isinstance(node, Function)] + [self.tree]:
            self.assigned = {}
            nodes = list(ast.walk(scope))
            for node in [*self.tree.body, *nodes]:
                self._read(node)
            for node in nodes:
                if node not in seen:
                    seen.add(node)
                    yield from self._of(node)

    def _read(self, node: ast.AST) -> None:
        """Remember what an assignment gives to a name."""
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.assigned.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, its in zip(target.elts, value.elts):
                self._assign(one, its)

    def _of(self, node: ast.AST) -> Iterator[tuple[str, str, str, int]]:
        if isinstance(node, ast.Call):
            yield from self._of_call(node)
        elif isinstance(node, ast.Tuple) and len(node.elts) in (2, 3) and self._level(node.elts[0]):
            texts, remedies = self._texts(node.elts[1]), [t for part in node.elts[2:] for t in self._texts(part)]
            for text in texts:
                yield self._level(node.elts[0]), text, " ".join(remedies[:1]), node.lineno
        elif isinstance(node, ast.Yield) and node.value and str(self.path).endswith(FLAGS):
            for text in self._texts(node.value):
                yield "warning", text, "", node.lineno

    def _of_call(self, node: ast.Call) -> Iterator[tuple[str, str, str, int]]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        remedies = [keyword.value for keyword in node.keywords if keyword.arg == "remedy"]
        if name in self.errors and node.args:
            level, text = "error", node.args[0]
        elif name == "Finding" and len(node.args) > 1:
            level, text = self._level(node.args[0]) or "warning or error", node.args[1]
            remedies += node.args[2:3]
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "append" and _name(node.func.value) in NOTES:
            level, text = "note", node.args[0]
        else:
            return
        remedy = " ".join(text for value in remedies for text in self._texts(value)[:1])
        for one in self._texts(text):
            yield level, one, remedy, node.lineno

    def _level(self, node: ast.expr) -> str:
        value = node.value if isinstance(node, ast.Constant) else None
        return value if isinstance(value, str) and value in LEVELS else ""

    def _texts(self, node: ast.expr, depth: int = 3) -> list[str]:
        """The texts that an expression may be; ``{...}`` for what is put in."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{...}" for part in node.values]
            return ["".join(map(str, parts))]
        if isinstance(node, ast.BinOp):
            left, right = self._texts(node.left, depth), self._texts(node.right, depth)
            return [a + b for a in left or ["{...}"] for b in right or ["{...}"]]
        if isinstance(node, ast.IfExp):
            return [*self._texts(node.body, depth), *self._texts(node.orelse, depth)]
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._texts(value, depth)]
        if isinstance(node, ast.Name) and depth:
            return [text for value in self.assigned.get(node.id, []) for text in self._texts(value, depth - 1)]
        return []


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def all_kinds() -> list[Kind]:
    """Those of the whole package."""
    return [kind for path in sorted(PACKAGE.rglob("*.py")) for kind in kinds_of(path)]
