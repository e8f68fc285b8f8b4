"""A bundle's configuration before anything of it is built: which entry is read, from which file, and is it right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.config_item import ConfigComponent, ConfigExpression
from monai.utils import CompInitMode

from differseg_med.bundles.arguments import (
    RESERVED,
    UNKNOWN,
    Problem,
    argument_problem,
    component_of,
    parameters_of,
    target_problem,
)
from differseg_med.errors import ConfigError

SEP = "::"
STEPS = ("initialize", "run", "finalize")
"""Entries that a run evaluates; the others are read if one of these leads to them."""


class Configuration:
    """The merged entries of a run.

    Args:
        parser: MONAI's, with the files and what was given beside them.
        files: in the order in which they were read.
        given: entries that were given beside the files, with how: ``{"threshold": "--set"}``.
    """

    def __init__(self, parser: ConfigParser, files: Sequence[Path], given: Mapping[str, str] | None = None) -> None:
        self.parser, self.files, self.given = parser, list(files), dict(given or {})
        self._contents = [ConfigParser.load_config_file(file) for file in files]

    def check(self) -> None:
        """Check the entries that the run reads.

        Raises:
            ConfigError: for a reference to nothing, an unknown ``_target_``, or an argument that does not fit.
        """
        for entry in self.read_entries():
            value = self.parser.get(entry)
            for reference in _references(value):
                if reference not in self.parser:
                    raise self.error(entry, Problem("", f"it refers to @{reference}", "an entry", "no such entry"))
            if ConfigComponent.is_instantiable(value) and (problem := self._component_problem(entry, value)):
                raise self.error(entry, problem)

    def error(self, entry: str, problem: Problem) -> ConfigError:
        """The error for a problem with an entry, at the place where its value stands."""
        place = self._origin(f"{entry}{SEP}{problem.argument}" if problem.argument else entry)
        how = next((h for name, h in self.given.items() if f"{place}{SEP}".startswith(f"{name}{SEP}")), "")
        return ConfigError(
            problem.text,
            entry=place,
            given=how,
            file=None if how else self._file_of(place),
            expected=problem.expected or None,
            found=problem.found or None,
            remedy=problem.remedy,
        )

    def located(self, error: ConfigError) -> ConfigError:
        """The same error, with the place where the entry stands."""
        found = "" if error.found is None else str(error.found)
        return self.error(error.entry, Problem("", error.problem, str(error.expected or ""), found, error.remedy))

    def read_entries(self) -> list[str]:
        """Ids of the entries that a run reads, nested ones included, in the order in which they are found."""
        found: dict[str, None] = {}
        waiting = [step for step in STEPS if step in self.parser]
        while waiting:
            entry = waiting.pop(0)
            if entry in found or entry not in self.parser:
                continue
            found[entry] = None
            value = self.parser.get(entry)
            waiting += _references(value)
            waiting += [f"{entry}{SEP}{key}" for key in _keys(value)]
        return list(found)

    def candidates(self, argument: str) -> list[str]:
        """Components among the read entries that take an argument of this name, as ids of the argument."""
        found = []
        for entry in self.read_entries():
            value = self.parser.get(entry)
            if ConfigComponent.is_instantiable(value):
                component = component_of(self._target(value))
                if component is not None and argument in parameters_of(component):
                    found.append(f"{entry}{SEP}{argument}")
        return found

    def _component_problem(self, entry: str, value: Mapping[str, Any]) -> Problem | None:
        target = self._target(value)
        if problem := target_problem(target):
            return problem
        component = component_of(target)
        if component is None:
            return None
        arguments = {name: self._literal(part) for name, part in value.items() if name not in RESERVED}
        return argument_problem(component, arguments, value.get("_mode_") == CompInitMode.CALLABLE)

    def _target(self, value: Mapping[str, Any]) -> object:
        return ConfigComponent(config=value, locator=self.parser.locator).resolve_module_name()

    def _literal(self, value: Any) -> Any:
        """A value with its references followed; UNKNOWN where something has to be built or computed."""
        if isinstance(value, str) and (references := ReferenceResolver.match_refs_pattern(value)):
            reference = next(iter(references))
            followed = not ConfigExpression.is_expression(value) and reference in self.parser
            return self._literal(self.parser.get(reference)) if followed else UNKNOWN
        if ConfigExpression.is_expression(value) or ConfigComponent.is_instantiable(value):
            return UNKNOWN
        if isinstance(value, Mapping):
            return {key: self._literal(part) for key, part in value.items()}
        return [self._literal(part) for part in value] if isinstance(value, list) else value

    def _origin(self, entry: str) -> str:
        """The entry at the end of references: where the value of ``inferer::roi_size: '@roi_size'`` stands."""
        parts, seen = entry.split(SEP), set[str]()
        for depth in range(1, len(parts) + 1):
            head = SEP.join(parts[:depth])
            value = self.parser.get(head)
            if isinstance(value, str) and not ConfigExpression.is_expression(value) and head not in seen:
                seen.add(head)
                references = _references(value)
                if references and references[0] in self.parser:
                    return self._origin(SEP.join([references[0], *parts[depth:]]))
        return entry

    def _file_of(self, entry: str) -> Path | None:
        """The last file that says something of an entry."""
        best: tuple[int, Path | None] = (0, None)
        parts = entry.split(SEP)
        for file, content in zip(self.files, self._contents):
            depth = _depth(content, parts)
            if depth and depth >= best[0]:
                best = (depth, file)
        return best[1]


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (str(key) for key in value)
    elif isinstance(value, list):
        yield from map(str, range(len(value)))


def _references(value: Any) -> list[str]:
    return list(ReferenceResolver.match_refs_pattern(value)) if isinstance(value, str) else []


def _depth(content: Any, parts: Sequence[str]) -> int:
    """How many of the id's parts a file has, one below the other."""
    for depth, part in enumerate(parts):
        if depth == 0 and isinstance(content, Mapping) and f"+{part}" in content:
            content = content[f"+{part}"]
        elif isinstance(content, Mapping) and part in content:
            content = content[part]
        else:
            return depth
    return len(parts)
