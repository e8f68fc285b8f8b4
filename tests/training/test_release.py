"""The bundle to ship: from folds and from a training, as an ensemble, predicted with and trained on again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from support.synthetic import BUNDLE, read_rows, row_of, write_case, write_table
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.bundles.manifest import check_manifest
from differseg_med.bundles.rewriting import with_entries
from differseg_med.cli import app
from differseg_med.networks import DifferSeg
from differseg_med.networks.ensemble import Ensemble, mean_logits, mean_weights
from differseg_med.prediction.quality import Fingerprint, mean_agreement

PRESET = """pixdim: [3.0, 3.4, 6.2]
planes: [axial]
max_epochs: 1
+network_def: {encoder: test_resnet, decoder_channels: [8, 8, 8, 8], fusion: concat, decoder: unet,
  encoder_weights: null, freeze_stages: 0}
"""
SETTINGS = ["roi_size=[32, 32]", "batch_size=2", "iterations=1", "modality_dropout=0.3"]


@pytest.fixture(scope="module")
def folds(tmp_path_factory) -> tuple[Path, Path]:
    """The table and the folder of a cross-validation with a preset and settings."""
    folder = tmp_path_factory.mktemp("folds")
    cases = [("a", "0"), ("b", "0"), ("c", "1")]
    rows = [
        row_of(case, write_case(folder / case, seed=n), folder / "cohort.csv", fold=fold)
        for n, (case, fold) in enumerate(cases)
    ]
    (folder / "tiny.yaml").write_text(PRESET)
    table = write_table(folder / "cohort.csv", rows)
    options = {"presets": [folder / "tiny.yaml"], "settings": SETTINGS, "device": "cpu"}
    ds.train_folds(BUNDLE, table, folder / "run", **options)
    return table, folder / "run"


@pytest.fixture(scope="module")
def shipped(folds, tmp_path_factory) -> Path:
    """The ensemble, made by the command."""
    out = tmp_path_factory.mktemp("shipped") / "tiny_segmentation"
    printed = CliRunner().invoke(app, ["release", str(folds[1]), "--out", str(out), "--safetensors"])
    assert printed.exit_code == 0, printed.output
    return out


def test_a_bundle_has_what_was_trained_and_chosen(folds, shipped):
    inference, train = (yaml.safe_load((shipped / "configs" / f"{n}.yaml").read_text()) for n in ("inference", "train"))
    assert (inference["pixdim"], inference["roi_size"], inference["planes"]) == ([3.0, 3.4, 6.2], [32, 32], ["axial"])
    rule = json.loads((folds[1] / "rule.json").read_text())["rule"]
    assert inference["threshold"] == rule["threshold"]
    assert inference["postprocessing"]["largest_only"] is rule["largest_only"]
    assert inference["network_def"]["encoder"] == "test_resnet"
    assert "encoder_weights" not in inference["network_def"]
    assert train["+network_def"] == {"encoder_weights": None, "freeze_stages": 0}
    assert [train[name] for name in ("max_epochs", "batch_size", "modality_dropout")] == [1, 2, 0.3]
    text = (shipped / "configs" / "inference.yaml").read_text()
    assert "# chosen on out-of-fold predictions" in text
    assert "# in the network's channel order" in text
    check_manifest(shipped)
    names = sorted(path.name for path in (shipped / "models").iterdir())
    assert names == ["fingerprint.json", "fold0.safetensors", "fold1.safetensors"]
    found = Fingerprint.read(shipped / "models" / "fingerprint.json")
    assert (found.cases, found.modalities) == (3, {"t1": 3, "ct": 3, "pet": 3})
    card = (shipped / "docs" / "README.md").read_text()
    assert "| without pet | 3 |" in card.split("## Performance")[1].split("## Commands")[0]
    assert not any(path.name == "cases.csv" for path in shipped.rglob("*"))  # ids stay at home


def test_an_ensemble_predicts_the_mean_and_says_how_far_its_networks_agree(folds, shipped, tmp_path):
    settings = {"fingerprint": None}
    out = ds.predict(shipped, folds[0], tmp_path / "both", settings=settings, device="cpu")
    assert out.problem == ""
    row = read_rows(tmp_path / "both" / "summary.csv")["a"]
    assert 0 <= float(row["fold_agreement"]) <= 1
    assert "agreement of the folds" in (tmp_path / "both" / "report.html").read_text()
    probabilities = []
    row = read_rows(folds[0])["a"]
    images = {name: folds[0].parent / row[name] for name in ("t1", "ct", "pet")}
    for checkpoint in (None, *sorted((shipped / "models").glob("fold*"))):
        more = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
        found = ds.segment(shipped, settings={**settings, **more}, device="cpu", **images)
        probabilities.append(torch.from_numpy(found.probability))
    torch.testing.assert_close(probabilities[0], (probabilities[1] + probabilities[2]) / 2, atol=1e-4, rtol=0)
    assert not torch.allclose(probabilities[1], probabilities[2], atol=1e-4)


def test_a_mean_of_weights_is_chosen_on_cases_that_no_fold_saw(folds, tmp_path):
    table, run = folds
    with pytest.raises(ds.CaseError, match=r"trained on cases of this table.*found a, b, c.*other patients"):
        ds.release(run, tmp_path / "made", average=table)
    assert not (tmp_path / "made").exists()
    files = write_case(tmp_path / "new", seed=9)
    new = write_table(tmp_path / "new.csv", [row_of("new", files, tmp_path / "new.csv")])
    card = (ds.release(run, tmp_path / "made", average=new) / "docs" / "README.md").read_text()
    made = sorted(path.name for path in (tmp_path / "made" / "models").glob("*.pt"))
    assert made == (["model.pt"] if "the mean of the weights is shipped" in card else ["fold0.pt", "fold1.pt"])
    assert "On 1 cases that no fold was trained on" in card


def test_one_fold_is_shipped_with_a_sample_that_says_nothing_beside_its_voxels(folds, tmp_path):
    run, files = folds[1], write_case(tmp_path / "new", seed=9)
    named = nib.load(files["ct"])
    named.header["descrip"] = b"DOE JOHN"
    nib.save(named, files["ct"])
    table = tmp_path / "shown.csv"
    some = {name: file for name, file in files.items() if name != "pet"}
    write_table(table, [row_of("c", files, table), row_of("a", some, table)])
    made = ds.release(run, tmp_path / "made", fold="1", sample=table)
    assert [path.name for path in (made / "models").glob("*.pt")] == ["model.pt"]
    state = torch.load(made / "models" / "model.pt", weights_only=True)
    trained = torch.load(run / "fold1" / "model.pt", weights_only=True)
    assert all(torch.equal(state[name], trained[name].to(state[name].dtype)) for name in state)
    assert Fingerprint.read(made / "models" / "fingerprint.json").cases == 2
    card = (made / "docs" / "README.md").read_text()
    assert "One network. Trained on 2 cases" in card
    assert "network of fold 1, which was not trained on the cases of that fold" in card
    assert "has no out-of-fold score" not in card
    text = (made / "sample" / "README.md").read_text()
    assert "| c | no |" in text
    assert "| a | yes |" in text
    rows = read_rows(made / "sample" / "cohort.csv")
    assert rows["a"]["pet"] == ""
    copied = nib.load(made / "sample" / rows["c"]["ct"])
    np.testing.assert_array_equal(copied.get_fdata(), named.get_fdata())
    np.testing.assert_allclose(copied.affine, named.affine, atol=1e-5)
    assert b"DOE" not in copied.header.binaryblock
    kinds = yaml.safe_load((made / "sample" / "cohort.yaml").read_text())["modalities"]
    assert {name: told["kind"] for name, told in kinds.items()} == {"t1": "mr", "ct": "ct", "pet": "pet"}
    check_manifest(made)


def test_what_cannot_be_released_is_refused(folds, tmp_path):
    with pytest.raises(ds.CaseError, match=r"nothing to release here.*differseg-med train"):
        ds.release(tmp_path, tmp_path / "made", bundle=BUNDLE)
    with pytest.raises(ds.CaseError, match=r"does not say which bundle was trained.*--bundle"):
        ds.release(tmp_path, tmp_path / "made")
    with pytest.raises(ds.CaseError, match="a folder of that name already"):
        ds.release(folds[1], tmp_path)
    with pytest.raises(ds.CaseError, match=r"there is no fold '7'.*one of 0, 1"):
        ds.release(folds[1], tmp_path / "made", fold="7")
    image = {"t1": write_case(tmp_path / "x")["t1"]}
    bare = write_table(tmp_path / "bare.csv", [row_of("x", image, tmp_path / "bare.csv")])
    with pytest.raises(ds.CaseError, match=r"x.*needs an image and a label.*take it out of the table"):
        ds.release(folds[1], tmp_path / "made", sample=bare)
    assert not (tmp_path / "made").exists()
    half = tmp_path / "half"
    (half / "fold0").mkdir(parents=True)
    (half / "fold0" / "model.pt").write_bytes((folds[1] / "fold0" / "model.pt").read_bytes())
    (half / "run.json").write_bytes((folds[1] / "run.json").read_bytes())
    with pytest.raises(ds.CaseError, match=r"fold0, fold1 not trained or not predicted.*--folds all"):
        ds.release(half, tmp_path / "made", bundle=BUNDLE)


def test_entries_are_replaced_and_remarks_of_others_stay():
    text = "# head\na: 1   # one\nz: 1   # zed\nb: {c: 2,\n  d: 3}\n\ne: [1, 2]\n"
    made = with_entries(text, {"a": 5, "b": {"c": 7}, "f": "$@a"})
    assert yaml.safe_load(made) == {"a": 5, "z": 1, "b": {"c": 7}, "e": [1, 2], "f": "$@a"}
    assert made.startswith("# head\na: 5\nz: 1   # zed\nb:")
    assert "a: 5   # five\n" in with_entries(text, {"a": 5}, {"a": "five"})
    assert with_entries(text, {}) == text


def test_ensembles_by_hand():
    logits = [torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])]
    expected = torch.logit((logits[0].sigmoid() + logits[1].sigmoid()) / 2)
    torch.testing.assert_close(mean_logits(logits), expected)
    assert mean_logits(logits[:1]) is logits[0]
    networks = [DifferSeg((1, 1), "test_resnet", (8, 8, 8, 8)).eval() for _ in range(2)]
    x = torch.rand(1, 2, 32, 32)
    torch.testing.assert_close(Ensemble(networks)(x), mean_logits([network(x) for network in networks]))
    states = [network.state_dict() for network in networks]
    mean = mean_weights(states)
    name = "heads.0." + next(key for key in states[0] if key.startswith("heads.0.")).removeprefix("heads.0.")
    torch.testing.assert_close(mean[name], (states[0][name] + states[1][name]) / 2)
    masks = [torch.tensor(values).numpy() for values in ([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])]
    assert mean_agreement(masks) == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert mean_agreement(masks[:1]) is None
