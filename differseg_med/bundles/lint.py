"""What a bundle's configuration would run, judged before MONAI reads it.

A configuration is a program: ``_target_`` names what is built, ``$`` begins Python. This judges both by lists of what
is allowed; whatever is in none of them is refused, so that a bundle from elsewhere cannot read, write or send what it
likes. See docs/security.md for what this holds against, and what not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from differseg_med.bundles.allowed import BY_NAME, NAMING, PRIVATE_NAMES, meant, target_allowed
from differseg_med.bundles.expressions import parsed, statement_refused
from differseg_med.bundles.reading import read_config
from differseg_med.bundles.texts import FREE, ROOTS, Entries, NotAllowedError, Value, has_relative, leaves, normal
from differseg_med.errors import CaseError, printable

MAX_ENTRIES, _MAX_DEPTH = 20_000, 40
"""Bounds of a configuration: aliases of YAML make millions of entries from one line."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|(hf[-_]hub|ms[-_]hub|local[-_]dir):", re.IGNORECASE)
"""Where a component would fetch weights or images from."""

_READ = ("data", "base_dir")
"""Arguments that are read from only."""


Entry = tuple[str, ...]
EntryFinding = tuple[Entry, str]
METADATA = "_meta_"
"""Where MONAI puts the content of ``metadata.json``."""


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
        files: YAML and JSON files of one run, as MONAI reads them: what one refers to may stand in another.

    Raises:
        CaseError: for a file that cannot be read or is no configuration.
    """
    contents = {Path(file): read_config(file) for file in files}
    places = [(METADATA if file.name == "metadata.json" else "", content) for file, content in contents.items()]
    texts = (text for content in contents.values() for text in _texts(content))
    naming = next((text for text in texts if NAMING.fullmatch(text.rpartition(".")[2])), "")
    return [
        Refused(file.name, "::".join(entry)[:120], why)
        for (place, content), file in zip(places, contents)
        for entry, why in _Lint(Entries(places), content, place, naming).run()
    ]


def bundle_files(bundle: str | Path) -> list[Path]:
    """The configurations of a bundle: what MONAI may be told to read, and the metadata, which it parses like them."""
    check_links(bundle)
    configs = Path(bundle) / "configs"
    files = sorted(path for path in configs.glob("*") if path.suffix.lower() in (".yaml", ".yml", ".json"))
    if not files:
        raise CaseError("there is no configuration here", file=configs, remedy="Give the folder of a bundle.")
    return files


def check_links(bundle: str | Path) -> None:
    """Refuse links of a bundle that lead out of it: what is read or written there would be files of somebody else.

    Raises:
        CaseError: with the first of them.
    """
    bundle = Path(bundle)
    inside = bundle.resolve()
    for path in bundle.rglob("*"):
        if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(inside)):
            raise CaseError(
                "the bundle has a link that leads out of it, or nowhere",
                file=bundle,
                found=path.relative_to(bundle).as_posix(),
                remedy="Put the file itself there. If you trust who made the bundle, --trust runs it.",
            )


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


class _Lint:
    """The walk over one file.

    Args:
        entries: of all files.
        content: of this one.
        place: where MONAI puts it.
        naming: a component in one of the files whose arguments name others; empty if there is none.
    """

    def __init__(self, entries: Entries, content: Any, place: str, naming: str) -> None:
        self.entries, self.content, self.place, self.count = entries, content, place, 0
        self.naming = naming
        texts = list(_texts(content))
        self.relative = any(map(has_relative, texts))
        self.macros = any(text.startswith("%") for text in texts)

    def run(self) -> Iterator[EntryFinding]:
        """What is refused: the path of each entry, and why."""
        if self.relative and self.macros:
            yield (), "relative references beside macros"
        yield from self._walk(self.content, ())

    def _walk(self, value: Any, entry: Entry) -> Iterator[EntryFinding]:
        self.count += 1
        if self.count > MAX_ENTRIES or len(entry) > _MAX_DEPTH:
            if self.count <= MAX_ENTRIES + 1:
                self.count = MAX_ENTRIES + 2
                yield entry[:5], "more entries than a configuration has"
        elif isinstance(value, (dict, list)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(value, dict):
                    yield from self._key(str(key), inner, entry)
                yield from self._walk(inner, (*entry, str(key)))
        elif isinstance(value, str):
            if why := self._text(value, entry):
                yield entry, why
        elif not isinstance(value, (bool, int, float, date, type(None))):
            yield entry, f"a value of type {type(value).__name__}"

    def _key(self, key: str, value: Any, entry: Entry) -> Iterator[EntryFinding]:
        """What a key makes of its value: ``_target_`` and names that MONAI looks up, also as ``a::_target_``."""
        parts = normal(key).lstrip("+").split("::")
        if self.relative and not all(re.fullmatch(r"\w+", part) for part in parts):
            yield (*entry, key), "a key that is no name beside relative references"  # MONAI pastes it into expressions
        for part in parts:
            if re.fullmatch(r"_.*_", part) and part not in PRIVATE_NAMES:
                yield (*entry, key), f"{part} is not one of MONAI's {', '.join(PRIVATE_NAMES)}"
        name = parts[-1]
        if name == "_target_" and not (isinstance(value, str) and target_allowed(value)):
            yield (*entry, key), f"_target_ {str(value)[:80]!r} is not in the list{meant(str(value))}"
        if name == "allow_pickle" and value is not False:
            yield (*entry, key), "a pickle runs what it likes"
        if (allowed := BY_NAME.get(name)) is not None:
            try:
                texts = [v for v in _flat(self.entries.of(value, self._id((*entry, key)))) if v.kind == "text"]
            except NotAllowedError as error:
                yield (*entry, key), str(error)
                return
            if any(text.known not in allowed or text.below for text in texts):
                yield (*entry, key), f"{name} {str(value)[:80]!r} is not one of {', '.join(allowed)}"
            elif name == "_mode_" and self.naming and value != "default":
                yield (*entry, key), f"{self.naming} could be called later with arguments that nobody has judged"

    def _text(self, text: str, entry: Entry) -> str:
        """Why a text is refused; empty if it is not."""
        if text.startswith("$") and (why := expression_refused(text[1:])):
            return why
        if text.startswith("%") and re.search(r"\.(json|ya?ml)", text, re.IGNORECASE):
            return "a macro that reads another file"
        place = self._id(entry).split("::")
        if len(place) == 1 and place[0] in FREE:
            return ""
        if place[-1] in ROOTS and not text.strip():
            return "a folder without a name"
        try:
            found = list(_flat(self.entries.of(text, self._id(entry))))
        except NotAllowedError as error:
            return str(error)
        except RecursionError:
            return "an expression that is too deep"
        return "" if METADATA in (self.place, place[0]) else self._values_refused(found, place)

    def _values_refused(self, found: list[Value], place: list[str]) -> str:
        """Why what a text stands for is refused where it stands."""
        for value in found:
            known = "" if value.below else value.known or ""
            if leaves(known):
                return f"a path outside the bundle and the output: {known[:60]!r}"
            if _ADDRESS.match(known):
                return f"an address in a network: {known[:60]!r}"
            if value.kind == "text" and value.free and len(place) > 1 and place[-1] not in _READ:
                return "a path of the user's data is for reading only"
        return ""

    def _id(self, entry: Entry) -> str:
        parts = [normal(part) for part in entry]
        if parts and not self.place:
            parts[0] = parts[0].lstrip("+")
        return "::".join(filter(None, (self.place, *parts)))


def _texts(content: Any) -> Iterator[str]:
    """The texts of a file, as far as the walk goes before it refuses: aliases of YAML make endless files."""
    waiting = [content]
    for _ in range(MAX_ENTRIES):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value


def _flat(values: Iterable[Value]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from _flat(value.items)


def expression_refused(code: str) -> str:
    """Why a Python expression is refused whatever the entries are; empty if every part of it is in the lists."""
    try:
        statement = parsed(code)
        return statement_refused(statement) or _alone(code)
    except ValueError as error:
        return str(error)


def _alone(code: str) -> str:
    """Why the texts of an expression are refused although none of its references is known."""
    try:
        Entries([]).of(f"${code}", "")
    except NotAllowedError as error:
        return str(error)
    return ""
