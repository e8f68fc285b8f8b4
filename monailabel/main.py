"""An app for MONAI Label that serves a bundle of differseg_med with several modalities.

MONAI Label needs another pydicom than differseg_med, so each runs in an environment of its own: nothing of it is
imported here, its commands ``describe``, ``predict`` and ``train`` are called. See docs/howto/monai_label.md.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from differseg_shared import SUFFIXES, Program, ending_of, files_of_case, parted, said
from differseg_train import Training, Weights
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask


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
        series = image.name.removesuffix(ending_of(image))
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
        weights: Weights,
    ) -> None:
        label = described["target"]["label"]
        super().__init__(InferType.SEGMENTATION, {label: 1}, 3, described["description"])
        self._program, self._bundle, self._options = program, bundle, options
        self._source, self._reference, self._weights = source, described["reference"], weights

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
            training, weights = self._weights.in_use()
            options = [*words, *grid, *self._options, *weights]
            self._program("predict", "--bundle", self._bundle, "--out", str(out), *options)
            (mask,) = out.glob("*/mask.nii.gz")
            with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
                row = next(csv.DictReader(file))
            number, copy = tempfile.mkstemp(suffix=".nii.gz")  # MONAI Label removes it when it is sent
            os.close(number)
            shutil.copyfile(mask, copy)
        facts = {name: row[name] for name in ("modalities", "volume_ml", "flags", "notes") if row.get(name)}
        return copy, {"label_names": self.labels, "weights": training or "of the bundle", **facts}


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
        self._weights = Weights(Path(app_dir) / "model", Path(conf["bundle"]), found["version"])
        super().__init__(app_dir, studies, conf, found["name"], found["description"], found["version"])

    def init_infers(self) -> dict[str, InferTask]:
        """The bundle, called ``differseg``."""
        names = [modality["name"] for modality in self._described["modalities"]]
        store = self.datastore()
        source: Folder | Study = Folder(names)
        if isinstance(store, DICOMWebDatastore):
            source = Study(self._program, self.studies, store._client, self.conf.get("rules", ""), names)
        shown = (self._described, self._options, source, self._weights)
        return {"differseg": Segmentation(self._program, self.conf["bundle"], *shown)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """The training of the bundle, under the same name."""
        given = (self._described, self._options, self._weights)
        return {"differseg": Training(self._program, self.conf["bundle"], *given)}

    def init_datastore(self) -> LocalDatastore:
        """A folder, or MONAI Label's own of a PACS, which lists series by ``MONAI_LABEL_DICOMWEB_SEARCH_FILTER``."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return Cases(self.studies, self._described)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """As MONAI Label's; where it has started a process for the training, a failure ends that with one sentence.

        Raises:
            HTTPException: with the sentence, if the training was asked of the server itself.
        """
        try:
            return super().train(request)
        except HTTPException as error:
            if getattr(sys.modules["__main__"].__spec__, "name", "") == "monailabel.interfaces.utils.app":
                raise SystemExit(str(error.detail)) from error
            raise
