"""A plan as a bundle: configurations, metadata with codes, model card, PLAN.md, fingerprints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from differseg_med.atomic import write_text
from differseg_med.bundles.new import (
    FILL_IN,
    channel_def,
    channel_fields,
    input_rows,
    one_line,
    title_of,
    write_bundle,
)
from differseg_med.modality import label_of
from differseg_med.planning.choices import Choice, Plan
from differseg_med.planning.fingerprint import Fingerprint, Spread
from differseg_med.planning.terminology import Terms
from differseg_med.prediction.quality import Fingerprint as Ranges

PLAN, FINGERPRINT, QUALITY = "docs/PLAN.md", "docs/fingerprint.json", "models/fingerprint.json"

_VERSIONS = {
    "monai_version": "monai",
    "pytorch_version": "torch",
    "numpy_version": "numpy",
    "differseg_version": "differseg-med",
    "nibabel_version": "nibabel",
    "ignite_version": "pytorch-ignite",
    "itk_version": "SimpleITK",
    "timm_version": "timm",
}


def write_plan(
    folder: str | Path,
    plan: Plan,
    terms: Terms,
    *,
    flat: bool,
    fingerprint: Fingerprint | None = None,
    commands: Sequence[str] = (),
) -> Path:
    """Write the bundle of a plan.

    Args:
        folder: the bundle, which is not there yet.
        plan: its values and reasons.
        terms: what its masks show.
        flat: whether its images are 2-D images.
        fingerprint: of the training cases; None for a plan without data.
        commands: that come next.
    """
    folder = Path(folder)
    values = {name: choice.value for name, choice in plan.choices.items()}
    shown = [choice for choice in plan.choices.values() if choice.name != "modalities"]
    modalities: dict[str, dict[str, Any]] = values["modalities"]
    fields: dict[str, object] = {name: one_line(value) for name, value in values.items()} | {
        **FILL_IN,
        **(channel_fields(values["modalities"]) if flat else _volume_fields(values)),
        **{name: _version(package) for name, package in _VERSIONS.items()},
        "title": title_of(folder),
        "folder": folder.name,
        "target": terms.label,
        "names": " and ".join(modalities),
        "inputs": ", ".join(f"{name} ({label_of(entry['kind'])})" for name, entry in modalities.items()),
        "modalities": "\n".join(f"  {one_line(name)}: {one_line(entry)}" for name, entry in modalities.items()),
        "segment": json.dumps(terms.block(), indent=2).replace("\n", "\n  "),
        "quality": f"$@bundle_root + '/{QUALITY}'" if fingerprint else "null",
        "why": f"Every value with its reason: [PLAN.md](PLAN.md). {terms.note}\n\n{_rows(shown)}",
        "input_rows": input_rows(modalities),
    }
    write_bundle("image2d" if flat else "volume", folder, fields)
    write_text(folder / PLAN, "\n".join(_page(folder, plan, terms, fingerprint, commands)) + "\n")
    if fingerprint is not None:
        fingerprint.write(folder / FINGERPRINT)
        if not flat:
            _ranges(fingerprint, values["reference"]).write(folder / QUALITY)
    return folder


def _volume_fields(values: Mapping[str, Any]) -> dict[str, object]:
    """Fields about slabs."""
    count, step = values["num_slices"], values["slice_step"]
    offsets = [step * (number - count // 2) for number in range(count)]
    lines = [
        f"{name} slice z{offset:+d}" if offset else f"{name} slice z"
        for name in values["modalities"]
        for offset in offsets
    ]
    channels = [count] * len(values["modalities"])
    return {"in_channels": channels, "num_channels": len(lines), "channel_def": channel_def(lines)}


def _ranges(fingerprint: Fingerprint, reference: str) -> Ranges:
    """What quality flags compare with until a training has measured it on the network's grid."""
    facts, label = fingerprint.modalities[reference], fingerprint.label
    spacings = [value for spread in facts.spacing_mm for value in (spread.lowest, spread.highest)]
    measures = {
        "volume_ml": (label.volume_ml.lowest, label.volume_ml.highest),
        "pieces": (label.components.lowest, label.components.highest),
        "spacing_finest_mm": (min(s.lowest for s in facts.spacing_mm), min(s.highest for s in facts.spacing_mm)),
        "spacing_coarsest_mm": (max(s.lowest for s in facts.spacing_mm), max(spacings)),
    }
    return Ranges(fingerprint.cases, measures, {name: f.cases for name, f in fingerprint.modalities.items()})


def _page(
    folder: Path, plan: Plan, terms: Terms, fingerprint: Fingerprint | None, commands: Sequence[str]
) -> list[str]:
    lines = [f"# Plan of {folder.name}", ""]
    if fingerprint is None:
        lines += [
            "Made by `differseg-med new` without data: the values are defaults. `differseg-med plan` measures.",
            "",
        ]
    else:
        lines += ["Made by `differseg-med plan` from the training cases and this machine.", ""]
        lines += ["## What the training cases measure", "", *_measured(fingerprint), ""]
    lines += ["## What the mask shows", "", terms.note, ""]
    lines += ["## Modalities", "", "| modality | setting |", "|---|---|"]
    lines += [f"| {name} | `{one_line(entry)}` |" for name, entry in plan.choices["modalities"].value.items()]
    lines += ["", plan.choices["modalities"].reason.replace("; **", ".\n**") + ".", ""]
    lines += ["## Choices", "", _rows([c for c in plan.choices.values() if c.name != "modalities"]), ""]
    lines += ["To change one: `differseg-med plan ... --set name=value`, or edit `configs/`.", ""]
    return lines + (["## Next", "", *(f"    {command}" for command in commands)] if commands else [])


def _measured(fingerprint: Fingerprint) -> list[str]:
    label = fingerprint.label
    lines = [
        f"{fingerprint.cases} cases of {fingerprint.subjects} patients; {fingerprint.incomplete} lack some modality"
        + (f"; {fingerprint.left_out} could not be read and are left out" if fingerprint.left_out else "")
        + (f"; {label.empty} labels are empty" if label.empty else "")
        + f". All figures: `{Path(FINGERPRINT).name}`.",
        "",
        "| what | lowest | median | highest |",
        "|---|---|---|---|",
        _figures("share of the image that the target fills, where it is", label.slice_share),
        _figures("components of the target", label.components),
    ]
    if not fingerprint.flat:
        lines += [
            _figures("volume of the target (ml)", label.volume_ml),
            _figures("diameter of what must be found (mm)", label.diameter_mm),
        ]
        for name, facts in fingerprint.modalities.items():
            lines += [_figures(f"{name}: voxel {axis} (mm)", s) for axis, s in zip("RAS", facts.spacing_mm)]
            lines.append(_figures(f"{name}: field of view (ml)", facts.field_ml))
    lines += [
        "",
        "| modality | kind | cases | with the label on its grid | target: 5 %, median, 95 % |",
        "|---|---|---|---|---|",
    ]
    for name, facts in fingerprint.modalities.items():
        grey = ", ".join(f"{facts.foreground[p]:.4g}" for p in ("p5", "p50", "p95")) if facts.foreground else "-"
        lines.append(f"| {name} | {label_of(facts.kind)} | {facts.cases} | {facts.on_label_grid} | {grey} |")
    judged, off = fingerprint.aligned
    if judged:
        lines += ["", f"Alignment: {off} of {judged} compared pairs of images are not registered."]
    return lines


def _figures(what: str, spread: Spread) -> str:
    return f"| {what} | {spread.lowest:.3g} | {spread.median:.3g} | {spread.highest:.3g} |"


def _rows(choices: Sequence[Choice]) -> str:
    lines = ["| name | value | why |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{c.name}` | {one_line(c.value)} | {c.reason} |" for c in choices)])


def _version(package: str) -> str:
    return version(package).partition("+")[0]
