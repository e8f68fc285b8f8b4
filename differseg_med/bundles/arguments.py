"""Whether a component of a configuration can be built from its arguments: their names and their types."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any, Literal, Union, get_args, get_origin

import torch

PACKAGE = "differseg_med"
FACTORIES = f"{PACKAGE}.bundle"
RESERVED = {"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}


@dataclass(frozen=True)
class Problem:
    """What is wrong with an argument (or with the component, if ``argument`` is empty)."""

    argument: str
    text: str
    expected: str
    found: str
    remedy: str | None = None


def target_problem(target: object) -> Problem | None:
    """What is wrong with a ``_target_`` that MONAI has resolved to a full name."""
    if not isinstance(target, str) or component_of(target) is not None:
        return None
    module, _, name = target.rpartition(".")
    known = getattr(locate(module or FACTORIES), "__all__", None) or ()
    near = get_close_matches(name, known, 1) if module else []
    return Problem(
        "_target_",
        "there is no such class or function",
        f"a name of {module or 'MONAI'}",
        target,
        f"Did you mean {module}.{near[0]}?" if near else None,
    )


def component_of(target: object) -> Callable[..., Any] | None:
    """The class or function of a ``_target_``; None if there is none."""
    try:
        found = locate(target) if isinstance(target, str) else target
    except Exception:  # a module that cannot be imported says so when MONAI imports it
        return None
    return found if callable(found) else None


def parameters_of(component: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function by name; none if Python cannot tell."""
    try:
        return inspect.signature(component).parameters
    except (TypeError, ValueError):
        return {}


def argument_problem(component: Callable[..., Any], arguments: Mapping[str, Any], partial: bool) -> Problem | None:
    """The first argument that a component does not have, lacks, or whose value has the wrong type.

    Types are held to the annotations of this package only; those of others promise less than the code takes.

    Args:
        component: class or function.
        arguments: literal values, built objects, or `UNKNOWN`.
        partial: whether arguments may be missing.
    """
    parameters = parameters_of(component)
    if not parameters:
        return None
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in arguments:
        if name not in named and not open_ended:
            near = get_close_matches(name, named, 1)
            title = getattr(component, "__name__", str(component))
            remedy = f"Did you mean {near[0]}?" if near else None
            return Problem(name, f"{title} has no such argument", f"one of {', '.join(named)}", name, remedy)
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments and not partial:
            return Problem(name, "the argument is missing", "a value", "none")
    if not str(getattr(component, "__module__", "")).startswith(PACKAGE):
        return None
    hints = _hints(component)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            wanted = annotation_in_words(hints[name])
            return Problem(name, f"the value is not {wanted}", wanted, value_text(value), _remedy(value, hints[name]))
    return None


UNKNOWN = object()
"""A value that only running the configuration tells."""


def problem_of(text: str, arguments: Mapping[str, Any]) -> Problem:
    """What a component said of its arguments: ``threshold must be between 0 and 1, got 35``.

    Args:
        text: its message.
        arguments: of the component; the first that the text names is the one that is meant.
    """
    meant = ""
    if (modality := re.match(r"modality '(\w+)': (?:(\w+) )?", text)) and "modalities" in arguments:
        settings = arguments["modalities"].get(modality[1], {}) if isinstance(arguments["modalities"], Mapping) else {}
        key = modality[2] if modality[2] in settings else None
        meant = "::".join(filter(None, ("modalities", modality[1], key)))
    else:
        words = re.findall(r"\w+", text)
        names = [name for word in words for name in arguments if name == word or name.endswith(f"_{word}")]
        meant = next(iter(names), "")
    if said := re.match(r"(.*?)(\w+ )(must be|needs) (.*), got (.*)$", text):
        return Problem(meant, f"{said[1]}{said[2]}cannot be this", said[4], said[5])
    return Problem(meant, text, "", "")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration can be passed to a parameter with this annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if value is UNKNOWN or hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in inner)
    if origin is Literal:
        return value in inner
    if value is None or hint is type(None):
        return value is None and hint is type(None)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, (Path, torch.device)):
        return isinstance(value, (str, hint))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return _is_sequence(value) and all(fits(part, inner[0]) for part in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(part, inner[1]) for part in value.values())
    # Whatever else is annotated is an object: no number, text or list of a file is one.
    return not isinstance(value, (bool, int, float, str, list, dict))


def annotation_in_words(hint: Any) -> str:
    """An annotation as a sentence names it: ``a list of whole numbers``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = dict.fromkeys(annotation_in_words(part) for part in inner)
        return " or ".join(part for part in parts if not (part == "text" and "a path" in parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        plural = {"a number": "numbers", "a whole number": "whole numbers", "text": "names"}
        return f"a list of {plural.get(annotation_in_words(inner[0]), 'entries')}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping of names to values"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint is type(None):
        return "null"
    return names.get(hint) or f"a {getattr(hint, '__name__', 'component')}"


def value_text(value: Any) -> str:
    """A value as a message shows it, short."""
    text = f"the text {value!r}" if isinstance(value, str) else str(value).split("\n")[0]
    return text if len(text) <= 100 else f"{text[:97]}..."


def _hints(component: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters; those that cannot be evaluated are left out."""
    function = component.__init__ if inspect.isclass(component) else component
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _remedy(value: Any, hint: Any) -> str | None:
    """How to write what was probably meant."""
    if isinstance(value, str):
        if fits([value], hint):
            return f"Write [{value}]."
        try:
            number = float(value)
        except ValueError:
            return None
        return f"Write {number!r}: YAML takes {value} for text." if fits(number, hint) else None
    if isinstance(value, (int, float)) and fits([value], hint):
        return f"Write a list, [{value}, {value}] for example."
    return None
