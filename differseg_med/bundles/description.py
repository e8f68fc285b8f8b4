"""What a bundle wants and gives, for people and programs that run it: nothing in it is run, and no torch is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from differseg_med.bundles.manifest import sha256
from differseg_med.bundles.reading import read_config
from differseg_med.errors import CaseError
from differseg_med.export.segment import CODES, read_segment
from differseg_med.modality import KINDS, declared

DESCRIPTION_FORMAT = 1
"""Of what `describe` returns: higher if a key changes its meaning."""


def describe(bundle: str | Path) -> dict[str, Any]:
    """What a bundle wants and gives, as plain values that JSON can hold.

    Args:
        bundle: its folder.

    Returns:
        ``format``, ``name``, ``version``, ``description``, ``intended_use``; ``images`` (volumes or pictures);
        ``modalities``, in order, any of which a case may lack: ``name``, ``kind``, ``kind_label``, ``settings``;
        ``reference``, whose grid the mask has; ``pixdim`` in mm; ``target`` with ``label``, ``color`` and ``codes`` by
        DICOM keyword; ``threshold``, ``largest_only``; ``weights`` with ``file`` and ``sha256``; ``requires``, versions
        by package.

    Raises:
        CaseError: if there is no bundle, or its files are not of that form.
    """
    folder = Path(bundle)
    config, metadata = (_mapping(folder / "configs" / name) for name in ("inference.yaml", "metadata.json"))
    try:
        kinds = declared(config["modalities"])
    except (KeyError, ValueError, TypeError) as error:
        file = folder / "configs" / "inference.yaml"
        raise CaseError("the bundle's modalities are not right", file=file, found=str(error)) from error
    after = config.get("postprocessing")
    after = after if isinstance(after, Mapping) else {}
    segment = read_segment(folder)
    return {
        "format": DESCRIPTION_FORMAT,
        "name": str(metadata.get("name", folder.name)),
        "version": str(metadata.get("version", "")),
        "description": str(metadata.get("description", "")),
        "intended_use": str(metadata.get("intended_use", "")),
        "images": "pictures" if "spatial_size" in config else "volumes",
        "modalities": [
            {
                "name": name,
                "kind": modality.kind,
                "kind_label": KINDS[modality.kind].label,
                "settings": _settings(config["modalities"], name),
            }
            for name, modality in kinds.items()
        ],
        "reference": str(config.get("reference", next(iter(kinds)))),
        "pixdim": config.get("pixdim"),
        "target": {
            "label": segment.name,
            "color": list(segment.color),
            "codes": {
                keyword: {"scheme": code.scheme_designator, "value": code.value, "meaning": code.meaning}
                for keyword, name in CODES.items()
                if (code := getattr(segment, name)) is not None
            },
        },
        "threshold": _number(config.get("threshold"), after.get("threshold"), 0.5),
        "largest_only": bool(config.get("largest_only", after.get("largest_only", False))),
        "weights": [{"file": path.name, "sha256": sha256(path)} for path in _weights(folder)],
        "requires": dict(metadata.get("required_packages_version") or {}),
    }


def described_in_words(found: Mapping[str, Any]) -> Iterator[str]:
    """What `describe` returned, in lines."""
    yield f"{found['name']}, version {found['version']}"
    for text in (found["description"], found["intended_use"]):
        if text:
            yield text
    yield f"wants ({found['images']}; any may be missing, one must be there):"
    for modality in found["modalities"]:
        settings = ", ".join(f"{key} {value}" for key, value in modality["settings"].items())
        yield f"  {modality['name']}: {modality['kind_label']}{f' ({settings})' if settings else ''}"
    codes = "; ".join(
        f"{code['meaning']} ({code['scheme']} {code['value']})" for code in found["target"]["codes"].values()
    )
    yield f"gives: {found['target']['label']}" + (f", {codes}" if codes else ", without codes")
    parts = "its largest connected component" if found["largest_only"] else "every component"
    yield f"  on the grid of {found['reference']}, or of the first that is there; above {found['threshold']}, {parts}"
    for weights in found["weights"]:
        yield f"weights: {weights['file']}, SHA-256 {weights['sha256']}"
    if found["requires"]:
        yield f"made with: {', '.join(f'{name} {version}' for name, version in found['requires'].items())}"


def _mapping(file: Path) -> dict[str, Any]:
    if not file.is_file():
        remedy = "Name the folder of a bundle, which has configs/inference.yaml."
        raise CaseError("this is no bundle", file=file, found="no such file", remedy=remedy)
    content = read_config(file)
    if not isinstance(content, dict):
        raise CaseError("the configuration has no entries", file=file, expected="name: value", found=type(content))
    return content


def _settings(modalities: Any, name: str) -> dict[str, Any]:
    """How a modality is normalised, beside its kind."""
    entry = modalities.get(name) if isinstance(modalities, Mapping) else None
    return {key: value for key, value in entry.items() if key != "kind"} if isinstance(entry, Mapping) else {}


def _number(*given: Any) -> float:
    """The first that is a number: others are references."""
    return float(next(value for value in given if isinstance(value, int | float) and not isinstance(value, bool)))


def _weights(folder: Path) -> list[Path]:
    files = (folder / "models").glob("*")
    return sorted(path for path in files if path.suffix in (".pt", ".safetensors"))
