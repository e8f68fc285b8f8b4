"""What a rule file may cost: YAML whose references do not multiply, and patterns that end in time.

A rule file may come from someone else. Nine lines of references to references are a billion entries, and a pattern
like ``(a+)+$`` takes years to find that it does not fit.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from differseg_med.errors import CaseError

_MAX_BYTES = 2**16
"""Size of a rule file; the largest that comes with the package has a tenth of it."""

MAX_NODES = 20_000
"""Entries of a rule file once all references are followed."""

MAX_WAYS = 2**24
"""Ways in which the parts of a pattern can share a text, one multiplied with the other along the worst branch."""

MAX_TEXT = 128
"""How many characters of a name or description patterns look at; DICOM allows 64."""

_TOKEN = re.compile(
    r"""(?P<escape>\\.)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<open>\((?:\?(?:[:=!>]|<[=!]|P?<\w+>|[a-zA-Z-]+:?))?)
    | (?P<close>\))
    | (?P<repeat>(?:[*+?]|\{\d*,?\d*\})[?+]?)
    | (?P<either>\|)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: if it is none, or larger than a rule file can be, references followed.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"the file is larger than {_MAX_BYTES >> 10} kB")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        if _entries(node, {}) > MAX_NODES:
            raise ValueError(f"references (&, *) multiply to more than {MAX_NODES} entries")
        return loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the rule file is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError("entries lie too deep in one another, or refer to themselves") from error


def _entries(node: yaml.Node, counted: dict[int, int]) -> int:
    """Entries below a node with every reference followed; each node is counted once."""
    if id(node) not in counted:
        if isinstance(node, yaml.MappingNode):
            parts: list[yaml.Node] = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
        counted[id(node)] = 1 + sum(_entries(part, counted) for part in parts)
    return counted[id(node)]


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that is none, or that can take forever on a text that it does not fit.

    Raises:
        ValueError: that says why.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    if (ways := _ways(pattern)) > MAX_WAYS:
        raise ValueError(
            f"can share out a text in {ways:.0e} ways, which can take forever: use fewer repetitions (* and +), "
            "or give them limits like .{0,9}"
        )


def compiled(option: str, pattern: str) -> re.Pattern[str]:
    """The regular expression of an option.

    Raises:
        CaseError: see `check_pattern`.
    """
    try:
        check_pattern(pattern)
    except ValueError as error:
        raise CaseError(f"{option} {pattern} {error}") from error
    return re.compile(pattern)


def _ways(pattern: str) -> float:
    """In how many ways the parts of a pattern can share a text of `MAX_TEXT` characters at most.

    Raises:
        ValueError: for a repetition without limit of a group that holds a repetition or a choice.
    """
    # Per open group: ways of the branches before, ways of the present branch.
    groups: list[tuple[float, float]] = [(0.0, 1.0)]
    last = 1.0  # ways of what a repetition sign would repeat
    for token in _TOKEN.finditer(pattern):
        before, here = groups[-1]
        kind, text = token.lastgroup, token[0]
        if kind == "open":
            groups.append((0.0, 1.0))
        elif kind == "close" and len(groups) > 1:
            groups.pop()
            last = before + here
            groups[-1] = (groups[-1][0], groups[-1][1] * last)
        elif kind == "either":
            groups[-1] = (before + here, 1.0)
        elif kind == "repeat":
            least, most = _limits(text)
            if most > MAX_TEXT and last > 1:
                raise ValueError("repeats a group that holds a repetition or a choice, which can take forever")
            groups[-1] = (before, here / last * _power(last, most) * (min(most, MAX_TEXT) - least + 1))
            last = 2.0
        else:
            last = 1.0
    return sum(groups[0])


def _power(ways: float, times: int) -> float:
    return math.inf if ways > 1 and times > 100 else ways**times if ways > 1 else 1.0


def _limits(repeat: str) -> tuple[int, int]:
    """The least and most times that a repetition sign allows."""
    if repeat[0] != "{":
        return (0, 1) if repeat[0] == "?" else (int(repeat[0] == "+"), MAX_TEXT + 1)
    numbers = repeat[1 : repeat.index("}")].split(",")
    least = min(int(numbers[0] or 0), MAX_TEXT)
    return least, max(min(int(numbers[-1] or MAX_TEXT + 1), MAX_TEXT + 1), least)
