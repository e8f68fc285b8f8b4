"""Run a bundle: the same as ``python -m monai.bundle run``, with less to type and errors in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from differseg_med.bundles.arguments import Problem
from differseg_med.bundles.configuration import SEP, Configuration
from differseg_med.bundles.failures import explained
from differseg_med.bundles.lint import check_links, check_trust
from differseg_med.bundles.manifest import check_manifest
from differseg_med.bundles.preflight import preflight_of
from differseg_med.bundles.reading import read_config
from differseg_med.bundles.values import as_device, as_value
from differseg_med.errors import CaseError
from differseg_med.runs.manifest import configured

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleRun:
    """Configurations of a bundle, and what they are run on.

    Args:
        bundle: folder of the bundle.
        configs: names in its ``configs`` folder without ending, for example ``["inference", "evaluate"]``, or paths of
            other YAML files, such as presets; later ones over earlier ones.
        cohort: cohort table.
        output_dir: folder of the results.
        options: entries of the configuration, or arguments of its components, to set; None leaves them as they are.
        settings: more of them, by name or as ``name=value`` with a YAML value.
        trust: run configurations whatever they name, see `differseg_med.bundles.lint`.
    """

    bundle: str | Path
    configs: Sequence[str]
    cohort: str | Path
    output_dir: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] | Sequence[str] = ()
    trust: bool = False

    def open(self) -> Workflow:
        """The MONAI workflow, checked, not yet initialized.

        Raises:
            CaseError: for a configuration that is not there or names what may not run, a bundle that is not the one of
                its manifest, or a setting that is no ``name=value`` of a known name.
            ConfigError: for an entry that cannot be right.
        """
        files = [_existing(Path(self.bundle) / "configs", name) for name in self.configs]
        if self.trust:
            logger.warning("--trust: the bundle is run as it is, and may run any program and open any file")
        else:
            check_trust([*files, *filter(Path.is_file, [Path(self.bundle) / "configs" / "metadata.json"])])
            check_links(self.bundle)
            check_manifest(self.bundle)
        given = self.settings
        if isinstance(given, Mapping):
            parsed = {name: as_value(value) for name, value in given.items()}
        else:
            parsed = dict(map(_parsed, given))
        with _quiet(self.trust):
            workflow = (Workflow if self.trust else _Judged)(
                config_file=[str(file) for file in files],
                meta_file=str(Path(self.bundle) / "configs" / "metadata.json"),
                logging_file=False,
                workflow_type="train" if "train" in self.configs else "inference",
                bundle_root=as_value(Path(self.bundle)),
                cohort=as_value(Path(self.cohort)),
                output_dir=as_value(Path(self.output_dir)),
            )
            configuration = Configuration(workflow.parser, files)
            for name, value in self.options.items():
                if value is not None:
                    wanted = as_device(str(value)) if name == "device" else as_value(value)
                    _set(configuration, name, wanted, f"--{name}")
            for name, value in parsed.items():
                _set(configuration, name, value, "--set")
            configuration.check()
        workflow.configuration = configuration
        return workflow

    def run(self) -> Workflow:
        """Run it to the end.

        Returns:
            The workflow, whose components have the results.

        Raises:
            CaseError: for what stopped the run; cases that fail do not.
            SystemExit: from ``finalize``, if a case failed.
        """
        workflow = self.open()
        with configured(workflow.parser.get()):
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        return workflow

    def preflight(self) -> list[str]:
        """Try everything that can stop the run, see `differseg_med.bundles.preflight`; what it would do, in lines.

        Raises:
            CaseError: for what would stop it.
        """
        workflow = self.open()
        workflow.initialize()
        kinds = [kind for kind in ("train", "evaluate") if kind in self.configs]
        with readable(workflow.configuration):
            return preflight_of(workflow.parser, (kinds or ["inference"])[0])


class Workflow(ConfigWorkflow):
    """MONAI's workflow that says in one line what stops it; ``monai.bundle.create_workflow`` takes it by name."""

    configuration: Configuration | None = None

    def initialize(self) -> Any:
        """Evaluate ``initialize``.

        Raises:
            CaseError: for what stopped it, also in `run` and `finalize`.
        """
        with readable(self.configuration):
            return super().initialize()

    def run(self) -> Any:
        """Evaluate ``run``."""
        with readable(self.configuration):
            return super().run()

    def finalize(self) -> Any:
        """Evaluate ``finalize``."""
        with readable(self.configuration):
            return super().finalize()


@contextmanager
def readable(configuration: Configuration | None = None) -> Iterator[None]:
    """Raise the `CaseError` behind an exception that MONAI wrapped; others pass.

    Raises:
        CaseError: see `explained`.
    """
    try:
        yield
    except Exception as error:
        found = explained(error, configuration)
        if found is None or found is error:
            raise
        raise found from None


class _Judged(Workflow):
    """The workflow without what a bundle's folder could bring besides its configurations."""

    def run(self) -> Any:
        """As MONAI's, but the bundle's folder is no place to import from: its ``requests.py`` would be ours."""
        with readable(self.configuration):
            return self._run_expr(id=self.run_id)


@contextmanager
def _quiet(trust: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if not trust:  # MONAI warns on every run that configurations execute code: these were judged
            warnings.simplefilter("ignore", UserWarning)
        yield


def _existing(folder: Path, name: str) -> Path:
    file = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not file.is_file():
        raise CaseError("there is no such configuration", file=file, remedy="Check the path of the bundle or preset.")
    content = read_config(file)
    if not isinstance(content, dict):
        raise CaseError("the configuration has no entries", file=file, expected="name: value", found=type(content))
    return file


def _parsed(setting: str) -> tuple[str, Any]:
    name, equals, value = setting.partition("=")
    name = name.strip().replace("#", SEP)
    # Names that begin with an underscore are MONAI's own: _target_ makes code of a value.
    if not equals or not name or any(part.startswith("_") for part in name.split(SEP)):
        raise CaseError(
            f"--set {setting} is not understood",
            expected="name=value, the name of an entry",
            remedy="Write components and expressions into a file and give it as --preset.",
        )
    try:
        return name, as_value(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise CaseError(f"--set {setting} is not understood", expected="a YAML value after =") from error


def _set(configuration: Configuration, name: str, value: Any, given: str) -> None:
    """Set an entry of that name, or else the argument of that name of the one component that has it."""
    parser = configuration.parser
    place = name if name.split(SEP)[0] in parser else _argument(configuration, name, value, given)
    above, _, key = place.rpartition(SEP)
    held = parser.get(above) if above else parser.config
    if (isinstance(held, list) and not (key.isdigit() and int(key) < len(held))) or not isinstance(held, (dict, list)):
        raise configuration.error(above or place, Problem("", f"it has no entry {key!r}", "", f"{given} {place}"))
    parser[place] = value
    configuration.given[place] = given
    if place not in configuration.read_entries():
        raise CaseError(
            f"{given} {name}: nothing in this run reads {name!r}",
            file=configuration.files[-1],
            remedy="Leave it out, or set the argument that is meant: component::argument=value.",
        )


def _argument(configuration: Configuration, name: str, value: Any, given: str) -> str:
    found = configuration.candidates(name)
    training = [place for place in found if place.startswith(f"train{SEP}")]  # in a training, it comes first
    found = training or found
    if len(found) == 1:
        return found[0]
    if given != "--set" and not found:
        raise CaseError(
            f"the bundle has no entry {name!r}", file=configuration.files[0], remedy="Leave the option out."
        )
    known = sorted(key for key in configuration.parser.config or {} if not key.startswith("_"))
    raise CaseError(
        f"{given} {name}={value} is not understood",
        expected=f"one of {', '.join(found)}" if found else f"name=value, name one of {', '.join(known)}",
        remedy="See the bundle's configs for what each entry means; component::argument=value sets any argument.",
    )


def declared_modalities(bundle: str | Path) -> tuple[str, ...]:
    """The modalities that a bundle declares, in order."""
    file = _existing(Path(bundle) / "configs", "inference")
    return tuple(yaml.safe_load(file.read_text(encoding="utf-8"))["modalities"])
