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
from differseg_med.modality import KINDS, label_of
from differseg_med.transforms.intensity import NormalizeByKindd

TEMPLATES = Path(str(files("differseg_med.bundles") / "templates"))
"""The templates of the package."""

FILES = {
    "inference.yaml": "configs/inference.yaml",
    "train.yaml": "configs/train.yaml",
    "evaluate.yaml": "configs/evaluate.yaml",
    "metadata.json": "configs/metadata.json",
    "README.md": "docs/README.md",
    "LICENSE": "LICENSE",
}
"""Files of ``templates/image2d`` and ``templates/volume``, and where a bundle has them."""

SHARED = {"logging.conf": "configs/logging.conf", "data_license.txt": "docs/data_license.txt"}
"""Files of ``templates`` that both have, named as in MONAI's model zoo; MONAI's command reads the first by itself."""

FILL_IN = {
    "data_source": "Say where the training data come from and under which licence.",
    "authors": "Fill in",
    "copyright": "Fill in",
}
"""What only the bundle's owner knows."""


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
    check_folder(folder)
    return write_bundle("image2d", folder, _fields(template.read_text(encoding="utf-8"), folder) | dict(fields or {}))


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that cannot become a bundle.

    Raises:
        CaseError: if its name cannot be that of a bundle, or it is there already.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", folder.name):
        raise CaseError("the name cannot be that of a bundle", found=folder.name, expected="letters, digits, - and _")
    if folder.exists():
        raise CaseError("there is a bundle of that name already", file=folder, remedy="Choose another name.")


def write_bundle(sort: str, folder: str | Path, fields: Mapping[str, object]) -> Path:
    """Write the files of a bundle, without weights.

    Args:
        sort: ``image2d`` or ``volume``, the folder of the template's texts.
        folder: the bundle.
        fields: what the ``<<fields>>`` of the texts stand for.
    """
    folder = Path(folder)
    modalities = yaml.safe_load(f"modalities:\n{fields['modalities']}\n")["modalities"]
    fields = {**fields, "kinds": json.dumps({name: entry["kind"] for name, entry in modalities.items()})}
    sources = {TEMPLATES / sort / name: target for name, target in FILES.items()}
    for source, target in (sources | {TEMPLATES / name: target for name, target in SHARED.items()}).items():
        text = source.read_text(encoding="utf-8")
        write_text(folder / target, re.sub(r"<<(\w+)>>", lambda match: str(fields[match[1]]), text))
    (folder / "models").mkdir(exist_ok=True)
    return folder


def title_of(folder: Path) -> str:
    """The name of a task from that of its folder: ``Liver lesion ct`` of ``liver_lesion_ct``."""
    return folder.name.replace("_", " ").capitalize()


def channel_fields(modalities: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Fields about the channels of 2-D images: one per colour."""
    channels = NormalizeByKindd(modalities).channels
    names = [name for name, count in zip(modalities, channels) for _ in range(count)]
    colours = [c for count in channels for c in (("red", "green", "blue") if count == 3 else ("",))]
    lines = [f"{name} {colour}".strip() for name, colour in zip(names, colours)]
    return {"in_channels": channels, "num_channels": sum(channels), "channel_def": channel_def(lines)}


def input_rows(modalities: Mapping[str, Mapping[str, object]]) -> str:
    """Rows of the card's table of inputs: name, kind of image, normalisation with its settings."""
    rows = []
    for name, entry in modalities.items():
        settings = {key: value for key, value in entry.items() if key != "kind"}
        how = KINDS[str(entry["kind"])].normalization + (f" {one_line(settings)}" if settings else "")
        rows.append(f"| `{name}` | {label_of(str(entry['kind']))} | {how} |")
    return "\n".join(rows)


def one_line(value: object) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {one_line(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(one_line, value)) + "]"
    return yaml.safe_dump(value, width=1000, allow_unicode=True).removesuffix("\n").removesuffix("\n...")


def channel_def(names: list[str]) -> str:
    """The entries of ``channel_def`` in a bundle's metadata."""
    return (",\n" + " " * 10).join(f'"{number}": {json.dumps(name)}' for number, name in enumerate(names))


def _fields(text: str, folder: Path) -> dict[str, object]:
    """What stands in a template, and what follows from it."""
    content = yaml.safe_load(text)
    modalities: dict[str, dict[str, object]] = content["modalities"]
    block = re.search(r"^modalities:.*\n((?:  .*\n)+)", text, flags=re.MULTILINE)
    return {
        **content,
        **FILL_IN,
        **channel_fields(modalities),
        **{"iterations": 25, "batch_size": 4, "learning_rate": 0.001, "modality_dropout": 0.2, "threshold": 0.5},
        "title": title_of(folder),
        "folder": folder.name,
        "names": " and ".join(modalities),
        "reference": next(iter(modalities)),
        "modalities": block[1].rstrip("\n") if block else "",  # as it stands, with its remarks
        "input_rows": input_rows(modalities),
        "why": "The values are those of the template; change them in `configs/`.",
    }
