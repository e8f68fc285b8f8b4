"""What made a page: bundle, weights, command, date and versions."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKPOINT = "checkpoint_file"
"""Attribute of a network that has loaded weights: the file that they came from."""

SHOWN_PACKAGES = ("differseg-med", "monai", "torch")


def provenance(checkpoint: str | Path | None = None) -> dict[str, str]:
    """Lines for the head of a page, by name.

    Args:
        checkpoint: weights of the network; if they lie in ``models/`` of a bundle, its metadata name it.
    """
    lines = _bundle(Path(checkpoint)) if checkpoint else {}
    lines["Date"] = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    lines["Command"] = " ".join([Path(sys.argv[0]).stem, *map(_without_paths, sys.argv[1:])])[:300]
    return lines | {
        "Versions": ", ".join(filter(None, [*map(_version, SHOWN_PACKAGES), f"Python {platform.python_version()}"]))
    }


def _without_paths(word: str) -> str:
    """A word of a command line; files and folders may be called like patients."""
    name, sign, value = word.rpartition("=")
    if re.search(r"[/\\]|\.[A-Za-z]\w{0,4}$", value) or Path(value).exists():
        return f"{name}{sign}PATH"
    return word


def _bundle(checkpoint: Path) -> dict[str, str]:
    lines = {}
    try:
        text = (checkpoint.resolve().parents[1] / "configs" / "metadata.json").read_text(encoding="utf-8")
        metadata = json.loads(text)
        lines["Bundle"] = f"{metadata['name']}, version {metadata['version']}"
    except (OSError, ValueError, LookupError, TypeError):
        pass  # weights need not lie in a bundle
    try:
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError:
        return lines
    return lines | {"Weights": f"{checkpoint.name}, SHA-256 {digest[:16]}"}


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""
