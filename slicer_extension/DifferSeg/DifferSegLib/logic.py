"""From volumes of a scene to a segmentation, through the command line of differseg_med in an environment of its own.

No Qt and nothing of differseg_med is imported here: 3D Slicer's Python need not have torch. What runs is ``describe``
and ``predict``, so that the mask is that of the command line, voxel for voxel.
"""

from __future__ import annotations

import csv
import json
import os
import queue
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASE = "case"
_ENTRY = "from differseg_med.cli import app; app()"
_OURS = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "QT_PLUGIN_PATH")
"""What 3D Slicer sets for itself, and another Python must not see."""


class DifferSegError(Exception):
    """What the user should read."""


def command(python: str | Path) -> list[str]:
    """How differseg_med is called by the Python of the environment that it is installed in."""
    return [str(python), "-c", _ENTRY]


def environment(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a process outside of 3D Slicer."""
    return {name: value for name, value in (os.environ if own is None else own).items() if name not in _OURS}


def describe(program: Sequence[str], bundle: str | Path) -> dict[str, Any]:
    """What a bundle wants and gives, see ``differseg-med describe --json``.

    Raises:
        DifferSegError: if it is no bundle, or the program is not there.
    """
    try:
        done = subprocess.run(
            [*program, "describe", str(bundle), "--json"],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
    except OSError as error:
        raise DifferSegError(f"differseg_med cannot be started: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DifferSegError(said[-1] if said else "differseg_med is not installed there")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def names_of(described: Mapping[str, Any]) -> list[str]:
    """The modalities that a bundle wants, in order."""
    return [modality["name"] for modality in described["modalities"]]


def volumes_of(scene: Any) -> list[Any]:
    """The images of a scene; label maps are none."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    nodes = [scene.GetNthNodeByClass(number, "vtkMRMLScalarVolumeNode") for number in range(count)]
    return [node for node in nodes if not node.IsA("vtkMRMLLabelMapVolumeNode")]


def guess(scene: Any, names: Sequence[str]) -> dict[str, Any]:
    """A volume for each modality by the name of its node, where exactly one fits: a proposal to be looked at."""
    return _guessed(volumes_of(scene), names)


def _guessed(nodes: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        fits = [node for node in nodes if _word(name).search(node.GetName()) and node not in found.values()]
        if len(fits) == 1:
            found[name] = fits[0]
    return found


def _word(name: str) -> re.Pattern[str]:
    """A modality in the name of a node."""
    return re.compile(rf"(?i)(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])")


@dataclass(frozen=True)
class StudyCase:
    """A case of a batch.

    Args:
        title: what the user calls it; it goes into no file.
        nodes: volumes by modality.
    """

    title: str
    nodes: Mapping[str, Any]


def cases_of(slicer: Any, scene: Any, names: Sequence[str]) -> dict[str, StudyCase]:
    """The cases of a scene by an id of their own: volumes of one study of the subject hierarchy belong together.

    Volumes that are in no study belong together by what stands before the modality in their names (``p01 t1``,
    ``p01 pet``). A study without a volume that fits a modality is no case.

    Args:
        slicer: 3D Slicer's module of that name.
        scene: with the volumes.
        names: all modalities of the bundle.
    """
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    groups: dict[tuple[int, str], list[Any]] = {}
    for node in volumes_of(scene):
        item = tree.GetItemByDataNode(node) if tree is not None else 0
        study = tree.GetItemAncestorAtLevel(item, "Study") if item else 0
        if study:
            groups.setdefault((study, tree.GetItemName(study)), []).append(node)
        else:
            found = [word.search(node.GetName()) for word in map(_word, names)]
            before = next((match.string[: match.start()] for match in found if match), node.GetName())
            groups.setdefault((0, before.strip(" _-:.") or "the scene"), []).append(node)
    cases = {}
    for (_, title), nodes in groups.items():
        if chosen := _guessed(nodes, names):
            cases[f"case_{len(cases) + 1}"] = StudyCase(title, chosen)
    return cases


def write_case(slicer: Any, nodes: Mapping[str, Any], names: Sequence[str], folder: Path) -> Path:
    """`write_cases` of one case, called `CASE`."""
    return write_cases(slicer, {CASE: nodes}, names, folder)


def write_cases(slicer: Any, cases: Mapping[str, Mapping[str, Any]], names: Sequence[str], folder: Path) -> Path:
    """Write the chosen volumes as NRRD, and a cohort table; a modality without a volume stays blank.

    Args:
        slicer: 3D Slicer's module of that name.
        cases: volumes by modality, by case id.
        names: all modalities of the bundle.
        folder: where to.

    Raises:
        DifferSegError: if nothing was chosen, one volume for two modalities, or a volume cannot be written as it lies.
    """
    if not cases:
        raise DifferSegError("No volume of the scene is called like a modality of the bundle.")
    rows = [
        {"case_id": case, **dict.fromkeys(names, ""), **_written(slicer, case, nodes, names, folder)}
        for case, nodes in cases.items()
    ]
    table = folder / "cohort.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["case_id", *names])
        writer.writeheader()
        writer.writerows(rows)
    return table


def _written(slicer: Any, case: str, nodes: Mapping[str, Any], names: Sequence[str], folder: Path) -> dict[str, str]:
    """Write the volumes of a case; their files by modality."""
    chosen = {name: nodes[name] for name in names if nodes.get(name) is not None}
    if not chosen:
        raise DifferSegError("Choose a volume for one modality at least.")
    if len({node.GetID() for node in chosen.values()}) < len(chosen):
        raise DifferSegError("One volume was chosen for two modalities.")
    (folder / case).mkdir(exist_ok=True)
    for name, node in chosen.items():
        if node.GetParentTransformNode() is not None:
            raise DifferSegError(f"{node.GetName()} lies under a transform: harden it first.")
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(folder / case / f"{name}.nrrd"))
        if not storage.WriteData(node):
            raise DifferSegError(f"{node.GetName()} could not be written.")
    return {name: f"{case}/{name}.nrrd" for name in chosen}


class Run:
    """A prediction in a process of its own, to be looked at now and then.

    Args:
        program: see `command`.
        bundle: its folder.
        table: see `write_case`.
        out: folder of the results.
        options: more options of ``predict``.
    """

    def __init__(
        self, program: Sequence[str], bundle: str | Path, table: Path, out: Path, options: Sequence[str] = ()
    ) -> None:
        words = ["predict", "--bundle", str(bundle), "--cohort", str(table), "--out", str(out), "--formats", "seg.nrrd"]
        self.out, self.cancelled, self.lines = out, False, list[str]()
        self._said: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [*program, *words, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.rstrip())

    def new_lines(self) -> list[str]:
        """What it has said since the last call."""
        said = []
        while not self._said.empty():
            said.append(self._said.get())
        self.lines += said
        return said

    def ended(self) -> bool:
        """Whether it is over, and all that it said can be read."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def cancel(self) -> None:
        """End it; it tidies up after itself."""
        self.cancelled = True
        self._process.terminate()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait()
        self._reader.join()
        return code


def read_row(run: Run, case: str = CASE) -> dict[str, str]:
    """The row of a case in ``summary.csv``.

    Raises:
        DifferSegError: why there is no mask.
    """
    run.new_lines()
    if run.cancelled:
        raise DifferSegError("Cancelled.")
    table = run.out / "summary.csv"
    rows = []
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["case_id"] == case]
    if not rows or not (run.out / case / "mask.seg.nrrd").is_file():
        raise DifferSegError((rows[-1]["reason"] if rows else "") or next(iter(run.lines[-1:]), "It said nothing."))
    return rows[-1]


def load(
    segmentations: Any, run: Run, nodes: Mapping[str, Any], case: str = CASE, title: str = ""
) -> tuple[Any, dict[str, str]]:
    """The segmentation as a node of the scene, tied to the image whose grid it has, and its row of ``summary.csv``.

    Args:
        segmentations: 3D Slicer's logic of the module Segmentations.
        run: a prediction that has ended.
        nodes: volumes by modality.
        case: its id in the run.
        title: put before the name of the node, where there are several cases.

    Raises:
        DifferSegError: why there is no mask.
    """
    row = read_row(run, case)
    node = segmentations.LoadSegmentationFromFile(str(run.out / case / "mask.seg.nrrd"), True)
    if node is None:
        raise DifferSegError("The segmentation could not be loaded.")
    node.SetReferenceImageGeometryParameterFromVolumeNode(nodes[row["reference"]])
    node.SetAndObserveStorageNodeID(None)  # the folder goes away: "Save" asks where to
    if title:
        node.SetName(f"{title}: {node.GetName()}")
    return node, row


def load_all(segmentations: Any, run: Run, cases: Mapping[str, StudyCase]) -> list[tuple[str, str, Any]]:
    """The segmentations of a batch as nodes of the scene; a case that failed stops no other.

    Returns:
        Title, what became of it in words, and the node, None if there is none, of each case.

    Raises:
        DifferSegError: if the run was cancelled.
    """
    found: list[tuple[str, str, Any]] = []
    for case, study in cases.items():
        try:
            node, row = load(segmentations, run, study.nodes, case, study.title)
        except DifferSegError as error:
            if run.cancelled:
                raise
            found.append((study.title, str(error), None))
        else:
            words = (
                f"{row.get('volume_ml', '?')} ml",
                row.get("modalities", "").replace("+", ", "),
                row.get("flags", ""),
            )
            found.append((study.title, "; ".join(filter(None, words)), node))
    return found


def facts(row: Mapping[str, str], described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the table of the module shows, name and value."""
    codes = described["target"]["codes"].values()
    lines = [
        ("target", described["target"]["label"]),
        ("codes", "; ".join(f"{code['meaning']} ({code['scheme']} {code['value']})" for code in codes)),
        ("volume (ml)", row.get("volume_ml", "")),
        ("made from", row.get("modalities", "").replace("+", ", ")),
        ("grid of", row.get("reference", "")),
        ("flags", row.get("flags", "")),
        ("notes", row.get("notes", "")),
        ("model", f"{described['name']}, version {described['version']}"),
        ("intended use", described["intended_use"]),
    ]
    return [(name, value) for name, value in lines if value]
