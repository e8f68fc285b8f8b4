"""A hundred damaged files; ``scripts/fuzz_files.py`` reads thousands."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from differseg_med.io.volumes import load_volume

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("fuzz_files", SCRIPTS / "fuzz_files.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module  # the process that reads finds its function by name
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_refused_or_right(script):
    counts, bad = script.fuzz(120, seed=2)
    assert bad == []
    assert sum(count for (_, what), count in counts.items() if what == "refused") > 40
    assert sum(count for (_, what), count in counts.items() if what == "read") > 20


def moved(path):
    volume = load_volume(path)
    volume.affine[0, 3] += 1
    return volume


def brighter(path):
    return load_volume(path) + 1


def dead(path):
    raise MemoryError


@pytest.mark.parametrize(
    ("reader", "words"),
    [(moved, "not the geometry of nibabel"), (brighter, "a damaged body was accepted"), (dead, "MemoryError")],
)
def test_the_judge_sees_what_must_not_happen(script, tmp_path, monkeypatch, reader, words):
    script.make_files(tmp_path)
    path = tmp_path / "t1.nii.gz"
    path.write_bytes(script.make_files(tmp_path)["t1.nii.gz"])
    assert script.outcome(path, "body", path) == "read"
    readers = iter([reader, load_volume])
    monkeypatch.setattr(script, "load_volume", lambda file: next(readers, load_volume)(file))
    assert script.outcome(path, "body", path).startswith(words)
