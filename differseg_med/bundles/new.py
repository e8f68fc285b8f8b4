"""A bundle for a new task from a template: text with ``<<fields>>``, and a YAML file that says what goes into them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from differseg_med.atomic import write_text
from differseg_med.errors import CaseError
from differseg_med.transforms.intensity import NormalizeByKindd

TEMPLATES = Path(str(files("differseg_med.bundles") / "templates"))
"""The templates of the package."""

FILES = {
    "inference.yaml": "configs/inference.yaml",
    "train.yaml": "configs/train.yaml",
    "evaluate.yaml": "configs/evaluate.yaml",
    "metadata.json": "configs/metadata.json",
    "README.md": "docs/README.md",
}
"""Files of ``templates/picture`` and where a bundle has them."""


def new_bundle(template: str | Path, folder: str | Path, fields: Mapping[str, object] | None = None) -> Path:
    """Make a bundle without weights.

    Args:
        template: a YAML file with ``target``, ``modalities``, ``spatial_size``, ``max_epochs`` and ``val_interval``.
        folder: the bundle to make; its name is the task's.
        fields: more fields, or others than the template's.

    Raises:
        CaseError: if the template is not there, or the folder is already.
    """
    template, folder = Path(template), Path(folder)
    if not template.is_file():
        known = sorted(path.stem for path in template.parent.glob("*.yaml"))
        raise CaseError("there is no such template", file=template, expected=f"one of {', '.join(known)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", folder.name):
        raise CaseError("the name cannot be that of a bundle", found=folder.name, expected="letters, digits, - and _")
    if folder.exists():
        raise CaseError("there is a bundle of that name already", file=folder, remedy="Choose another name.")
    values = _fields(template.read_text(encoding="utf-8"), folder) | dict(fields or {})
    for source, target in FILES.items():
        text = (template.parent / "picture" / source).read_text(encoding="utf-8")
        write_text(folder / target, re.sub(r"<<(\w+)>>", lambda match: str(values[match[1]]), text))
    (folder / "models").mkdir()
    return folder


def _fields(text: str, folder: Path) -> dict[str, object]:
    """What stands in a template, and what follows from it."""
    content = yaml.safe_load(text)
    modalities: dict[str, dict[str, object]] = content["modalities"]
    channels = NormalizeByKindd(modalities).channels
    names = [name for name, count in zip(modalities, channels) for _ in range(count)]
    colours = [c for count in channels for c in (("red", "green", "blue") if count == 3 else ("",))]
    lines = [f'"{i}": {json.dumps(f"{name} {colour}".strip())}' for i, (name, colour) in enumerate(zip(names, colours))]
    block = re.search(r"^modalities:.*\n((?:  .*\n)+)", text, flags=re.MULTILINE)
    return {
        **content,
        "title": folder.name.replace("_", " ").capitalize(),
        "folder": folder.name,
        "names": " and ".join(modalities),
        "reference": next(iter(modalities)),
        "modalities": block[1].rstrip("\n") if block else "",  # as it stands, with its remarks
        "in_channels": channels,
        "num_channels": sum(channels),
        "channel_def": (",\n" + " " * 10).join(lines),
        "data_source": "Say where the training data come from and under which licence.",
        "authors": "Fill in",
        "copyright": "Fill in",
    }
