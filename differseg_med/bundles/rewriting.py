"""The configurations of a bundle with what a training had over them: the files of a bundle to ship."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from monai.bundle import ConfigParser

from differseg_med.bundles.configuration import SEP
from differseg_med.bundles.recipe import Recipe, yaml_entry
from differseg_med.bundles.workflows import Workflow

ENTRY = re.compile(r"^(\+?[A-Za-z_][\w:]*):")
"""The first line of an entry of a configuration."""

START_ONLY = ("encoder_weights", "pretrained", "freeze_encoder", "freeze_stages")
"""Arguments of the network that only decide how a training starts."""


def released_configs(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, str]:
    """The texts of ``inference.yaml`` and ``train.yaml``, with presets, settings and changes merged into them.

    Entries that stay as they are keep their remarks; those of others go, as they may be wrong now.

    Args:
        recipe: bundle, presets and settings of the training.
        changes: entries of the inference, by place (``postprocessing::largest_only``).

    Raises:
        CaseError: if the configuration cannot be read.
    """
    trained = recipe.run("inference", "train").open()
    texts = {name: (recipe.bundle / "configs" / f"{name}.yaml").read_text(encoding="utf-8") for name in _FILES}
    own = {name: yaml.safe_load(text) for name, text in texts.items()}
    inference = _merged(recipe, trained, own["train"])
    for place, value in changes.items():
        inference[place] = value
    base, training = _entries(inference), _entries(trained.parser)
    if isinstance(network := base.get("network_def"), dict):
        base["network_def"] = {name: value for name, value in network.items() if name not in START_ONLY}
        start = {name: value for name, value in training["network_def"].items() if name in START_ONLY}
        training |= {"+network_def": {**own["train"].get("+network_def", {}), **start}} if start else {}
    for name, entries, content in (("device", base, own["inference"]), ("initialize", training, own["train"])):
        entries |= {name: content[name]} if name in content else {}  # of presets, they say where and how it was trained
    found = {
        "inference": {name: base[name] for name in own["inference"] if name in base},
        "train": {name: training[name] for name in own["train"] if name in training},
    }
    known = {name.lstrip("+") for content in own.values() for name in content}
    named = "".join(yaml_entry(name, value) for name, value in found["inference"].items())
    for name, value in training.items():
        if name.lstrip("+") not in known and name not in ("cohort", "output_dir"):  # an entry that a preset brought
            found["inference" if f"@{name}" in named else "train"][name] = value
    remarks = {"threshold": "chosen on out-of-fold predictions"} if "threshold" in changes else {}
    return {name: with_entries(texts[name], _changed(own[name], found[name]), remarks) for name in _FILES}


_FILES = ("inference", "train")
_GIVEN = ("bundle_root", "cohort", "output_dir")
"""Entries that each run sets."""


def _merged(recipe: Recipe, trained: Workflow, train: Mapping[str, Any]) -> ConfigParser:
    """The entries of the inference with presets and settings, but without those of ``train.yaml``."""
    parser = recipe.merged()
    given = trained.configuration.given if trained.configuration else {}
    for place in given:
        if place.split(SEP)[0] in parser and place.split(SEP)[0] not in train:
            parser[place] = trained.parser.get(place)
    return parser


def _entries(parser: ConfigParser) -> dict[str, Any]:
    return {name: value for name, value in parser.get().items() if not name.startswith("_") and name not in _GIVEN}


def _changed(own: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in own or own[name] != value}


def with_entries(text: str, entries: Mapping[str, Any], remarks: Mapping[str, str] | None = None) -> str:
    """A configuration in which entries have other values; those that it did not have are added at the end.

    Args:
        text: YAML whose entries begin at the margin.
        entries: by name.
        remarks: behind changed entries; theirs go, as they may be wrong now.
    """
    lines, out, left = text.splitlines(keepends=True), list[str](), dict(entries)
    skipping = False
    for line in lines:
        if match := ENTRY.match(line):
            skipping = match[1] in left
            if skipping:
                value = left.pop(match[1])
                new = (remarks or {}).get(match[1])  # what stood there was said of the old value
                remark = f"   # {new}" if new else ""
                out.append(yaml_entry(match[1], value).rstrip("\n") + remark + "\n")
                continue
        elif not line.strip() or line.startswith("#"):
            skipping = False
        if not skipping:
            out.append(line)
    return "".join([*out, *(yaml_entry(name, value) for name, value in left.items())])
