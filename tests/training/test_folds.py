"""Cross-validation end to end: what is trained on what, what is kept, and what is refused."""

from __future__ import annotations

import csv
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from support.synthetic import BUNDLE, SMALL_NETWORK, row_of, write_case, write_table
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app
from differseg_med.cohort.table import read_cohort
from differseg_med.keys import CHANNELS, IMAGE, LABEL
from differseg_med.metrics.case import overlap
from differseg_med.training.folds import read_folds
from differseg_med.training.out_of_fold import predict_case, subset_names
from differseg_med.training.rules import Rule, best_rule, nested_rules

TINY = {
    **SMALL_NETWORK,
    "network_def::encoder_weights": None,
    "roi_size": [32, 32],
    "planes": ["axial"],
    "pixdim": [3.0, 3.4, 6.2],
    "batch_size": 2,
    "iterations": 1,
    "max_epochs": 2,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two folds of two patients, a row without a label and one for the test."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number, (case, fold) in enumerate([("a", "0"), ("b", "0"), ("c", "1"), ("d", "1"), ("e", "1"), ("t", "")]):
        files = write_case(folder / case, seed=number)
        rows.append(row_of(case, files, folder / "cohort.csv", fold=fold, split="test" if case == "t" else "train"))
    rows[1]["pet"] = ""
    rows[4]["label"] = ""
    return write_table(folder / "cohort.csv", rows)


MODALITIES = ("t1", "ct", "pet")


def run(table: Path, out: Path, **options):
    settings = {**TINY, **options.pop("settings", {})}
    return ds.train_folds(BUNDLE, table, out, device="cpu", settings=settings, **options)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory) -> tuple[Path, ds.FoldsResult, float]:
    """An uninterrupted run, and how many seconds it took."""
    out, start = tmp_path_factory.mktemp("folds") / "out", time.perf_counter()
    result = run(table, out)
    return out, result, time.perf_counter() - start


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions(out: Path) -> dict[str, torch.Tensor]:
    found = sorted((out / "predictions").glob("*.pt"))
    return {path.stem: torch.load(path, weights_only=True)["probabilities"] for path in found}


def test_every_case_is_scored_by_a_network_that_never_saw_it(done):
    out, result, _ = done
    subsets = ["all", "without t1", "without ct", "without pet"]
    rows = rows_of(out / "cases.csv")
    assert [(row["case"], row["fold"], row["subset"]) for row in rows] == [
        (case, fold, subset) for case, fold in (("a", "0"), ("b", "0"), ("c", "1"), ("d", "1")) for subset in subsets
    ]
    assert (result.problem, result.failures) == ("", ())
    for fold, own in (("0", "ab"), ("1", "cd")):
        splits = {row["case_id"]: row["split"] for row in rows_of(out / f"fold{fold}" / "cohort.csv")}
        assert splits == {case: "out_of_fold" if case in own else "train" for case in "abcd"}
        assert not any(row["val_dice"] for row in rows_of(out / f"fold{fold}" / "log.csv"))  # nothing is chosen on them
    weights = [torch.load(out / f"fold{fold}" / "model.pt", weights_only=True) for fold in "01"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    found = predictions(out)
    assert {name: (p.dtype, p.shape[:2]) for name, p in found.items()} == dict.fromkeys("abcd", (torch.float16, (1, 4)))
    assert torch.equal(found["b"][0, 0], found["b"][0, 3])  # b has no PET
    assert not torch.equal(found["a"][0, 0], found["a"][0, 3])
    assert "not used: 1 rows: no label: e" in result.text
    assert [line["case_id"] for line in rows_of(out / "metrics.csv")] == list("abcd")
    assert [line["subset"] for line in rows_of(out / "summary.csv")] == subsets
    voxels = sum(int(row["voxels"]) for row in rows_of(out / "calibration.csv"))
    assert voxels == sum(probability[0, 0].numel() for probability in found.values())
    assert "Reliability diagram" in (out / "evaluation.html").read_text()


def test_killed_at_random_moments_it_ends_with_the_same_predictions_and_scores(table, done, tmp_path):
    whole, _, seconds = done
    moments = random.Random(15)
    fork = multiprocessing.get_context("fork")  # torch is there already
    for _ in range(2):
        process = fork.Process(target=run, args=(table, tmp_path))
        process.start()
        process.join(moments.uniform(0.1, 0.8) * seconds)
        process.kill()
        process.join()
    run(table, tmp_path, jobs=2)  # what is left, each fold in a process: it may not matter
    assert (tmp_path / "cases.csv").read_bytes() == (whole / "cases.csv").read_bytes()
    assert (tmp_path / "rule.json").read_bytes() == (whole / "rule.json").read_bytes()
    for name, probabilities in predictions(whole).items():
        assert torch.equal(probabilities, predictions(tmp_path)[name])


def test_what_is_done_is_left_and_the_command_prints_the_table(table, done):
    out, result, _ = done
    kept = [*out.glob("fold*/*.pt"), *out.glob("predictions/*.pt")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    options = [f"--set={name}={'null' if value is None else value}" for name, value in TINY.items()]
    options += ["--bundle", str(BUNDLE), "--cohort", str(table), "--out", str(out), "--device", "cpu", "--fold", "1"]
    printed = CliRunner().invoke(app, ["train", *options])
    assert printed.exit_code == 0, printed.output
    assert result.text in printed.output
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_frozen_encoder_stays_as_it_was(table, done, tmp_path):
    """Fine-tuned from a fold: every tensor of the encoder bit for bit, statistics too; the others move."""
    start = torch.load(done[0] / "fold0" / "model.pt", weights_only=True)
    settings = {**TINY, "max_epochs": 1, "initial_weights": done[0] / "fold0" / "model.pt"}
    options = [f"--set={name}={'null' if value is None else value}" for name, value in settings.items()]
    options += ["--bundle", str(BUNDLE), "--cohort", str(table), "--out", str(tmp_path), "--device", "cpu"]
    printed = CliRunner().invoke(app, ["train", *options, "--freeze", "encoder"])
    assert printed.exit_code == 0, printed.output
    tuned = torch.load(tmp_path / "last.pt", weights_only=True)["network"]
    same = {name: torch.equal(value, start[name]) for name, value in tuned.items()}
    encoder = {name for name in same if name.startswith("encoder.")}
    assert len(encoder) > 5
    assert all(same[name] for name in encoder)
    assert not any(same[name] for name in ("stems.0.mix.weight", "heads.0.weight") if name in same)
    assert sum(not same[name] for name in same if name not in encoder) > 5


def changed(table: Path, folder: Path, **folds: str) -> Path:
    """The table with absolute paths and other folds."""
    rows = rows_of(table)
    for row in rows:
        row |= {name: str(table.parent / row[name]) for name in (*MODALITIES, "label") if row[name]}
        row["fold"] = folds.get(row["case_id"], row["fold"])
    return write_table(folder / "cohort.csv", rows)


@pytest.mark.parametrize(
    ("settings", "folds", "words"),
    [
        ({"max_epochs": 3}, {}, "max_epochs: was 2, is 3"),
        ({"train::trainer::average_decay": 0.9}, {}, "train::trainer::average_decay: was 0.995, is 0.9"),
        ({}, {"a": "1"}, "fold of a: was 0, is 1"),
        ({}, {"d": ""}, "fold of d: was 1, is not there"),
    ],
)
def test_a_folder_of_another_run_is_refused(table, done, tmp_path, settings, folds, words):
    with pytest.raises(ds.CaseError, match=rf"folds of another run .*{words}.*Choose another --out"):
        run(changed(table, tmp_path, **folds), done[0], settings=settings)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        (dict.fromkeys("abcd", ""), "the table has no folds .*Make them: differseg-med cohort folds cohort.csv --k 5"),
        (
            dict.fromkeys("abcd", "2"),
            "all labelled rows are in fold 2, so nothing is left .*cohort folds cohort.csv --k 5 --reshuffle",
        ),
        (dict(zip("abcd", "0/1/")), "the name of the fold cannot be"),
    ],
)
def test_folds_that_cannot_be_trained_on_are_refused_with_a_remedy(table, tmp_path, folds, words):
    made = changed(table, tmp_path, **folds, e="")
    with pytest.raises(ds.CaseError, match=words):
        read_folds(read_cohort(made, MODALITIES))


def test_folds_that_say_little_are_told(table, tmp_path):
    found = read_folds(read_cohort(changed(table, tmp_path, d="10", e="3"), MODALITIES))
    assert found.names == ("0", "1", "10")
    (line,) = [text for text in found.notices if "one patient" in text]
    assert line.startswith("Fold 1 and 10: each holds one patient")
    with pytest.raises(ds.CaseError, match=r"there is no fold '7' \(expected some of 0, 1, 10, or all\)"):
        found.chosen(["7"])
    rows = rows_of(tmp_path / "cohort.csv")
    rows[2]["subject_id"] = rows[3]["subject_id"] = "P1"
    with pytest.raises(ds.CaseError, match="subject P1 is on both sides of the fold"):
        read_folds(read_cohort(write_table(tmp_path / "cohort.csv", rows), MODALITIES))


def test_a_rule_of_a_fold_is_chosen_on_the_others():
    rules = [Rule(0.3), Rule(0.5), Rule(0.7)]
    scores = {"a": [0.9, 0.1, 0.2], "b": [0.1, 0.8, 0.2], "c": [0.1, 0.7, 0.75]}
    arrays = {case: np.array(values) for case, values in scores.items()}
    folds = {"a": "0", "b": "1", "c": "1"}
    assert nested_rules(arrays, folds, rules, Rule()) == {"0": rules[1], "1": rules[0]}
    assert best_rule(list(arrays.values()), rules) == (rules[1], pytest.approx(1.6 / 3))
    assert nested_rules({"a": arrays["a"]}, folds, rules, Rule(0.6)) == {"0": Rule(0.6)}


def test_a_rule_makes_the_mask_of_the_postprocessing():
    probability = np.zeros((6, 4, 1), dtype=np.float32)
    probability[0, 0], probability[2:4, 0], probability[5, :3] = 0.5, 0.4, 0.6
    whole, large, largest = Rule(0.4), Rule(0.4, min_component_ml=0.002), Rule(0.4, largest_only=True)
    assert [int(rule.apply(probability, 1.0).sum()) for rule in (whole, large, largest, Rule(0.5))] == [6, 5, 3, 4]
    assert overlap(whole.apply(probability, 1.0), large.apply(probability, 1.0)) == pytest.approx(10 / 11)
    assert overlap(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_withheld_channels_are_empty_and_nothing_is_made_of_nothing():
    image = torch.zeros(3, 4, 4, 2)
    image[0], image[2] = 1.0, 2.0  # the second modality is absent
    volume = MetaTensor(image, affine=torch.eye(4), meta={"original_affine": np.eye(4), "spatial_shape": (4, 4, 2)})
    sample = {IMAGE: volume, LABEL: MetaTensor(torch.ones(1, 4, 4, 2)), CHANNELS: list(MODALITIES)}
    total = torch.nn.Conv3d(3, 1, 1, bias=False)
    torch.nn.init.ones_(total.weight)
    found = predict_case(sample, total, SimpleInferer(), MODALITIES, "cpu")["probabilities"][0, :, 0, 0, 0]
    torch.testing.assert_close(found.float(), torch.tensor([3.0, 2.0, 3.0, 1.0]).sigmoid(), atol=1e-3, rtol=0)
    assert list(subset_names(["ct"])) == ["all"]
    alone = {**sample, IMAGE: volume * torch.tensor([1.0, 0, 0])[:, None, None, None]}
    found = predict_case(alone, total, SimpleInferer(), MODALITIES, "cpu")["probabilities"][0]
    assert torch.isnan(found[1]).all()
    assert not torch.isnan(found[[0, 2, 3]]).any()
