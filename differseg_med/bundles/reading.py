"""The content of a configuration, without anything in it being run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from differseg_med.errors import CaseError

_MAX_BYTES = 2**20
"""Of a configuration."""


class _Loader(yaml.SafeLoader):
    """MONAI's reading of YAML: data only, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len({str(key) for key in keys}) < len(keys):
            raise yaml.YAMLError("a key is there twice")
        return super().construct_mapping(node, deep=deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


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
        if file.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _Loader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        why = str(error).split("\n")[0]
        raise CaseError(
            "the configuration cannot be read", file=file, found=f"{type(error).__name__}: {why}"
        ) from error
