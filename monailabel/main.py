"""An app for MONAI Label that serves a bundle of differseg_med with several modalities.

MONAI Label needs another pydicom than differseg_med, so each runs in an environment of its own: nothing of it is
imported here, its commands ``describe`` and ``predict`` are called. See docs/howto/monai_label.md.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_ENTRY = "from differseg_med.cli import app; app()"


def said(status: int, text: str) -> HTTPException:
    """An answer that clients show; other exceptions reach them without words."""
    return HTTPException(status_code=status, detail=text)


def parted(name: str, modalities: Sequence[str]) -> tuple[str, str]:
    """What is before the modality in the name of an image, and the modality: ``("a_", "t1")`` of ``a_t1``.

    Raises:
        HTTPException: if the name does not end in one.
    """
    for modality in sorted(modalities, key=len, reverse=True):
        if name == modality or name.endswith((f"_{modality}", f"-{modality}")):
            return name[: len(name) - len(modality)], modality
    ends = ", ".join(f"_{modality}" for modality in modalities)
    raise said(400, f"No modality is known of image {name}: its name must end in one of {ends}.")


def files_of_case(image: Path, modalities: Sequence[str]) -> tuple[str, dict[str, Path]]:
    """The modality of an image, and the files of its case that lie beside it; what is not there is missing."""
    suffix = next((suffix for suffix in SUFFIXES if image.name.endswith(suffix)), "")
    before, opened = parted(image.name.removesuffix(suffix), modalities)
    candidates = [(name, image.with_name(f"{before}{name}{ending}")) for name in modalities for ending in SUFFIXES]
    return opened, {name: path for name, path in reversed(candidates) if path.is_file()} | {opened: image}


class Program:
    """The commands of differseg_med, in its own environment.

    Args:
        python: of that environment.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        # Its commands for a PACS take user and password from the environment, as MONAI Label does, by other names.
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        self._login = {"DIFFERSEG_PACS_USER": user, "DIFFERSEG_PACS_PASSWORD": password} if user and password else {}

    def __call__(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            HTTPException: with its last line, if it failed.
        """
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        here = Path(__file__).resolve().parent  # MONAI Label adds this folder, which has a module "main"
        kept = os.pathsep.join(path for path in paths if path and Path(path).resolve() != here)
        words = [self._python, "-c", _ENTRY, *arguments]
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **self._login, "PYTHONPATH": kept},
            )
        except OSError as error:
            raise said(500, f"differseg_med cannot be started: {error.strerror}") from error
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise said(500, lines[-1] if lines else "differseg_med said nothing")
        return done.stdout


class Folder:
    """Cases whose files lie in one folder.

    Args:
        modalities: of the bundle.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self._modalities = modalities

    def case_of(self, image: Path, folder: Path) -> tuple[str, list[str]]:
        """The modality of the image that is open, and the options of ``predict`` that name its case."""
        opened, files = files_of_case(image, self._modalities)
        return opened, [word for name, path in files.items() for word in ("--image", f"{name}={path}")]


class Study:
    """Cases that are studies of a PACS: rules say which series is which modality, as for ``cohort scan``.

    Args:
        program: fetches the study and applies the rules.
        url: root of the DICOMweb service.
        client: MONAI Label's, which knows the study of a series.
        rules: file of rules; blank for the default ones.
        modalities: of the bundle.
    """

    def __init__(self, program: Program, url: str, client: Any, rules: str, modalities: Sequence[str]) -> None:
        self._program, self._url, self._client = program, url, client
        self._rules, self._modalities = ["--rules", rules] if rules else [], modalities

    def case_of(self, image: Path, folder: Path) -> tuple[str, list[str]]:
        """As `Folder.case_of`; ``image`` is called after its series, and the study is fetched into ``folder``."""
        series = next((image.name.removesuffix(end) for end in SUFFIXES if image.name.endswith(end)), image.name)
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": series})
        studies = {entry["0020000D"]["Value"][0] for entry in found if entry["0020000E"]["Value"] == [series]}
        if len(studies) != 1:
            raise said(404, "The server knows no such series.")
        self._program("pacs", "pull", self._url, *studies, "--out", str(folder / "images"), *_PULLED)
        table = folder / "cohort.csv"
        wanted = ["--modalities", ",".join(self._modalities)]
        self._program("cohort", "scan", str(folder / "images"), "--out", str(table), *self._rules, *wanted)
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if len(rows) != 1:
            raise said(400, f"The rules find {len(rows)} cases in the study: see docs/howto/monai_label.md.")
        for modality in self._modalities:
            if (cell := rows[0].get(modality)) and series_of(table.parent, cell) == series:
                return modality, ["--cohort", str(table)]
        raise said(400, "The rules take another series of the study, or none, for each modality of the bundle.")


_PULLED = [word for modality in ("MR", "CT", "PT") for word in ("--modality", modality)]
"""What of a study is fetched: images, and no segmentations."""


def series_of(folder: Path, cell: str) -> str:
    """The SeriesInstanceUID of an entry of a cohort table."""
    path, _, chosen = cell.partition("::")
    place = folder / path
    file = place if place.is_file() else next(file for file in sorted(place.rglob("*")) if file.is_file())
    return chosen or str(pydicom.dcmread(file, stop_before_pixels=True).SeriesInstanceUID)


class Segmentation(InferTask):
    """The bundle as a model of MONAI Label."""

    def __init__(
        self,
        program: Program,
        bundle: str,
        described: dict[str, Any],
        options: Sequence[str],
        source: Folder | Study,
    ) -> None:
        label = described["target"]["label"]
        super().__init__(InferType.SEGMENTATION, {label: 1}, 3, described["description"])
        self._program, self._bundle, self._options = program, bundle, options
        self._source, self._reference = source, described["reference"]

    def is_valid(self) -> bool:
        """Whether it can be called; the bundle was looked at when the server started."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The mask as a file on the grid of the image that was asked for, and what its row of summary.csv says."""
        image = Path(request["image"]) if request.get("image") else None
        if image is None or not image.exists():
            raise said(404, "There is no such image.")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "results"
            opened, words = self._source.case_of(image, Path(folder))
            grid = [] if opened == self._reference else ["--set", f"reference={opened}"]
            self._program("predict", "--bundle", self._bundle, "--out", str(out), *words, *grid, *self._options)
            (mask,) = out.glob("*/mask.nii.gz")
            with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
                row = next(csv.DictReader(file))
            number, copy = tempfile.mkstemp(suffix=".nii.gz")  # MONAI Label removes it when it is sent
            os.close(number)
            shutil.copyfile(mask, copy)
        facts = {name: row[name] for name in ("modalities", "volume_ml", "flags", "notes") if row.get(name)}
        return copy, {"label_names": self.labels, **facts}


class Cases(LocalDatastore):
    """A folder of images that lists one per case: of the reference modality, or the first that is there."""

    def __init__(self, folder: str, described: dict[str, Any]) -> None:
        names = [modality["name"] for modality in described["modalities"]]
        self._names, first = names, described["reference"]
        self._order = [first, *(name for name in names if name != first)]
        super().__init__(
            folder,
            extensions=[f"*{suffix}" for suffix in SUFFIXES],
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _one_per_case(self, images: Sequence[str]) -> list[str]:
        every = set(super().list_images())

        def is_first(image: str) -> bool:
            try:
                before, modality = parted(image, self._names)
            except HTTPException:
                return False  # an image of something else
            return modality == next(name for name in self._order if f"{before}{name}" in every)

        return [image for image in images if is_first(image)]

    def list_images(self) -> list[str]:
        """Ids of images, one per case."""
        return self._one_per_case(super().list_images())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Those without a final label, one per case."""
        return self._one_per_case(super().get_unlabeled_images(label_tag, labels))


class DifferSegApp(MONAILabelApp):
    """``--conf bundle FOLDER --conf python PYTHON``, and optionally ``--conf device cpu --conf set threshold=0.4``.

    Of a PACS also ``--conf rules FILE``: which series is which modality.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if missing := [name for name in ("bundle", "python") if not conf.get(name)]:
            raise SystemExit(f"Give --conf {missing[0]}: see docs/howto/monai_label.md.")
        self._program = Program(conf["python"])
        self._described = json.loads(self._program("describe", conf["bundle"], "--json"))
        words = {"device": "--device", "set": "--set"}
        self._options = [word for name, option in words.items() if conf.get(name) for word in (option, conf[name])]
        found = self._described
        super().__init__(app_dir, studies, conf, found["name"], found["description"], found["version"])

    def init_infers(self) -> dict[str, InferTask]:
        """The bundle, called ``differseg``."""
        names = [modality["name"] for modality in self._described["modalities"]]
        store = self.datastore()
        source: Folder | Study = Folder(names)
        if isinstance(store, DICOMWebDatastore):
            source = Study(self._program, self.studies, store._client, self.conf.get("rules", ""), names)
        return {"differseg": Segmentation(self._program, self.conf["bundle"], self._described, self._options, source)}

    def init_datastore(self) -> LocalDatastore:
        """A folder, or MONAI Label's own of a PACS, which lists series by ``MONAI_LABEL_DICOMWEB_SEARCH_FILTER``."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return Cases(self.studies, self._described)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Refused in words: a training needs folds and hours, and is judged before anybody uses it."""
        raise said(400, "This app does not train. Train with `differseg-med train`, then serve the new bundle.")
