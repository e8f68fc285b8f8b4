"""Which Python expressions of a configuration may be evaluated: every part of one has to be in the lists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from differseg_med.bundles.allowed import FUNCTIONS, METHODS, MODULES, SETTINGS, VALUES

_REFERENCE = re.compile(r"@(?:\w*)(?:::\w*)*")
"""As MONAI finds references in an expression."""

NODES = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred, ast.IfExp, ast.Compare),
    *(ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Subscript, ast.Slice, ast.Call, ast.keyword, ast.Load),
    *(ast.Name, ast.Attribute, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
REFUSED_OPERATORS = (ast.Pow, ast.LShift, ast.MatMult)
"""Short texts with endless results."""

MAX_EXPRESSION, _MAX_NUMBER = 2000, 10**7
LOCAL = "__local_refs"
"""The name under which MONAI's expressions find what references stand for."""


def parsed(code: str) -> ast.stmt:
    """The one statement of an expression, references put in as MONAI puts them in, by replacing text.

    Raises:
        ValueError: says why the text is no such statement.
    """
    code = code.replace("#", "::")
    if LOCAL in code:
        raise ValueError(f"{LOCAL} is MONAI's own")
    for found in sorted(_REFERENCE.findall(code), key=len, reverse=True):
        code = code.replace(found, f"{LOCAL}['{found[1:]}']")
    if len(code) > MAX_EXPRESSION:
        raise ValueError(f"an expression of {len(code)} characters")
    try:
        module = ast.parse(code.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it is no Python expression") from None
    if len(module.body) != 1:
        raise ValueError("it is not one expression")
    return module.body[0]


def statement_refused(statement: ast.stmt) -> str:
    """Why a statement is refused whatever its references stand for; empty if every part of it is in the lists."""
    if isinstance(statement, ast.Import):
        return _import_refused(statement)
    if not isinstance(statement, ast.Expr):
        return f"{type(statement).__name__} is not allowed"
    return "" if is_setting(statement) else _node_refused(statement.value)


def is_setting(statement: ast.Expr) -> bool:
    """Whether it is one of the whole statements that are allowed."""
    return ast.unparse(statement) in SETTINGS


def _import_refused(statement: ast.Import) -> str:
    for alias in statement.names:
        if alias.name not in MODULES or alias.asname not in (None, alias.name, "np" * (alias.name == "numpy")):
            return f"import of {alias.name}"
    return ""


def _node_refused(node: ast.AST) -> str:
    """The first part of a tree that is in no list."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        return _name_refused(node)
    if not isinstance(node, NODES) or isinstance(node, REFUSED_OPERATORS):
        return f"{type(node).__name__} is not allowed"
    if isinstance(node, ast.Constant):
        return _constant_refused(node.value)
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Call):
        if why := _call_refused(node.func):
            return why
        if any(keyword.arg in (None, "key") for keyword in node.keywords):
            return "** and key= are not allowed"
        children = [*node.args, *node.keywords]
    return next((why for child in children if (why := _node_refused(child))), "")


def _constant_refused(value: object) -> str:
    if isinstance(value, (int, float)) and abs(value) > _MAX_NUMBER:
        return f"a number above {_MAX_NUMBER}"
    return "bytes are not allowed" if isinstance(value, bytes) else ""


def _name_refused(node: ast.Name | ast.Attribute) -> str:
    """A name without a call: a reference, or a value of the list."""
    name = dotted(node)
    if name == LOCAL or (name and VALUES.fullmatch(name)):
        return ""
    return f"{name or ast.unparse(node)[:60]} is not in the list"


def _call_refused(function: ast.expr) -> str:
    if dotted(function) in FUNCTIONS or reference_of(function) is not None:
        return ""
    if isinstance(function, ast.Attribute) and function.attr in METHODS and reference_of(function.value) is not None:
        return ""
    return f"{ast.unparse(function)[:60]}() is not in the list"


def reference_of(node: ast.expr) -> str | None:
    """The entry that a part of an expression refers to; None if it is no reference."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == LOCAL:
        return str(node.slice.value) if isinstance(node.slice, ast.Constant) else None
    return None


def dotted(node: ast.expr) -> str:
    """``os.path.join`` of a chain of plain names; empty for anything else, and for names with two underscores."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    name = ".".join([node.id, *reversed(parts)])
    return name if "__" not in name or name == LOCAL else ""
