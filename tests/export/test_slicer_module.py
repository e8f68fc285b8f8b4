"""What the module of 3D Slicer does, with Slicer's own code: volumes of a scene in, the mask of ``predict`` out."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from support.forking import run_program
from support.slicer import Slicer, needs_slicer, quiet
from support.synthetic import BUNDLE, OBLIQUE, SMALL, read_nifti, tiny_network, write_case

import differseg_med as ds
from differseg_med.bundles.description import describe
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.segment import SegmentInfo

sys.path.insert(0, str(Path(__file__).parents[2] / "slicer_extension" / "DifferSeg"))

from DifferSegLib import logic

pytestmark = needs_slicer
ROOT = Path(__file__).parents[2]
NAMED = SegmentInfo("Tumour")
SAYS_ITS_WORDS = "import json, sys; print(json.dumps(sys.argv[1:]))"
"""In place of `logic.command`, whose own start is seen with `logic.describe`: a start for predict costs 8 s."""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[str, object]:
    """Settings of a quick network with weights on a file: what is tried is the way to it and back, not its mask."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_network().state_dict(), path)
    return {**SMALL, "pixdim": None, "checkpoint": str(path)}


@pytest.fixture
def slicer() -> Slicer:
    return Slicer()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Images of one patient, turned in space; the PET on a grid of its own."""
    made = write_case(tmp_path_factory.mktemp("case"), codes="LPS", angles=OBLIQUE)
    return {name: made[name] for name in ("t1", "pet")}


def threshold_of(files: dict[str, Path], settings: dict[str, object]) -> float:
    """One that cuts the probability in two, at a gap: no voxel is decided by the last digit."""
    values = np.sort(ds.segment(BUNDLE, device="cpu", settings=settings, **files).probability.ravel())
    middle = values[len(values) * 3 // 5 : len(values) * 4 // 5]
    gap = int(np.argmax(np.diff(middle)))
    return round(float(middle[gap : gap + 2].mean()), 9)


def test_volumes_of_a_scene_give_the_mask_of_predict(slicer, files, small, tmp_path):
    """Two volumes and none for the CT, by the command line in a process of its own: here a fork, which imports less."""
    settings = {**small, "threshold": threshold_of(files, small)}
    expected = ds.segment(BUNDLE, device="cpu", settings=settings, **files)
    described = logic.describe(logic.command(sys.executable), BUNDLE)
    assert described == describe(BUNDLE)
    names = logic.names_of(described)
    for path in (files["pet"], files["t1"]):
        slicer.load_volume(path)
    nodes = logic.guess(slicer.scene, names)
    assert {name: node.GetName() for name, node in nodes.items()} == {"t1": "t1", "pet": "pet"}
    with quiet():
        table = logic.write_case(slicer.slicer, nodes, names, tmp_path)
    sets = [f"--set={name}={'null' if value is None else value}" for name, value in settings.items()]
    options = ("--device", "cpu", *sets)
    run = logic.Run([sys.executable, "-c", SAYS_ITS_WORDS], BUNDLE, table, tmp_path / "out", options)
    assert run.wait() == 0
    done = run_program("differseg_med.cli", *json.loads(run.new_lines()[0]))
    assert done.returncode == 0, done.stdout + done.stderr
    node, row = logic.load(slicer.segmentations, run, nodes)
    assert (row["modalities"], row["reference"]) == ("t1+pet", "t1")
    affine = nib.load(files["t1"]).affine
    there = np.array(sorted(apply_affine(affine, np.argwhere(expected.mask)).round(3).tolist()))
    assert 0 < expected.mask.mean() < 1
    np.testing.assert_allclose(slicer.points(node), there, atol=2e-3)
    assert node.GetNodeReference("referenceImageGeometryRef") is nodes["t1"]
    assert node.GetStorageNode() is None
    assert slicer.codes(node)["type"][:2] == ("SCT", "86049000")
    shown = dict(logic.facts(row, described))
    assert shown["volume (ml)"] == f"{expected.volume_ml:.3f}"
    assert (shown["made from"], shown["codes"].split("; ")[1]) == ("t1, pet", "Neoplasm, Primary (SCT 86049000)")


def test_what_cannot_be_segmented_is_said(slicer, files, tmp_path):
    node = slicer.load_volume(files["t1"])
    for nodes, words in (({}, "Choose a volume"), ({"t1": node, "ct": node}, "two modalities")):
        with pytest.raises(logic.DifferSegError, match=words):
            logic.write_case(slicer.slicer, nodes, ["t1", "ct"], tmp_path)
    transform = slicer.slicer.vtkMRMLLinearTransformNode()
    slicer.scene.AddNode(transform)
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(logic.DifferSegError, match="t1 lies under a transform"):
        logic.write_case(slicer.slicer, {"t1": node}, ["t1"], tmp_path)
    with pytest.raises(logic.DifferSegError, match="cannot be started"):
        logic.describe(["no_such_program"], BUNDLE)
    with pytest.raises(logic.DifferSegError, match="this is no bundle"):
        logic.describe(logic.command(sys.executable), tmp_path)


def in_study(slicer: Slicer, path: Path, name: str, study: str) -> None:
    """A volume of the scene; ``study`` is its study in the subject hierarchy, blank for none."""
    node = slicer.load_volume(path)
    node.SetName(name)
    tree = slicer.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.scene)
    place = top = tree.GetSceneItemID()
    if study:
        place = tree.GetItemChildWithName(top, study) or tree.CreateStudyItem(top, study)
    tree.CreateItem(place, node)


def test_a_batch_takes_every_study_of_the_scene(slicer, files, tmp_path):
    """Two studies, two patients by name, and a volume of no modality; the masks are made by this test."""
    placed = [
        ("T1 tra", "MR of monday"),
        ("PET", "MR of monday"),
        ("t1", "MR of friday"),
        ("p01_t1", ""),
        ("p01_pet", ""),
    ]
    placed += [("p02 pet", ""), ("localizer", "")]
    for name, study in placed:
        in_study(slicer, files["pet" if "pet" in name.lower() else "t1"], name, study)
    cases = logic.cases_of(slicer.slicer, slicer.scene, ["t1", "ct", "pet"])
    found = {study.title: sorted(node.GetName() for node in study.nodes.values()) for study in cases.values()}
    assert found == {
        "MR of monday": ["PET", "T1 tra"],
        "MR of friday": ["t1"],
        "p01": ["p01_pet", "p01_t1"],
        "p02": ["p02 pet"],
    }
    with quiet():
        nodes = {case: study.nodes for case, study in cases.items()}
        table = logic.write_cases(slicer.slicer, nodes, ["t1", "ct", "pet"], tmp_path)
    rows = list(csv.DictReader(table.open(newline="", encoding="utf-8")))
    assert [(row["case_id"], bool(row["t1"]), bool(row["ct"]), bool(row["pet"])) for row in rows] == [
        ("case_1", True, False, True),
        ("case_2", True, False, False),
        ("case_3", True, False, True),
        ("case_4", False, False, True),
    ]
    assert all((tmp_path / row[name]).is_file() for row in rows for name in ("t1", "pet") if row[name])
    run = logic.Run([sys.executable, "-c", "print('done')"], BUNDLE, table, tmp_path / "out")
    run.wait()
    mask = read_nifti(files["t1"])
    lines = ["case_id,status,reason,reference,modalities,volume_ml,flags"]
    for case in ("case_1", "case_2", "case_3"):
        save_seg_nrrd((mask.data > 0).astype(np.uint8), mask.affine, tmp_path / "out" / case / "mask.seg.nrrd", NAMED)
        lines.append(f"{case},done,,t1,t1,1.5,touches the border")
    lines.append("case_4,failed,no such image,,,,")
    (tmp_path / "out" / "summary.csv").write_text("\n".join(lines))
    done = logic.load_all(slicer.segmentations, run, cases)
    assert [(title, words, node is not None) for title, words, node in done] == [
        ("MR of monday", "1.5 ml; t1; touches the border", True),
        ("MR of friday", "1.5 ml; t1; touches the border", True),
        ("p01", "1.5 ml; t1; touches the border", True),
        ("p02", "no such image", False),
    ]
    assert [node.GetName().split(":")[0] for _, _, node in done[:3]] == ["MR of monday", "MR of friday", "p01"]
    for (_, _, node), study in zip(done[:3], cases.values()):
        assert node.GetNodeReference("referenceImageGeometryRef") is study.nodes["t1"]
        np.testing.assert_allclose(slicer.points(node), positions(mask), atol=2e-3)


def positions(volume) -> np.ndarray:
    """World positions of what is above 0, sorted as `Slicer.points` does."""
    return np.array(sorted(apply_affine(volume.affine, np.argwhere(volume.data > 0)).round(3).tolist()))


def test_a_run_is_cancelled_and_a_failed_one_says_why(tmp_path):
    """Programs that behave as predict does, without its seconds of start."""
    waits = "import time; print('working', flush=True); time.sleep(60)"
    run = logic.Run([sys.executable, "-c", waits], BUNDLE, tmp_path / "c.csv", tmp_path / "out")
    while not run.new_lines():
        time.sleep(0.05)
    assert not run.ended()
    run.cancel()
    assert run.wait() != 0
    assert run.ended()
    with pytest.raises(logic.DifferSegError, match="Cancelled"):
        logic.read_row(run)
    fails = "print('there is no GPU here'); raise SystemExit(1)"
    run = logic.Run([sys.executable, "-c", fails], BUNDLE, tmp_path / "c.csv", tmp_path / "out")
    assert run.wait() == 1
    with pytest.raises(logic.DifferSegError, match="there is no GPU here"):
        logic.read_row(run)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("case_id,status,reason\ncase,failed,no such file\n")
    with pytest.raises(logic.DifferSegError, match="no such file"):
        logic.read_row(run)


def test_the_environment_of_slicer_is_not_passed_on():
    given = {"PYTHONHOME": "/Slicer/python", "LD_LIBRARY_PATH": "/Slicer/lib", "HOME": "/home/a"}
    assert logic.environment(given) == {"HOME": "/home/a"}


def test_the_windows_are_python_and_the_extension_lists_its_files():
    """Qt is not here: the file is compiled, and what CMake installs is what is there."""
    folder = ROOT / "slicer_extension" / "DifferSeg"
    compile((folder / "DifferSeg.py").read_text(encoding="utf-8"), "DifferSeg.py", "exec")
    listed = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    scripts = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")} - {"DifferSeg.py"}
    assert [name for name in scripts if name not in listed] == []
