"""What a bundle's configuration would run, judged before MONAI reads it.

A configuration is a program: ``_target_`` names what is built, ``$`` begins Python. This judges both by lists of what
is allowed; whatever is in none of them is refused, so that a bundle from elsewhere cannot read, write or send what it
likes. See docs/security.md for what this holds against, and what not.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from differseg_med.bundles.allowed import BY_NAME, FUNCTIONS, METHODS, MODULES, SETTINGS, VALUES, target_allowed
from differseg_med.errors import CaseError, printable

_MAX_BYTES, MAX_ENTRIES, _MAX_DEPTH, _MAX_TEXT, _MAX_NUMBER = 2**20, 20_000, 40, 2000, 10**7
"""Bounds of a configuration: aliases of YAML make millions of entries from one line."""

_REFERENCE = re.compile(r"@(?:\w*)(?:::\w*)*")
"""As MONAI finds references in an expression."""

NODES = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred, ast.IfExp, ast.Compare),
    *(ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Subscript, ast.Slice, ast.Call, ast.keyword, ast.Load),
    *(ast.Name, ast.Attribute, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
REFUSED_OPERATORS = (ast.Pow, ast.LShift, ast.MatMult)
"""Short texts with endless results."""

_REFERENCES = "__local_refs"
_FREE_PATHS = ("dataset_dir", "data_list_file_path")
"""Entries of the bundle specification that name the user's data; whoever runs a bundle sets them."""


@dataclass(frozen=True)
class Refused:
    """An entry that is not allowed: which, and why."""

    file: str
    entry: str
    why: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.entry}: {self.why}")


def lint_files(files: Sequence[str | Path]) -> list[Refused]:
    """Everything in configurations that is not allowed; empty if they may run.

    Args:
        files: YAML and JSON files, as MONAI reads them.

    Raises:
        CaseError: for a file that cannot be read or is no configuration.
    """
    return [
        Refused(Path(file).name, "::".join(entry)[:120], why)
        for file in files
        for entry, why in _lint(read_config(file), (), [0])
    ]


def bundle_files(bundle: str | Path) -> list[Path]:
    """The configurations of a bundle: what MONAI may be told to read, and the metadata, which it parses like them."""
    configs = Path(bundle) / "configs"
    files = sorted(path for path in configs.glob("*") if path.suffix.lower() in (".yaml", ".yml", ".json"))
    if not files:
        raise CaseError("there is no configuration here", file=configs, remedy="Give the folder of a bundle.")
    return files


def check_trust(files: Sequence[str | Path]) -> None:
    """Refuse configurations with anything that is not allowed.

    Raises:
        CaseError: with the first entries that are refused.
    """
    if refused := lint_files(files):
        more = f" and {len(refused) - 3} more" * (len(refused) > 3)
        raise CaseError(
            "the configuration would run what is not allowed",
            found="; ".join(map(str, refused[:3])) + more,
            remedy="See docs/security.md. If you trust who wrote it, --trust runs it.",
        )


class _Loader(yaml.SafeLoader):
    """MONAI's reading of YAML: data only, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len({str(key) for key in keys}) < len(keys):
            raise yaml.YAMLError("a key stands there twice")
        return super().construct_mapping(node, deep=deep)


def read_config(file: str | Path) -> Any:
    """The content of a YAML or JSON file, bounded in size.

    Raises:
        CaseError: if it cannot be read or is no such file.
    """
    file = Path(file)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise CaseError("the configuration is too large", file=file, expected=f"at most {_MAX_BYTES} bytes")
        text = file.read_text(encoding="utf-8")
        return json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        why = str(error).split("\n")[0]
        raise CaseError(
            "the configuration cannot be read", file=file, found=f"{type(error).__name__}: {why}"
        ) from error


def _lint(value: Any, entry: tuple[str, ...], count: list[int]) -> Iterator[tuple[tuple[str, ...], str]]:
    count[0] += 1
    if count[0] > MAX_ENTRIES or len(entry) > _MAX_DEPTH:
        if count[0] <= MAX_ENTRIES + 1:
            count[0] = MAX_ENTRIES + 2
            yield entry[:5], "more entries than a configuration has"
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lint_key(str(key), inner, entry)
            yield from _lint(inner, (*entry, str(key)), count)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _lint(inner, (*entry, str(number)), count)
    elif isinstance(value, str) and (why := text_refused(value, entry)):
        yield entry, why


def _lint_key(key: str, value: Any, entry: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What a key makes of its value: ``_target_`` and names that MONAI looks up, also as ``a::_target_``."""
    name = re.split(r"::|#", key)[-1].lstrip("+")
    if name == "_target_" and not (isinstance(value, str) and target_allowed(value)):
        yield (*entry, key), f"_target_ {str(value)[:80]!r} is not in the list"
    for known, allowed in BY_NAME.items():
        if name == known and isinstance(value, (str, list)):
            texts = [value] if isinstance(value, str) else value
            if any(isinstance(text, str) and not text.startswith("@") and text not in allowed for text in texts):
                yield (*entry, key), f"{known} {str(value)[:80]!r} is not one of {', '.join(allowed)}"


def text_refused(text: str, entry: Sequence[str] = ()) -> str:
    """Why a text of a configuration is refused; empty if it is not."""
    if text.startswith("$"):
        return expression_refused(text[1:])
    if text.startswith("%"):
        other = re.search(r"\.(json|ya?ml)", text, re.IGNORECASE)
        return "a macro that reads another file" if other else ""
    if not (set(entry) & set(_FREE_PATHS)) and leaves(text):
        return f"a path outside the bundle and the output: {text[:60]!r}"
    return ""


def leaves(text: str) -> bool:
    """Whether a text is a path that begins at the root of a disk or of a user, or goes up."""
    parts = re.split(r"[/\\]", text)
    return bool(re.match(r"[/\\~]|[A-Za-z]:[/\\]", text)) or ".." in parts


def expression_refused(code: str) -> str:
    """Why a Python expression is refused; empty if every part of it is in the lists.

    References are put in as MONAI puts them in, by replacing text: what is judged is what would be evaluated.
    """
    code = code.replace("#", "::")
    for found in sorted(_REFERENCE.findall(code), key=len, reverse=True):
        code = code.replace(found, f"{_REFERENCES}['{found[1:]}']")
    if len(code) > _MAX_TEXT:
        return f"an expression of {len(code)} characters"
    try:
        module = ast.parse(code.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is no Python expression"
    if len(module.body) != 1:
        return "it is not one expression"
    statement = module.body[0]
    if isinstance(statement, ast.Import):
        return _import_refused(statement)
    if not isinstance(statement, ast.Expr):
        return f"{type(statement).__name__} is not allowed"
    if ast.unparse(statement) in SETTINGS:
        return ""
    return _node_refused(statement.value)


def _import_refused(statement: ast.Import) -> str:
    for alias in statement.names:
        if alias.name not in MODULES or alias.asname not in (None, alias.name, "np" * (alias.name == "numpy")):
            return f"import of {alias.name}"
    return ""


def _node_refused(node: ast.AST, joined: bool = False) -> str:
    """The first part of a tree that is in no list; ``joined``: a text in it is added to the end of another."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        return _name_refused(node)
    if not isinstance(node, NODES) or isinstance(node, REFUSED_OPERATORS):
        return f"{type(node).__name__} is not allowed"
    if isinstance(node, ast.Constant):
        return _constant_refused(node.value, joined)
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            return "formatted text is not allowed"
        parts = (_node_refused(node.op), _node_refused(node.left, joined), _node_refused(node.right, joined=True))
        return next(filter(None, parts), "")
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Call):
        if why := _call_refused(node.func):
            return why
        children = [*node.args, *node.keywords]
    return next((why for child in children if (why := _node_refused(child))), "")


def _constant_refused(value: object, joined: bool) -> str:
    if isinstance(value, (int, float)) and abs(value) > _MAX_NUMBER:
        return f"a number above {_MAX_NUMBER}"
    if isinstance(value, bytes):
        return "bytes are not allowed"
    if isinstance(value, str) and ((leaves(value) and not joined) or ".." in re.split(r"[/\\]", value)):
        return f"a path outside the bundle and the output: {value[:60]!r}"
    return ""


def _name_refused(node: ast.Name | ast.Attribute) -> str:
    """A name without a call: a reference, or a value of the list."""
    name = _dotted(node)
    if name == _REFERENCES or (name and VALUES.fullmatch(name)):
        return ""
    return f"{name or ast.unparse(node)[:60]} is not in the list"


def _call_refused(function: ast.expr) -> str:
    name = _dotted(function)
    if name in FUNCTIONS:
        return ""
    if isinstance(function, ast.Subscript) and _is_reference(function):  # what it stands for was judged itself
        return ""
    if isinstance(function, ast.Attribute) and function.attr in METHODS and _is_reference(function.value):
        return ""
    return f"{ast.unparse(function)[:60]}() is not in the list"


def _is_reference(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == _REFERENCES
        and isinstance(node.slice, ast.Constant)
    )


def _dotted(node: ast.expr) -> str:
    """``os.path.join`` of a chain of plain names; empty for anything else, and for names with two underscores."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    name = ".".join([node.id, *reversed(parts)])
    return name if "__" not in name or name == _REFERENCES else ""
