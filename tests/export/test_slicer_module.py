"""What the module of 3D Slicer does, with Slicer's own code: volumes of a scene in, the mask of ``predict`` out."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from support.slicer import Slicer, quiet
from support.synthetic import BUNDLE, OBLIQUE, SMALL, tiny_network, write_case

import differseg_med as ds
from differseg_med.bundles.description import describe

sys.path.insert(0, str(Path(__file__).parents[2] / "slicer_extension" / "DifferSeg"))

from DifferSegLib import logic

pytest.importorskip("slicer", reason="needs pip install differseg-med[slicer]")
ROOT = Path(__file__).parents[2]


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
    """Two volumes and none for the CT, by the command line in a process of its own."""
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
    run = logic.Run(logic.command(sys.executable), BUNDLE, table, tmp_path / "out", options)
    assert run.wait() == 0, run.new_lines()
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
