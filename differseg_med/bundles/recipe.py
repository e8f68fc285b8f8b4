"""What a training was started with, kept beside its results, so that a bundle can be made of them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from differseg_med.atomic import replacing, write_text
from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError

FOLDER = "recipe"
"""In the folder of a run: ``bundle/`` (its configurations and card, no weights), ``presets/0.yaml`` ..., settings."""

RECIPE_SETTINGS = "settings.json"
RECIPE_PLACES = ("initial_weights", "checkpoint", "cache_dir", "cohort", "output_dir", "device", "resume")
"""Settings of one run, which no bundle is made with."""


@dataclass(frozen=True)
class Recipe:
    """A bundle's folder, and what was given over it.

    Args:
        bundle: the folder.
        presets: configurations over the bundle's.
        settings: entries, by name or ``name=value``.
    """

    bundle: Path
    presets: tuple[Path, ...] = ()
    settings: Mapping[str, Any] | tuple[str, ...] = ()

    def run(self, *configs: str) -> BundleRun:
        """A run of configurations of the bundle with the presets and settings over them."""
        names = [*configs, *map(str, self.presets)]
        return BundleRun(self.bundle, names, self.bundle, self.bundle, settings=self.settings)

    def merged(self) -> ConfigParser:
        """The inference with the presets over it, parts of the training that they bring too."""
        parser = ConfigParser()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on those parts
            parser.read_config([str(self.bundle / "configs" / "inference.yaml"), *map(str, self.presets)])
        return parser


def keep_recipe(run: BundleRun, out: str | Path) -> None:
    """Copy what a run was started with into its folder."""
    bundle, folder = Path(run.bundle), Path(out) / FOLDER
    names = ("*.yaml", "metadata.json", "logging.conf")
    sources = [path for name in names for path in (bundle / "configs").glob(name)]
    sources += [*bundle.glob("LICENSE*"), *(path for path in (bundle / "docs").rglob("*") if path.is_file())]
    for source in sources:
        if source.is_file():
            _copy(source, folder / "bundle" / source.relative_to(bundle))
    presets = [Path(name) for name in run.configs if name.endswith(".yaml")]
    for number, preset in enumerate(presets):
        _copy(preset, folder / "presets" / f"{number}.yaml")
    given = run.settings
    kept = (
        {name: value for name, value in given.items() if _kept(name)}
        if isinstance(given, Mapping)
        else [text for text in given if _kept(text.partition("=")[0])]
    )
    write_text(folder / RECIPE_SETTINGS, json.dumps(kept, indent=1, default=str) + "\n")


def read_recipe(out: str | Path) -> Recipe:
    """What `keep_recipe` kept.

    Raises:
        CaseError: if the folder has none.
    """
    folder = Path(out) / FOLDER
    try:
        settings = json.loads((folder / RECIPE_SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(
            "the folder does not say which bundle was trained",
            file=out,
            expected="the folder of a finished training, or of folds",
            remedy="Name it with --bundle, and the --preset and --set of the training.",
        ) from error
    presets = sorted((folder / "presets").glob("*.yaml"), key=lambda path: int(path.stem))
    return Recipe(
        folder / "bundle", tuple(presets), settings if isinstance(settings, dict) else tuple(map(str, settings))
    )


def _kept(name: str) -> bool:
    return name.strip().split("::")[-1] not in RECIPE_PLACES


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def yaml_entry(name: str, value: Any) -> str:
    """An entry of a configuration as text, nested values in one line each where that is short."""
    entry = {name: value}
    flow = None if isinstance(value, dict | list) else False  # a single value would stand in braces
    text: str = yaml.safe_dump(entry, default_flow_style=flow, sort_keys=False, width=110, allow_unicode=True)
    return text
