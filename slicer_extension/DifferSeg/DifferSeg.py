"""Module of 3D Slicer: choose a bundle, give its modalities volumes of the scene, get the segmentation.

Windows only; what it does is in `DifferSegLib.logic`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from DifferSegLib import logic
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

_EVERY_MS = 300


class DifferSeg(ScriptedLoadableModule):
    """What 3D Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = "DifferSeg"
        parent.categories = ["Segmentation"]
        parent.contributors = ["The differseg_med developers"]
        parent.helpText = (
            "Segments with a bundle of differseg_med, which runs in a Python environment of its own. Leave a modality "
            "blank if the patient has none. Research only: not a medical device."
        )
        parent.acknowledgementText = "See the model card of the bundle for data and method."


class DifferSegWidget(ScriptedLoadableModuleWidget):
    """The panel of the module."""

    def setup(self) -> None:
        """Make the panel."""
        super().setup()
        self.described: dict[str, Any] | None = None
        self.boxes: dict[str, Any] = {}
        self.running: logic.Run | None = None
        self.folder: Path | None = None
        settings = qt.QSettings()
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        self.python, self.bundle = ctk.ctkPathLineEdit(), ctk.ctkPathLineEdit()
        self.python.filters, self.bundle.filters = ctk.ctkPathLineEdit.Files, ctk.ctkPathLineEdit.Dirs
        self.python.toolTip = "python of the environment in which differseg-med is installed"
        self.python.currentPath = settings.value("DifferSeg/python", shutil.which("python3") or "")
        self.bundle.currentPath = settings.value("DifferSeg/bundle", "")
        form.addRow("Python of differseg_med", self.python)
        form.addRow("Bundle", self.bundle)
        self.bundle.connect("currentPathChanged(QString)", self.on_bundle)
        self.volumes = qt.QFormLayout()
        self.layout.addLayout(self.volumes)
        self.batch = qt.QCheckBox("Every study of the scene, by the names of its volumes")
        self.batch.toolTip = (
            "Volumes belong together by their study, else by what stands before the modality in their names"
        )
        self.layout.addWidget(self.batch)
        self.cases: dict[str, logic.StudyCase] = {}
        self.button, self.bar, self.log = qt.QPushButton("Segment"), qt.QProgressBar(), qt.QPlainTextEdit()
        self.button.connect("clicked()", self.on_button)
        self.bar.visible, self.log.readOnly = False, True
        self.table = qt.QTableWidget(0, 2)
        self.table.setHorizontalHeaderLabels(["", ""])
        self.table.horizontalHeader().setStretchLastSection(True)
        for widget in (self.button, self.bar, self.table, self.log):
            self.layout.addWidget(widget)
        self.layout.addStretch(1)
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.on_timer)
        if self.bundle.currentPath:
            self.on_bundle()

    def cleanup(self) -> None:
        """End what runs."""
        if self.running is not None:
            self.running.cancel()
        self.timer.stop()

    def on_bundle(self, *_: Any) -> None:
        """Ask the bundle what it wants, and offer a volume for each modality."""
        while self.volumes.rowCount():
            self.volumes.removeRow(0)
        self.boxes, self.described = {}, None
        try:
            self.described = logic.describe(logic.command(self.python.currentPath), self.bundle.currentPath)
        except logic.DifferSegError as error:
            self.log.plainText = str(error)
            return
        for name, path in (("python", self.python), ("bundle", self.bundle)):
            qt.QSettings().setValue(f"DifferSeg/{name}", path.currentPath)
        proposed = logic.guess(slicer.mrmlScene, logic.names_of(self.described))
        for modality in self.described["modalities"]:
            box = slicer.qMRMLNodeComboBox()
            box.nodeTypes, box.noneEnabled, box.addEnabled = ["vtkMRMLScalarVolumeNode"], True, False
            box.noneDisplay = "missing"
            box.setMRMLScene(slicer.mrmlScene)
            box.setCurrentNode(proposed.get(modality["name"]))
            self.volumes.addRow(f"{modality['name']} ({modality['kind_label']})", box)
            self.boxes[modality["name"]] = box
        self.log.plainText = "\n".join([self.described["description"], self.described["intended_use"]])

    def chosen(self) -> dict[str, Any]:
        """The volumes by modality."""
        return {name: box.currentNode() for name, box in self.boxes.items() if box.currentNode() is not None}

    def on_button(self) -> None:
        """Start, or cancel what runs."""
        if self.running is not None:
            self.running.cancel()
            return
        if self.described is None:
            slicer.util.errorDisplay("Choose a bundle first.")
            return
        self.folder = Path(tempfile.mkdtemp(prefix="differseg"))
        names = logic.names_of(self.described)
        try:
            self.cases = logic.cases_of(slicer, slicer.mrmlScene, names) if self.batch.checked else {}
            nodes = {case: study.nodes for case, study in self.cases.items()}
            if self.batch.checked:
                table = logic.write_cases(slicer, nodes, names, self.folder)
            else:
                table = logic.write_case(slicer, self.chosen(), names, self.folder)
        except logic.DifferSegError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            slicer.util.errorDisplay(str(error))
            return
        program = logic.command(self.python.currentPath)
        self.running = logic.Run(program, self.bundle.currentPath, table, self.folder / "out")
        self.log.plainText = ""
        self.bar.setRange(0, 0)
        self.bar.visible, self.button.text = True, "Cancel"
        self.timer.start(_EVERY_MS)

    def on_timer(self) -> None:
        """Show what the run says; at its end load the segmentation."""
        if self.running is None:
            return
        for line in self.running.new_lines():
            self.log.appendPlainText(line)
        if not self.running.ended():
            return
        run, self.running = self.running, None
        self.timer.stop()
        self.bar.visible, self.button.text = False, "Segment"
        segmentations = slicer.modules.segmentations.logic()
        try:
            if self.cases:
                done = logic.load_all(segmentations, run, self.cases)
                nodes, lines = [node for _, _, node in done if node is not None], [pair[:2] for pair in done]
            else:
                node, row = logic.load(segmentations, run, self.chosen())
                nodes, lines = [node], logic.facts(row, self.described or {})
        except logic.DifferSegError as error:
            slicer.util.errorDisplay(str(error))
            return
        finally:
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
        for node in nodes:
            node.CreateClosedSurfaceRepresentation()
        self.show(lines)

    def show(self, facts: list[tuple[str, str]]) -> None:
        """Fill the table."""
        self.table.setRowCount(len(facts))
        for number, pair in enumerate(facts):
            for column, text in enumerate(pair):
                self.table.setItem(number, column, qt.QTableWidgetItem(text))
