"""What texts the expressions of a configuration can make: a path put together from pieces is judged as a whole.

Entries are followed through references and macros, with every value that a file gives them. A text may be joined only
where its pieces are known, or to the end of a folder of the run; it may never be cut, repeated or formatted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from differseg_med.bundles.expressions import LOCAL, MAX_EXPRESSION, dotted, is_setting, parsed, reference_of

ROOTS = ("bundle_root", "output_dir", "cohort")
"""Entries that a run sets: paths that the user gave."""

FREE = ("dataset_dir", "data_list_file_path")
"""Entries of the bundle specification that name the user's data, to be read only: the user sets them."""

_MAX_DEPTH, _DEEPEST, _MAX_VALUES, _MAX_STEPS = 30, 60, 64, 20_000
_RELATIVE = re.compile(r"[@%](?:::)+")


class NotAllowedError(Exception):
    """Why a value may not be made."""


@dataclass(frozen=True)
class Value:
    """What an entry or expression may be.

    Args:
        kind: ``number`` (also bool and None), ``object`` (built or computed; no text), ``text`` or ``list`` (or
            dictionary).
        known: a text whose every character is known; or what follows the folder if it is ``below`` one.
        below: whether a text begins with a folder of the run.
        free: whether it is, or holds, a path of the user's data, which may only be read.
        items: of a list.
    """

    kind: str
    known: str | None = None
    below: bool = False
    free: bool = False
    items: frozenset[Value] = frozenset()


NUMBER_TEXT, OBJECT, UNKNOWN_TEXT = Value("number"), Value("object"), Value("text")
Values = frozenset[Value]


def leaves(text: str) -> bool:
    """Whether a text is a path that begins at the root of a disk or of a user, or goes up."""
    absolute = re.match(r"[/\\]|~(\w*[/\\]|$)|[A-Za-z]:[^\s:]|file:", text, re.IGNORECASE)
    return bool(absolute) or ".." in re.split(r"[/\\]", text)


class Entries:
    """The entries of all files of a run by id, and what their values may be."""

    def __init__(self, contents: Iterable[tuple[str, Any]]) -> None:
        """From pairs of where a file's content is put (``""`` or ``_meta_``) and the content."""
        self._given: dict[str, list[Any]] = {}
        self._known: dict[str, Values] = {}
        self._steps = self._circles = 0
        for place, content in contents:
            self._add(place, content, 0)

    def _add(self, place: str, value: Any, depth: int) -> None:
        self._steps += 1
        if depth > _DEEPEST or self._steps > _MAX_STEPS:
            return  # the walk over the entries refuses it
        self._given.setdefault(place, []).append(value)
        for key, inner in _children(value):
            name = normal(key).lstrip("+") if not place else normal(key)
            self._add(f"{place}::{name}" if place else name, inner, depth + 1)

    def of_id(self, place: str, seen: tuple[str, ...] = ()) -> Values:
        """What an entry may be; nothing if no file has it, so that no run could read it."""
        if place in seen:
            self._circles += 1
            return frozenset()  # MONAI refuses circles
        if len(seen) > _MAX_DEPTH:
            raise NotAllowedError("references that go on and on")
        if place not in self._known:
            circles, found = self._circles, self._found(place, seen)
            if circles != self._circles:
                return found  # true on this way only
            self._known[place] = found
        return self._known[place]

    def _found(self, place: str, seen: tuple[str, ...]) -> Values:
        if place in FREE:
            return frozenset({Value("text", "", below=True, free=True)})
        found = set[Value]()
        if place in ROOTS:
            found.add(Value("text", "", below=True))
        for value in self._given.get(place, ()):
            found |= self.of(value, place, (*seen, place))
        parts = place.split("::")
        for end in range(1, len(parts)):  # below a macro stands a copy of what it names
            for value in self._given.get("::".join(parts[:end]), ()):
                if isinstance(value, str) and value.startswith("%"):
                    target = "::".join([absolute("::".join(parts[:end]), value)[1:], *parts[end:]])
                    found |= self.of_id(target, (*seen, place))
        return frozenset(found)

    def of(self, value: Any, place: str, seen: tuple[str, ...] = ()) -> Values:
        """What a value that stands at an id may be.

        Raises:
            NotAllowedError: for a text that may not be made.
        """
        self._steps += 1
        if self._steps > 5 * _MAX_STEPS:
            raise NotAllowedError("more entries than a configuration has")
        if isinstance(value, str):
            return self._of_text(absolute(place, value), seen)
        if isinstance(value, (dict, list)):
            if isinstance(value, dict) and "_target_" in value:
                return frozenset({OBJECT})
            items = [self.of(inner, f"{place}::{normal(key)}", seen) for key, inner in _children(value)]
            return frozenset({listed(frozenset().union(*items))})
        return frozenset({NUMBER_TEXT})

    def _of_text(self, text: str, seen: tuple[str, ...]) -> Values:
        if text.startswith("$"):
            try:
                statement = parsed(text[1:])
            except ValueError as error:
                raise NotAllowedError(str(error)) from error
            return _Evaluation(self, seen).whole(statement)
        if text.startswith("%") or re.fullmatch(r"@\w*(::\w*)*", text):
            return self.of_id(text[1:], seen)
        return frozenset({Value("text", text)})


def normal(key: object) -> str:
    """An id, or part of one, with the separator that MONAI uses today."""
    return str(key).replace("#", "::")


def absolute(place: str, text: str) -> str:
    """A text with relative references (``@::x``: beside it, ``@::::x``: one level up) as MONAI makes them absolute."""
    text, parts = normal(text), place.split("::")
    for prefix in sorted(set(_RELATIVE.findall(text)), reverse=True):
        up = prefix.count("::")
        above = "::".join(parts[:-up]) + "::" if up < len(parts) else ""
        text = text.replace(prefix, prefix[0] + above)
    return text


def has_relative(text: str) -> bool:
    """Whether a text has a relative reference."""
    return _RELATIVE.search(normal(text)) is not None


def _children(value: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def listed(items: Values) -> Value:
    """A list of these."""
    return Value("list", free=any(item.free for item in items), items=items)


class _Evaluation:
    """Evaluates an expression over all values that its references may have."""

    def __init__(self, entries: Entries, seen: tuple[str, ...]) -> None:
        self.entries, self.seen = entries, seen

    def whole(self, statement: ast.stmt) -> Values:
        """What the statement gives."""
        if not isinstance(statement, ast.Expr) or is_setting(statement):
            return frozenset({OBJECT})  # an import, or what the other judge refuses
        return self.value(statement.value)

    def value(self, node: ast.expr) -> Values:
        """What a node may be, as a text of its own: none that leaves the bundle and the output."""
        found = self.piece(node)
        for value in found:
            if value.kind == "text" and value.known and not value.below and leaves(value.known):
                raise NotAllowedError(f"a path outside the bundle and the output: {value.known[:60]!r}")
        if len(found) > _MAX_VALUES:
            raise NotAllowedError("too many values are possible")
        return found

    def piece(self, node: ast.expr) -> Values:
        """What a node may be, perhaps as the end of another text."""
        reference = reference_of(node)
        if reference is not None:
            return self.entries.of_id(reference, self.seen)
        handler: Callable[[Any], Values] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:  # names of the lists
            if isinstance(node, ast.Name) and node.id == LOCAL:
                raise NotAllowedError("references have to be given by name")
            return frozenset({OBJECT})
        return handler(node)

    def _constant(self, node: ast.Constant) -> Values:
        return frozenset({Value("text", node.value) if isinstance(node.value, str) else NUMBER_TEXT})

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> Values:
        return frozenset({listed(frozenset().union(*map(self._element, node.elts)))})

    _tuple = _set = _list

    def _element(self, node: ast.expr) -> Values:
        if isinstance(node, ast.Starred):
            return _inner(self.value(node.value))
        return self.value(node)

    def _dict(self, node: ast.Dict) -> Values:
        parts = [self.value(part) for part in (*node.keys, *node.values) if part is not None]
        return frozenset({listed(frozenset().union(*parts))})

    def _ifexp(self, node: ast.IfExp) -> Values:
        self.value(node.test)
        return self.value(node.body) | self.value(node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Values:
        return frozenset().union(*map(self.value, node.values))

    def _compare(self, node: ast.Compare) -> Values:
        for part in (node.left, *node.comparators):
            self.piece(part)
        return frozenset({NUMBER_TEXT})

    def _unaryop(self, node: ast.UnaryOp) -> Values:
        found = self.value(node.operand)
        return frozenset({NUMBER_TEXT}) if isinstance(node.op, ast.Not) else _no_text(found, "a sign")

    def _binop(self, node: ast.BinOp) -> Values:
        if not isinstance(node.op, ast.Add):
            return _no_text(self.value(node.left) | self.value(node.right), type(node.op).__name__)
        return _sums(self.piece(node.left), self.piece(node.right))

    def _subscript(self, node: ast.Subscript) -> Values:
        base = self.value(node.value)
        if isinstance(node.slice, ast.Slice):
            for part in (node.slice.lower, node.slice.upper, node.slice.step):
                if part is not None:
                    self.value(part)
            if any(value.kind == "text" for value in base):
                raise NotAllowedError("a part of a text")
            return base
        self.value(node.slice)
        return _inner(base)

    def _call(self, node: ast.Call) -> Values:
        name = dotted(node.func)
        if name == "os.path.join":
            return self._joined(node)
        given = [self._element(part) for part in node.args] + [self.value(word.value) for word in node.keywords]
        if name in _CALLS:
            return _CALLS[name](given)
        if isinstance(node.func, ast.Attribute) and (reference := reference_of(node.func.value)) is not None:
            return _of_method(node.func.attr, self.entries.of_id(reference, self.seen))
        if any(value.free for values in given for value in values):
            raise NotAllowedError("a path of the user's data is for reading only")
        return frozenset({OBJECT})

    def _joined(self, node: ast.Call) -> Values:
        if node.keywords or any(isinstance(part, ast.Starred) for part in node.args) or not node.args:
            raise NotAllowedError("os.path.join takes the parts one by one")
        found = self.value(node.args[0])
        for part in node.args[1:]:
            found = _sums(_sums(found, frozenset({Value("text", "/")})), self.value(part))
        return found


def _sums(left: Values, right: Values) -> Values:
    """``left + right`` for all values that they may have."""
    if len(left) * len(right) > _MAX_VALUES:
        raise NotAllowedError("too many values are possible")
    return frozenset(_added(*pair) for pair in product(left, right))


def _added(left: Value, right: Value) -> Value:
    """``left + right``."""
    if "text" not in (left.kind, right.kind):
        kinds = {left.kind, right.kind}
        if "list" in kinds:
            return listed(left.items | right.items)
        return NUMBER_TEXT if kinds == {"number"} else OBJECT
    if left.kind != "text" or right.kind != "text" or left.known is None or right.known is None or right.below:
        raise NotAllowedError("a text is put together from what is not known")
    if len(text := left.known + right.known) > MAX_EXPRESSION:
        raise NotAllowedError(f"a text of {len(text)} characters")
    if left.below:
        # "out" + "2" is a folder beside it
        if (text and not text.startswith("/")) or ".." in re.split(r"[/\\]", text):
            raise NotAllowedError(f"a path outside the bundle and the output: a folder of the run + {text[:60]!r}")
    elif leaves(text):
        raise NotAllowedError(f"a path outside the bundle and the output: {text[:60]!r}")
    return replace(left, known=text, free=left.free or right.free)


def _inner(values: Values) -> Values:
    """What stands in a list."""
    if any(value.kind == "text" for value in values):
        raise NotAllowedError("a part of a text")
    inner = [value.items if value.kind == "list" else frozenset({OBJECT}) for value in values]
    return frozenset().union(*inner)


def _no_text(values: Values, what: str) -> Values:
    """The result of arithmetic."""
    if any(map(_holds_text, values)):
        raise NotAllowedError(f"{what} of a text")
    if any(value.kind == "list" for value in values):
        return frozenset(value for value in values if value.kind == "list")
    return frozenset({NUMBER_TEXT if all(value.kind == "number" for value in values) else OBJECT})


def _holds_text(value: Value) -> bool:
    return value.kind == "text" or any(map(_holds_text, value.items))


def _of_method(name: str, values: Values) -> Values:
    if any(value.kind == "text" for value in values):
        raise NotAllowedError(f"{name} of a text")
    items: Values = frozenset().union(*(value.items for value in values if value.kind == "list"))
    if name == "items":
        items = frozenset({listed(items | {UNKNOWN_TEXT})})
    elif name == "keys":
        items = frozenset({UNKNOWN_TEXT})
    return frozenset({listed(items)}) if name in ("items", "keys", "values") else frozenset({OBJECT})


def _whole(given: list[Values]) -> Values:
    """Lists in another order or type."""
    return frozenset({listed(_inner(frozenset().union(*given)))})


def _one_of(given: list[Values]) -> Values:
    return _inner(given[0]) if len(given) == 1 else frozenset().union(*given)


def _in_words(given: list[Values]) -> Values:
    if any(value.kind != "number" for values in given for value in values):
        raise NotAllowedError("str() of what is no number")
    return frozenset({Value("text", "0")})  # digits, whatever they are


def _number(given: list[Values]) -> Values:
    return frozenset({NUMBER_TEXT})


_CALLS: Mapping[str, Callable[[list[Values]], Values]] = {
    **dict.fromkeys(("abs", "bool", "float", "int", "len", "os.path.exists", "round"), _number),
    **dict.fromkeys(("list", "set", "sorted", "tuple"), _whole),
    **dict.fromkeys(("max", "min"), _one_of),
    "dict": lambda given: frozenset({listed(frozenset().union(*given))}),
    "glob.glob": lambda given: frozenset(
        {listed(frozenset({replace(UNKNOWN_TEXT, free=any(value.free for values in given for value in values))}))}
    ),
    "monai.data.load_decathlon_datalist": lambda given: frozenset({listed(frozenset({OBJECT}))}),
    "os.path.basename": lambda given: frozenset({UNKNOWN_TEXT}),
    "range": lambda given: frozenset({listed(frozenset({NUMBER_TEXT}))}),
    "str": _in_words,
    "sum": lambda given: _no_text(frozenset().union(*map(_inner, given)), "sum"),
    "zip": lambda given: frozenset({listed(frozenset({listed(_inner(frozenset().union(*given)))}))}),
}
