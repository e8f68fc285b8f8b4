"""What a bundle says of itself, for people and programs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from differseg_med.bundles.description import describe
from differseg_med.bundles.new import new_bundle
from differseg_med.cli import app
from differseg_med.errors import CaseError

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/inference.yaml"))
STS = ROOT / "bundles" / "sts_petctmr_segmentation"


def test_the_sarcoma_bundle() -> None:
    found = describe(STS)
    assert [(m["name"], m["kind"], m["kind_label"]) for m in found["modalities"]] == [
        ("t1", "mr", "MR"),
        ("ct", "ct", "CT"),
        ("pet", "pet", "PET"),
    ]
    assert found["modalities"][1]["settings"] == {"window": [-160, 240], "smooth": 0.75}
    assert (found["reference"], found["images"], found["pixdim"]) == ("t1", "volumes", [2.0, 2.0, 2.0])
    assert (found["threshold"], found["largest_only"], found["version"]) == (0.35, True, "0.2.0")
    assert found["target"]["label"] == "Gross tumour volume"
    codes = found["target"]["codes"]
    assert codes["SegmentedPropertyTypeCodeSequence"] == {
        "scheme": "SCT",
        "value": "86049000",
        "meaning": "Neoplasm, Primary",
    }
    digest = hashlib.sha256((STS / "models" / "model.pt").read_bytes()).hexdigest()
    assert found["weights"] == [{"file": "model.pt", "sha256": digest}]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_metadata_name_the_modalities_of_the_configuration(bundle: Path) -> None:
    found = describe(bundle)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["modalities"] == {modality["name"]: modality["kind"] for modality in found["modalities"]}


def test_a_new_bundle_names_its_modalities_and_has_no_weights(tmp_path: Path) -> None:
    new_bundle(ROOT / "differseg_med" / "bundles" / "templates" / "rgbd.yaml", tmp_path / "task")
    metadata = json.loads((tmp_path / "task" / "configs" / "metadata.json").read_text())
    assert metadata["modalities"] == {"rgb": "image", "depth": "depth"}
    found = describe(tmp_path / "task")
    assert (found["weights"], found["images"], found["threshold"]) == ([], "pictures", 0.5)


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["describe", str(STS), "--json"])
    assert json.loads(done.output) == describe(STS)
    lines = CliRunner().invoke(app, ["describe", str(STS)]).output.splitlines()
    assert "  t1: MR (percentile 99)" in lines
    assert "  on the grid of t1, or of the first that is there; above 0.35, its largest connected component" in lines


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("inference.yaml", None, "this is no bundle .*found no such file"),
        ("metadata.json", None, "this is no bundle"),
        ("inference.yaml", "[1]", "has no entries"),
        ("inference.yaml", "modalities: {t1: {kind: xyz}}", "modalities are not right .*xyz"),
        ("inference.yaml", "threshold: 1", "modalities are not right"),
    ],
)
def test_what_is_no_bundle(tmp_path: Path, file: str, text: str | None, words: str) -> None:
    shutil.copytree(STS / "configs", tmp_path / "configs")
    (tmp_path / "configs" / file).unlink()
    if text is not None:
        (tmp_path / "configs" / file).write_text(text)
    with pytest.raises(CaseError, match=words):
        describe(tmp_path)


def test_it_needs_no_torch() -> None:
    code = f"import sys; from differseg_med.cli import app; app(['describe', {str(STS)!r}], standalone_mode=False)"
    code = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
