"""``run.json``: what made the results of a folder, so that the next run knows what it may keep."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from differseg_med.atomic import write_text
from differseg_med.io.dicom.cells import split_cell
from differseg_med.runs.names import MANIFEST
from differseg_med.runs.stamps import code_hash

PROGRAM, FORMAT = "differseg_med", 1
PACKAGES = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom")
PLACES = ("bundle_root", "cohort", "dataset_dir", "output_dir", "cache_dir")
"""Entries of a configuration that say where a run happens; folders may hold names."""

PATH_OPTIONS = (
    *("--out", "--output-dir", "-o", "--cohort", "--bundle", "--reference", "--segment", "--predictions", "--preset"),
    *("--root", "--mask", "--rules", "--folder", "--label", "--image"),
)
"""Options of our commands whose values are paths, also of files that are not there yet."""

RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"
MAX_DIFFERENCES = 8
"""How many differences a message names."""

_configuration: ContextVar[Mapping[str, Any] | None] = ContextVar("configuration", default=None)


@dataclass(frozen=True)
class Step:
    """One job whose results lie in a folder: predict, evaluate, train, export ...

    Args:
        settings: what it was set to, see `described`; equal settings and inputs give equal results.
        inputs: stamps by case and column, see `case_stamps`.
        results: names of result files, relative to the folder, where they are not those of a case's folder.
        command: as it was typed, without paths: they may hold names.
        configuration: of the bundle after merging, for the reader.
        software: version and hash of the package.
        environment: other packages and the machine; results of two may differ in the last digits.
        started, ended: UTC.
        state: running, finished or stopped. A run that was killed says running for ever.
        remarks: what happened to it.
        shard: of a shard its number, how many there are and the cases of all; of what was collected, from what.
    """

    settings: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    command: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    started: str = ""
    ended: str = ""
    state: str = RUNNING
    remarks: list[str] = field(default_factory=list)
    shard: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def now(
        cls,
        settings: Mapping[str, str],
        inputs: Mapping[str, dict[str, str]] | None = None,
        results: Mapping[str, str] | None = None,
    ) -> Step:
        """A step that begins now, with the software and the configuration of this process."""
        return cls(
            dict(settings),
            dict(inputs or {}),
            dict(results or {}),
            command=" ".join(_without_paths(sys.argv)),
            configuration=_plain({k: v for k, v in (_configuration.get() or {}).items() if k not in PLACES}),
            software={PROGRAM: _version("differseg-med"), "code": code_hash()[:16]},
            environment={**{name: _version(name) for name in PACKAGES}, "system": platform.platform()},
            started=_now(),
        )

    def ended_as(self, state: str) -> Step:
        """The same step, at its end."""
        return replace(self, state=state, ended=_now())

    def differences(self, other: Step) -> list[str]:
        """What of the settings and the software ``other`` has otherwise: ``threshold: was 0.35, is 0.5``."""
        found = _changes(self.settings, other.settings)
        old, new = _scalars(self.configuration), _scalars(other.configuration)
        named = _changes(old, new) if found and old and new else []  # in the user's words, where they are known
        return [*(named or found), *_changes(self.software, other.software)]


def read_steps(folder: str | Path, name: str = MANIFEST) -> dict[str, Step]:
    """The steps of a folder by name; empty if there is no manifest, or none that can be read."""
    try:
        content = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
        if content.get("program") != PROGRAM:
            return {}
        known = set(Step.__dataclass_fields__)
        steps = content["steps"].items()
        return {title: Step(**{k: v for k, v in step.items() if k in known}) for title, step in steps}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_steps(folder: str | Path, steps: Mapping[str, Step], name: str = MANIFEST) -> None:
    """Write the manifest of a folder in one step."""
    content = {"program": PROGRAM, "format": FORMAT, "steps": {title: asdict(step) for title, step in steps.items()}}
    write_text(Path(folder) / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def recording(folder: str | Path, name: str, step: Step) -> Iterator[None]:
    """Keep a step in the folder's manifest: as running before the block, finished or stopped after it."""
    write_steps(folder, {**read_steps(folder), name: step})
    try:
        yield
    except BaseException:
        write_steps(folder, {**read_steps(folder), name: step.ended_as(STOPPED)})
        raise
    write_steps(folder, {**read_steps(folder), name: step.ended_as(FINISHED)})


@contextmanager
def configured(configuration: Mapping[str, Any]) -> Iterator[None]:
    """Within the block steps keep this configuration."""
    token = _configuration.set(configuration)
    try:
        yield
    finally:
        _configuration.reset(token)


def flat_settings(configuration: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as settings: each value by its full name, without what says where a run happens."""
    found: dict[str, str] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                put(f"{name}::{key}" if name else str(key), item)
        else:
            found[name] = str(value)

    put("", {name: value for name, value in configuration.items() if name not in (*PLACES, "device", "resume")})
    return found


def list_differences(differences: list[str]) -> str:
    """Differences in one line."""
    more = len(differences) - MAX_DIFFERENCES
    return "; ".join(differences[:MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    missing = "not there"
    return [
        f"{name}: was {old.get(name, missing)}, is {new.get(name, missing)}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]


def _scalars(configuration: Mapping[str, Any]) -> dict[str, str]:
    """The entries that a user sets, without those that say where a run happens."""
    found = {}
    for name, value in configuration.items():
        simple = isinstance(value, str | int | float | bool | list | None)
        if name not in ("device", "resume", "formats") and simple and not str(value).startswith("$"):
            found[name] = str(value)
    return found


def _without_paths(words: Sequence[str]) -> Iterator[str]:
    """The words of a command; what is a path, looks like one, or stands where one is asked for, is PATH."""
    for number, word in enumerate(words):
        name, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        asked = (name if equals else words[number - 1]) in PATH_OPTIONS and word != name
        is_path = asked or "/" in value or "\\" in value or split_cell(value)[0].exists()
        yield Path(word).name if number == 0 else f"{name}{equals}PATH" if is_path else word


def _plain(value: Any) -> Any:
    """What JSON can hold of a configuration; paths without their folders."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("_meta_")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value if value.startswith(("$", "@")) else re.split(r"[/\\]", value)[-1]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
