"""Trainings that cannot go on: they stop where it happens, keep the last good files, and never mix with another."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from torch import nn

from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.runs.manifest import read_steps
from differseg_med.training.averaging import AveragedNetwork
from differseg_med.training.data import TrainingDataset
from differseg_med.training.preflight import refuse_leaks, try_samples
from differseg_med.training.recorder import TrainingRecorder
from differseg_med.training.train import RecordedTrainer
from differseg_med.transforms.pipelines import training_samples


def items(**changes: float) -> list[dict]:
    """Cases of 8 x 8 pixels; ``changes`` give all pixels of one a value."""
    made = []
    for number, case in enumerate("abcd"):
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(number))
        image = torch.full_like(image, changes[case]) if case in changes else image
        made.append({"image": image, "label": (image > 0.5).float(), "case_id": case})
    return made


def trainer(
    out: Path, data: list[dict], *, epochs: int = 2, lr: float = 0.01, unreadable=(), **settings
) -> RecordedTrainer:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    recorder = TrainingRecorder(network, AveragedNetwork(network), optimizer, scheduler, out, **settings)
    return RecordedTrainer(
        recorder,
        network=network,
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(TrainingDataset(data, None, unreadable=unreadable), batch_size=2),
        loss_function=nn.BCEWithLogitsLoss(),
    )


def last(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def epochs_of(out: Path) -> list[str]:
    with (out / "log.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_break_down_never_reach_the_weights(tmp_path, value):
    data = items()
    stopped = trainer(tmp_path / "out", data, epochs=3, val_interval=1)

    def spoil(engine) -> None:
        data[3]["image"][:] = value  # from the second epoch on; batches are (a, b) and (c, d)

    stopped.add_event_handler(Events.EPOCH_COMPLETED(once=1), spoil)
    with pytest.raises(CaseError) as caught:
        stopped.run()
    for words in ("not numbers", "step 4 in epoch 2, with c, d", "last.pt", "learning_rate"):
        assert words in str(caught.value)
    assert last(tmp_path / "out")["epoch"] == 1
    state = {**stopped.network.state_dict(), **torch.load(tmp_path / "out" / "best.pt", weights_only=True)}
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert epochs_of(tmp_path / "out") == ["1"]
    assert read_steps(tmp_path / "out")["train"].state == "stopped"


def test_without_validation_the_last_average_is_the_best(tmp_path, caplog):
    caplog.set_level("INFO")
    trainer(tmp_path, items()).run()
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    average = last(tmp_path)["average"]
    assert all(torch.equal(best[name], average[name]) for name in average)
    assert caplog.text.count(": the average of the last epoch\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.5}, r"lr.*was.*0\.01.*is.*0\.5"),
        ({"max_gradient_norm": 1.0}, "max_gradient_norm: was 5.0, is 1.0"),
        ({"seed": 7}, "seed: was 0, is 7"),
        ({"val_interval": 2}, "val_interval: was 5, is 2"),
        ({"data": items(b=0.25)}, "train b: changed"),
        ({"data": items()[:3]}, "train d: in one of the two only"),
    ],
)
def test_a_started_training_does_not_go_on_as_another(tmp_path, settings, words):
    trainer(tmp_path, items(), epochs=1).run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CaseError, match=rf"is of another training .*{words}.*Choose another output_dir"):
        trainer(tmp_path, **{"data": items(), "epochs": 2, **settings}).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_resume_the_old_training_is_set_aside(tmp_path):
    trainer(tmp_path, items(), epochs=1).run()
    old = (tmp_path / "last.pt").read_bytes()
    trainer(tmp_path, items(), epochs=1, lr=0.5, resume=False).run()
    assert [path.read_bytes() for path in tmp_path.glob("earlier_runs/*/last.pt")] == [old]
    assert len(list(tmp_path.glob("earlier_runs/*/run.json"))) == 1


def test_the_log_is_whole_after_a_kill_between_checkpoint_and_log(tmp_path):
    trainer(tmp_path, items(), epochs=2).run()
    log, curves = (tmp_path / "log.csv").read_bytes(), (tmp_path / "curves.png").read_bytes()
    (tmp_path / "log.csv").write_bytes(b"\n".join(log.splitlines()[:2]) + b"\n")
    (tmp_path / "curves.png").unlink()
    trainer(tmp_path, items(), epochs=2).run()
    assert (tmp_path / "log.csv").read_bytes() == log
    assert (tmp_path / "curves.png").read_bytes() == curves


def test_cases_left_out_are_told_when_the_training_is_finished(tmp_path):
    unreadable = [CaseError("the file cannot be read", case="x")]
    engine = trainer(tmp_path, items(), unreadable=unreadable)
    engine.run()
    assert engine.problem == "trained without 1 of 1 cases, which could not be read: x"
    assert last(tmp_path)["epoch"] == 2
    assert read_steps(tmp_path)["train"].state == "finished"


@pytest.mark.parametrize("shape", [(24, 24, 1), (1, 24, 24), (3, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("placement", [None, {}])
def test_thin_images_give_samples_of_the_window(shape, placement):
    data = [{"image": torch.rand(3, *shape), "label": torch.ones(1, *shape), "case_id": "thin"}]
    planes = ("axial", "coronal", "sagittal")
    samples = training_samples([3, 3, 3], (16, 16), planes=planes, placement=placement)
    try_samples(data, samples)
    for _ in range(20):
        drawn = samples(data[0])
        assert (tuple(drawn["image"].shape), tuple(drawn["label"].shape)) == ((9, 16, 16), (1, 16, 16))
        assert drawn["case_id"] == "thin"


def test_a_case_that_gives_no_sample_is_named_before_the_training(tmp_path):
    data = [{"image": torch.rand(2, 9, 9, 9), "label": torch.ones(1, 9, 9, 9), "case_id": "two"}]
    with pytest.raises(CaseError, match=r"case two: no training sample can be drawn from this image of 9 x 9 x 9"):
        try_samples(data, training_samples([3, 3, 3], (16, 16)))


def test_one_of_several_processes_does_not_train(tmp_path, monkeypatch):
    """`torchrun --nproc_per_node=2` would train the same network twice into one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CaseError, match=r"in one process.*found 2.*Put configs/multi_gpu_train\.yaml behind"):
        trainer(tmp_path / "out", items()).run()
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    trainer(tmp_path / "out", items(), epochs=1).run()


def test_subjects_on_both_sides_are_refused(tmp_path):
    odd = Path(__file__).parents[1] / "data" / "odd_tables"
    with pytest.raises(CaseError, match="subject P1 is on both sides of the split"):
        refuse_leaks(read_cohort(odd / "leak.csv", ("t1", "ct", "pet")))
    refuse_leaks(read_cohort(odd / "split_var.csv", ("t1", "ct", "pet")))
