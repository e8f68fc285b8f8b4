"""The task of ``/train``: ``differseg-med train`` on the final labels of the datastore, from the bundle's weights."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from differseg_shared import Program, ending_of, files_of_case, parted, said
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask

logger = logging.getLogger(__name__)

NEEDED = 2
"""Labelled cases: one to train on, one to validate."""
CONFIG = {"max_epochs": 4, "learning_rate": 0.0005, "val_split": 0.2, "publish": False}
"""What clients show and send back. Epochs and rate: ``ms_lesion_mri_segmentation`` was fine-tuned with them."""
LIMITS: dict[str, tuple[float, float, type]] = {
    "max_epochs": (1, 1000, int),
    "learning_rate": (1e-6, 0.1, float),
    "val_split": (0.05, 0.5, float),
    "iterations": (1, 1000, int),
    "train_batch_size": (1, 128, int),
}
"""Smallest and largest value, and the kind of number; the last two are the bundle's own where a request has none."""
SETTINGS = {"train_batch_size": "batch_size"} | {name: name for name in ("max_epochs", "learning_rate", "iterations")}
"""Names in a request and in the bundle's ``train.yaml``."""
OF_MONAI_LABEL = {"model", "gpus", "local_rank", "bundle_path"}
"""What MONAI Label itself adds to a request."""


class Weights:
    """Trainings of a bundle in the app's folder, and which of them ``/infer`` uses.

    Args:
        folder: MONAI Label's own for models.
        bundle: folder of the bundle.
        version: of the bundle: weights of one version are not used with another.
    """

    def __init__(self, folder: Path, bundle: Path, version: str) -> None:
        self._folder = folder / f"{bundle.resolve().name}-{version}"
        self._published = self._folder / "published.json"
        self.stats_file = self._folder / "train_stats.json"

    def new_training(self) -> Path:
        """An empty folder, called after the time."""
        while True:
            folder = self._folder / datetime.now().strftime("%Y%m%d-%H%M%S")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                time.sleep(1)
            else:
                return folder

    def publish(self, training: Path) -> None:
        """Use the weights of a training from now on."""
        write_json(self._published, {"training": training.name})

    def in_use(self) -> tuple[str, list[str]]:
        """The training in use and the options of ``predict`` for it; nothing for the weights of the bundle."""
        if not self._published.is_file():
            return "", []
        training = json.loads(self._published.read_text(encoding="utf-8"))["training"]
        return training, ["--set", setting("checkpoint", weights_of(self._folder / training))]


def weights_of(training: Path) -> Path:
    """The averaged weights of the best validation."""
    return training / "run" / "best.pt"


def setting(name: str, value: object) -> str:
    """``name=value`` of a path or number as YAML, whatever characters a path has."""
    shown = f"{value:.7f}" if isinstance(value, float) else str(value)  # 1e-05 is a text to YAML
    return f"{name}={json.dumps(shown) if isinstance(value, Path) else shown}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file at once: the server may read it at any time."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    temporary.replace(path)


def options_of(request: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a request, those that it lacks from `CONFIG`.

    Raises:
        HTTPException: if one is none, or beyond its limits.
    """
    given = {**CONFIG, **request}
    found: dict[str, float] = {}
    for name in (name for name in LIMITS if name in given):
        low, high, kind = LIMITS[name]
        try:
            found[name] = kind(str(given[name]))  # forms of clients send texts
        except ValueError:
            found[name] = float("nan")
        if not low <= found[name] <= high:
            number = "a whole number" if kind is int else "a number"
            raise said(400, f"{name} is {given[name]}, but must be {number} from {low:g} to {high:g}.")
    return found


def publish_of(request: Mapping[str, Any]) -> bool:
    """Whether ``/infer`` shall use the new weights.

    Raises:
        HTTPException: if the request says neither.
    """
    said_so = str(request.get("publish", CONFIG["publish"])).lower()
    if said_so not in ("true", "false"):
        raise said(400, f"publish is {said_so}, but must be true or false.")
    return said_so == "true"


def labelled_cases(datastore: Datastore, modalities: Sequence[str]) -> list[dict[str, Path]]:
    """Files of the cases with a final label: the modalities that are there, and ``label``.

    In an order that stays the same and that names do not decide, as the first ones are for validation. Of several
    labels of a case that of the first modality counts.
    """
    found = dict[str, tuple[int, dict[str, Path]]]()
    for image in datastore.get_labeled_images():
        path = Path(datastore.get_image_uri(image))
        try:
            before, modality = parted(image, modalities)
        except HTTPException:
            continue  # an image of something else
        rank = modalities.index(modality)
        if before not in found or rank < found[before][0]:
            label = Path(datastore.get_label_uri(image, DefaultLabelTag.FINAL))
            found[before] = rank, {**files_of_case(path, modalities)[1], "label": label}
    return [found[before][1] for before in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())]


def write_cohort(folder: Path, cases: Sequence[Mapping[str, Path]], modalities: Sequence[str], validation: int) -> Path:
    """The table of a training, the first ``validation`` cases to validate.

    Cases are numbered and their files are links in ``folder``, so that neither the table nor a message of the
    training has the names of files, which may be those of patients.
    """
    table = folder / "cohort.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case_id", "subject_id", *modalities, "label", "split"], restval="")
        writer.writeheader()
        for number, files in enumerate(cases, 1):
            case = f"case_{number:03}"
            place = folder / "cases" / case
            place.mkdir(parents=True)
            linked = {name: link(path, place / name).relative_to(folder).as_posix() for name, path in files.items()}
            split = "validation" if number <= validation else "train"
            writer.writerow({"case_id": case, "subject_id": case, "split": split, **linked})
    return table


def link(path: Path, place: Path) -> Path:
    """A link to a file, with the file's ending; a copy where there are no links."""
    target = place.with_name(f"{place.name}{ending_of(path) or path.suffix}")
    try:
        target.symlink_to(path)
    except OSError:
        shutil.copyfile(path, target)
    return target


class Progress:
    """Writes a line to the log per epoch, and the statistics that clients show meanwhile.

    Args:
        run: folder of the training.
        stats_file: of the statistics, in MONAI Label's names.
        epochs: how many there will be.
    """

    def __init__(self, run: Path, stats_file: Path, epochs: int) -> None:
        self._log, self._stats_file, self._epochs = run / "log.csv", stats_file, epochs
        self._start, self._told = time.time(), 0
        self._write([])

    def __call__(self) -> None:
        """Look whether epochs were finished since the last call."""
        rows = self._rows()
        for row in rows[self._told :]:
            score = f", validation Dice {float(row['val_dice']):.3f}" if row["val_dice"] else ""
            logger.info("epoch %s of %d: loss %.3f%s", row["epoch"], self._epochs, float(row["loss"]), score)
        if len(rows) > self._told:
            self._told = len(rows)
            self._write(rows)

    def finish(self) -> dict[str, Any]:
        """The statistics of a training that has ended."""
        return self._write(self._rows(), ended=True)

    def _rows(self) -> list[dict[str, str]]:
        if not self._log.is_file():
            return []
        with self._log.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: Sequence[Mapping[str, str]], ended: bool = False) -> dict[str, Any]:
        scores = [float(row["val_dice"]) for row in rows if row["val_dice"]]
        best = max((score for score in scores if math.isfinite(score)), default=None)
        passed = str(timedelta(seconds=int(time.time() - self._start)))
        stats = {
            "start_ts": int(self._start),
            "epoch": len(rows),
            "total_epochs": self._epochs,
            "best_metric": best or 0.0,  # clients draw it
            "val_mean_dice": best,
            "total_time" if ended else "current_time": passed,
        }
        write_json(self._stats_file, stats)
        return stats


class Training(TrainTask):
    """The bundle's training as a task of MONAI Label.

    Args:
        program: runs ``train``.
        bundle: folder of the bundle, whose weights the training starts from.
        described: what ``describe`` says of it.
        options: device and settings of the server.
        weights: where trainings lie, and which of them is used.
    """

    def __init__(
        self, program: Program, bundle: str, described: Mapping[str, Any], options: Sequence[str], weights: Weights
    ) -> None:
        super().__init__(f"Fine-tunes the bundle: {described['description']}")
        self._program, self._bundle, self._options, self._weights = program, bundle, options, weights
        names = [modality["name"] for modality in described["modalities"]]
        self._modalities = sorted(names, key=lambda name: name != described["reference"])  # the reference first

    def config(self) -> dict[str, Any]:
        """What a request may have, with the values of one that has it not."""
        return dict(CONFIG)

    def stats(self) -> dict[str, Any]:
        """Of the training that runs, or the last one."""
        path = self._weights.stats_file
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; see docs/howto/monai_label.md for the request and the answer.

        Raises:
            HTTPException: with one sentence, if the request, the labels or the training are not right.
        """
        if unknown := sorted(set(request) - {*CONFIG, *LIMITS, *OF_MONAI_LABEL}):
            logger.warning("not used of the request: %s", ", ".join(unknown))
        options, publish = options_of(request), publish_of(request)
        if isinstance(datastore, DICOMWebDatastore) or not isinstance(datastore, LocalDatastore):
            raise said(400, "This app trains on labels in a folder only: see docs/howto/monai_label.md.")
        cases = labelled_cases(datastore, self._modalities)
        if len(cases) < NEEDED:
            raise said(400, f"Too few cases have a final label: {len(cases)}, but training needs {NEEDED} at least.")
        validation = min(max(1, round(len(cases) * options["val_split"])), len(cases) - 1)
        training = self._weights.new_training()
        table = write_cohort(training, cases, self._modalities, validation)
        progress = Progress(training / "run", self._weights.stats_file, int(options["max_epochs"]))
        settings = {SETTINGS[name]: value for name, value in options.items() if name in SETTINGS}
        words = ["--cohort", str(table), "--out", str(training / "run"), *self._started_with(settings)]
        try:
            self._program.follow("train", *words, watch=progress)
        finally:
            shutil.rmtree(training / "run" / "cache", ignore_errors=True)  # preprocessed images
        stats = progress.finish()
        if publish:
            self._weights.publish(training)
        used = "the new weights" if publish else "the weights as before, as publish was not asked for"
        counts = {"train": len(cases) - validation, "validation": validation}
        logger.info("validation Dice %.3f, cases: %s. /infer uses %s", stats["best_metric"], counts, used)
        found = {"training": training.name, "weights": str(weights_of(training)), "published": publish}
        return {**stats, "cases": counts, **found}

    def _started_with(self, settings: Mapping[str, object]) -> list[str]:
        """Options of ``train`` for the bundle, from its weights on."""
        given = {"initial_weights": Path(self._bundle).resolve(), **settings}
        words = [word for name, value in given.items() for word in ("--set", setting(name, value))]
        return ["--bundle", self._bundle, *self._options, *words]
