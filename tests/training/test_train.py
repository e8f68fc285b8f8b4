"""Two epochs of two steps through train.yaml: files, resuming to the last bit, what is validated and left out."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from support.synthetic import (
    MODALITIES,
    SHORT_TRAINING,
    bundle_workflow,
    read_nifti,
    read_rows,
    row_of,
    tiny_network,
    write_case,
    write_nifti,
    write_split_cohort,
    write_table,
)

from differseg_med.bundles.factories import (
    AveragedNetwork,
    TrainingRecorder,
    optimizer,
    sample_loader,
    training_dataset,
)
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.networks.checkpoints import load_weights
from differseg_med.prediction.quality import Fingerprint
from differseg_med.training.data import cached_items
from differseg_med.training.recorder import draw_curves
from differseg_med.transforms.pipelines import preprocessing


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two cases to train, one to validate, one of each without a label."""
    splits = ("train", "train", "validation", "train")
    return write_split_cohort(tmp_path_factory.mktemp("cohort"), splits, blank={"b": "pet", "d": "label"})


def training(table: Path, out: Path, **overrides):
    """The workflow of train.yaml and its trainer."""
    workflow = bundle_workflow(
        "inference.yaml", "train.yaml", cohort=str(table), output_dir=str(out), **{**SHORT_TRAINING, **overrides}
    )
    return workflow, workflow.parser.get_parsed_content("train::trainer")


def last(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(a, b) -> None:
    """Equal to the last bit, through nested containers."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.fixture(scope="module")
def done(table, tmp_path_factory) -> Path:
    """The folder of an uninterrupted training."""
    out = tmp_path_factory.mktemp("run")
    workflow, _ = training(table, out)
    workflow.run()
    return out


def test_the_files_of_a_training(done):
    names = ["best.pt", "cache", "curves.png", "fingerprint.json", "last.pt", "log.csv", "run.json"]
    assert sorted(p.name for p in done.iterdir()) == names
    assert (done / "curves.png").read_bytes()[:4] == b"\x89PNG"
    rows = rows_of(done)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert all(0 <= float(row["val_dice"]) <= 1 for row in rows)
    assert all(0 <= float(row["val_hd95_mm"]) < 1000 for row in rows)
    assert (last(done)["epoch"], last(done)["iteration"]) == (2, 4)


def test_the_best_checkpoint_loads_strictly_and_is_the_averaged_network(done):
    network = tiny_network(seed=5)
    load_weights(network, done / "best.pt")
    best = torch.load(done / "best.pt", weights_only=True)
    assert_equal(dict(network.state_dict()), dict(best))
    scores = [float(row["val_dice"]) for row in rows_of(done)]
    if scores[1] > scores[0]:  # the last epoch is the best
        assert_equal(dict(best), dict(last(done)["average"]))
    assert any(not torch.equal(best[key], last(done)["network"][key]) for key in best)


def test_another_seed_is_another_training(table, tmp_path):
    networks = []
    for seed in (0, 1):
        workflow, trainer = training(table, tmp_path, seed=seed)
        assert workflow.parser.get_parsed_content("train::trainer").recorder.seed == seed
        networks.append(trainer.network.state_dict())
    assert any(not torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


def test_a_training_repeats_itself_under_its_seed_interrupted_or_not(table, done, tmp_path):
    """Its first epoch is done anew here and its second resumed: the same weights, scores and averages as `done`.

    Here every sample reads its case from the disk, there the cases are in memory.
    """
    workflow, trainer = training(table, tmp_path, **{"train::dataset::memory_gb": 0.0})

    @trainer.on(Events.ITERATION_COMPLETED(once=3))  # in the middle of the second epoch
    def _stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    assert last(tmp_path)["epoch"] == 1
    torch.manual_seed(99)  # another process
    np.random.seed(99)
    training(table, tmp_path)[0].run()
    assert_equal(last(tmp_path), last(done))
    assert rows_of(tmp_path) == rows_of(done)
    assert_equal(torch.load(tmp_path / "best.pt", weights_only=True), torch.load(done / "best.pt", weights_only=True))


def test_a_finished_training_has_nothing_more_to_do(table, done):
    def times() -> dict[str, int]:
        """The fingerprint is measured again: the cohort may have changed."""
        return {p.name: p.stat().st_mtime_ns for p in done.iterdir() if p.suffix in (".pt", ".csv", ".png")}

    before, fingerprint = times(), (done / "fingerprint.json").read_bytes()
    training(table, done)[0].run()
    assert len(before) == 4
    assert times() == before
    assert (done / "fingerprint.json").read_bytes() == fingerprint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_epochs": 3}, "is of another training .*was .*, is .*Choose another output_dir"),
        ({"network_def::decoder_channels": [16, 8, 8, 8]}, "is of another training .* Choose another output_dir"),
    ],
)
def test_another_training_is_not_resumed(table, done, overrides, message):
    workflow, _ = training(table, done, **overrides)
    with pytest.raises(CaseError, match=message):
        workflow.run()


def test_what_is_validated_is_the_average(table, tmp_path):
    workflow, trainer = training(table, tmp_path)
    evaluator, average = workflow.parser.get_parsed_content("validate::evaluator"), trainer.recorder.average
    calls = []
    trainer.network.register_forward_hook(lambda *_: calls.append("trained"))
    average.average.register_forward_hook(lambda *_: calls.append("average"))
    evaluator.run()
    assert set(calls) == {"average"}
    assert not average.average.training


def test_it_is_told_and_kept_which_modalities_the_cases_had(table, done, tmp_path, caplog):
    caplog.set_level("INFO")
    said = write_table(tmp_path / "cohort.csv", changed(table, pet="", ct=""))
    training(said, tmp_path / "out")
    assert "train: 2 cases: t1 2" in caplog.text
    assert "validation: no case has pet" in caplog.text
    assert "no case has t1" not in caplog.text
    caplog.clear()
    training(table, tmp_path / "other")
    assert "train: 2 cases: t1+ct+pet 1, t1+ct 1" in caplog.text
    assert "no case has" not in caplog.text
    assert Fingerprint.read(done / "fingerprint.json").modalities == {"t1": 2, "ct": 2, "pet": 1}


def changed(table: Path, **changes: str) -> list[dict[str, str]]:
    """The rows of a table with absolute paths; ``changes`` replace cells."""
    cells = ("t1", "ct", "pet", "label")
    rows = read_rows(table).values()
    return [{**row, **{c: str(table.parent / row[c]) if row[c] else "" for c in cells}, **changes} for row in rows]


def test_a_case_without_a_label_is_left_out_with_a_message(table, tmp_path, caplog):
    workflow, _ = training(table, tmp_path)
    workflow.parser.get_parsed_content("train::fingerprint")
    assert caplog.text.count("left out: case d: the case has no label. Fill in the column label.") == 1
    assert len(workflow.parser.get_parsed_content("train::dataset")) == 2


def items(table: Path, cache: Path, pixdim=None, **settings) -> Sequence[dict]:
    cases = read_cohort(table, tuple(MODALITIES)).select("train")
    return cached_items(cases, preprocessing(MODALITIES, "t1", pixdim), cache, **settings)


def test_cached_cases_are_plain_and_the_same_from_the_cache(table, tmp_path):
    first = items(table, tmp_path)
    files = sorted(tmp_path.iterdir())
    second = items(table, tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    assert len(files) == 2
    for a, b in zip(first, second):
        assert set(a) == {"image", "label", "channels", "affine", "case_id"}
        assert not isinstance(a["image"], MetaTensor)
        assert_equal(dict(a), dict(b))


def test_cases_beyond_the_memory_are_read_from_the_disk_at_each_access(tmp_path):
    table = write_split_cohort(tmp_path, ("train", "train"))
    size = sum(value.nbytes for value in items(table, tmp_path / "cache")[0].values() if hasattr(value, "nbytes"))
    found = items(table, tmp_path / "cache", memory_gb=1.5 * size / 1e9)
    assert found[0]["image"] is found[0]["image"]
    assert found[1]["image"] is not found[1]["image"]
    assert_equal(found[1]["image"], items(table, tmp_path / "cache")[1]["image"])
    before = found[1]["image"]
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert_equal(found[1]["image"], before)  # made again
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "b" / "ct.nii.gz").write_bytes((tmp_path / "a" / "ct.nii.gz").read_bytes())
    with pytest.raises(CaseError, match=r"case b.*have changed since the training began"):
        found[1]


def test_the_cache_notices_another_setting_and_another_file(tmp_path):
    files = write_case(tmp_path / "a")
    table = write_table(tmp_path / "cohort.csv", [row_of("a", files, tmp_path / "cohort.csv", split="train")])
    before = items(table, tmp_path / "cache")[0]["image"]
    assert items(table, tmp_path / "cache", (3.0, 3.0, 3.0))[0]["image"].shape != before.shape
    ct = read_nifti(files["ct"])
    ct.data[:] = 240.0
    write_nifti(files["ct"], ct)
    assert bool((items(table, tmp_path / "cache")[0]["image"][1] == 2).all())


def test_bad_cases_are_left_out_and_none_at_all_is_an_error(tmp_path, caplog):
    files = {case: write_case(tmp_path / case) for case in ("a", "b", "c")}
    table = tmp_path / "cohort.csv"
    rows = [row_of(case, files[case], table, split="train") for case in ("a", "b", "c")]
    files["a"]["ct"].unlink()
    files["b"]["label"].write_bytes(b"x")
    write_table(table, rows)
    assert [item["case_id"] for item in items(table, tmp_path / "cache")] == ["c"]
    assert "left out: case a, file a/ct.nii.gz: there is no such file" in caplog.text
    assert "left out: case b, file b/label.nii.gz: the file cannot be read" in caplog.text
    write_table(table, rows[:2])
    with pytest.raises(CaseError, match="no case can be used"):
        training_dataset(table, MODALITIES, preprocessing(MODALITIES, "t1"), tmp_path / "cache")


def test_a_label_without_any_of_the_chosen_values_is_told(tmp_path, caplog):
    table = tmp_path / "cohort.csv"
    row = row_of("a", write_case(tmp_path / "a"), table, split="train")
    write_table(table, [{**row, "label": f"{row['label']}::2,3"}])
    assert not items(table, tmp_path / "cache")[0]["label"].any()
    assert "case a: the label is empty" in caplog.text


def test_the_average_follows_slowly():
    network = torch.nn.BatchNorm1d(2)
    average = AveragedNetwork(network, decay=0.9)
    with torch.no_grad():
        network.weight += 1.0
        network.num_batches_tracked += 7
    average.update(network, step=1)  # decay is (1 + 1) / (10 + 1) at first
    assert average.average.weight.tolist() == pytest.approx([1 + 9 / 11] * 2)
    assert average.average.num_batches_tracked == 7
    average.update(network, step=10_000)
    assert average.average.weight.tolist() == pytest.approx([2 - 2 / 11 * 0.9] * 2)
    assert not any(p.requires_grad for p in average.parameters())


def test_epochs_have_as_many_batches_as_asked_whatever_the_number_of_cases():
    loader = sample_loader(list(range(3)), batch_size=4, iterations=5, seed=1)
    batches = [batch.tolist() for batch in loader]
    assert [len(batch) for batch in batches] == [4] * 5
    assert {i for batch in batches for i in batch} == {0, 1, 2}


def test_gradients_are_clipped(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    sgd = torch.optim.SGD(network.parameters(), lr=1.0)
    recorder = TrainingRecorder(network, AveragedNetwork(network), sgd, None, tmp_path, max_gradient_norm=0.5)
    sgd.register_step_pre_hook(recorder._clip)
    before = network.weight.item()
    (network.weight.sum() * 100).backward()
    sgd.step()
    assert before - network.weight.item() == pytest.approx(0.5, rel=1e-4)


def test_frozen_parameters_are_left_alone():
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    assert [p.shape for group in optimizer(network).param_groups for p in group["params"]] == [(2, 2)]


def test_curves_before_the_first_validation(tmp_path):
    draw_curves([{"epoch": 1, "loss": 0.5, "learning_rate": 0.1, "val_dice": ""}], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_no_resume_begins_anew_and_amp_trains_in_bfloat16_with_float32_weights(table, done, tmp_path):
    """Beside the checkpoint of another training, which would be refused to a resumed one."""
    (tmp_path / "last.pt").write_bytes((done / "last.pt").read_bytes())
    anew = {"train::trainer::resume": False, "amp": True, "max_epochs": 1, "iterations": 1}
    workflow, trainer = training(table, tmp_path, **anew)
    seen = []
    trainer.network.reduce[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    workflow.run()
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in last(tmp_path)["network"].values() if value.is_floating_point()} == {torch.float32}
    assert math.isfinite(float(rows_of(tmp_path)[0]["loss"]))
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1"]
    assert last(tmp_path)["epoch"] == 1
