"""Samples drawn in batches on the device are those that the transforms draw one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from differseg_med.errors import ConfigError
from differseg_med.transforms.batched import BatchedSamples, batch_parts
from differseg_med.transforms.pipelines import training_samples
from differseg_med.transforms.slices import gather_slabs, to_plane

MODALITIES, SLICES = 3, 3
PLANES = ("axial", "coronal", "sagittal")


def cases(seed: int = 0) -> list[dict]:
    """Volumes of different shapes; the second has no second modality."""
    random = np.random.RandomState(seed)
    items = []
    for number, shape in enumerate([(14, 20, 9), (31, 12, 17)]):
        image = torch.from_numpy(random.normal(0, 1, (MODALITIES, *shape)).astype("float32"))
        label = torch.zeros(1, *shape)
        label[0, 4:9, 5:10, 3:6] = 1
        if number:
            image[1] = 0
        items.append({"image": image, "label": label, "case_id": f"case{number}"})
    return items


def samples(**settings) -> Compose:
    quiet = {"intensity": 0.0, "max_shift": 0.0, "modality_dropout": 0.0, "placement": {}} | settings
    return training_samples([SLICES] * MODALITIES, (24, 32), SLICES, 2, PLANES, **quiet)


@pytest.mark.parametrize("placement", [{}, {"target_prob": 0.7}])
def test_a_batch_is_what_the_transforms_place(monkeypatch, placement):
    """Slab, crop, turn, zoom and mirror of every sample of a batch, through MONAI's and torch's own operations."""
    items, made = cases(), samples(placement=placement)
    batched = BatchedSamples(items, made, "cpu")
    _slab, place, flip, *_ = batch_parts(made)
    drawn = []
    real = type(place).draw

    def recorded(self, random, shape, target):
        found = real(self, random, shape, target)
        drawn.append(found)
        return found

    monkeypatch.setattr(type(place), "draw", recorded)
    told = []
    geometry = BatchedSamples._geometry
    monkeypatch.setattr(BatchedSamples, "_geometry", lambda self, *args: told.append(args) or geometry(self, *args))
    flip.prob = 0.0
    batch = batched.batch(40)
    assert batch["image"].shape == (40, MODALITIES * SLICES, 24, 32)
    assert batch["label"].shape == (40, 1, 24, 32)
    (chosen, planes, centers), one_by_one = told[0], list(drawn)
    assert set(planes) == set(PLANES)
    assert {batch["case_id"][n] for n in range(40)} == {"case0", "case1"}
    for n in range(40):
        item = items[chosen[n]]
        image = gather_slabs(to_plane(item["image"], planes[n]), torch.tensor([centers[n]]), SLICES, 2)[0]
        label = to_plane(item["label"], planes[n])[:, centers[n]]
        monkeypatch.setattr(type(place), "draw", lambda *_, n=n: one_by_one[n])
        wanted = place({"image": image, "label": label})
        torch.testing.assert_close(batch["image"][n], wanted["image"], atol=2e-5, rtol=0)
        assert (batch["label"][n] != wanted["label"]).float().mean() < 0.003  # a weight of exactly one half


def test_the_slices_of_a_mirrored_slab_are_reversed():
    items = cases()
    straight, reversed_ = BatchedSamples(items, samples(), "cpu"), BatchedSamples(items, samples(), "cpu")
    straight.flip.prob, reversed_.flip.prob = 0.0, 1.0
    a, b = (s.batch(8)["image"].unflatten(1, (MODALITIES, SLICES)) for s in (straight, reversed_))
    torch.testing.assert_close(a.flip(2), b)


def test_a_seed_repeats_its_batches_and_another_does_not():
    made = samples(intensity=1.0, max_shift=2.0, modality_dropout=0.5)
    batched = BatchedSamples(cases(), made, "cpu")
    found = []
    for seed in (7, 7, 8):
        batched.set_random_state(seed)
        found.append([batched.batch(4)["image"] for _ in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1]))
    assert not torch.equal(found[0][0], found[2][0])
    assert not torch.equal(found[0][0], found[0][1])


def test_intensities_change_as_much_as_one_by_one_and_no_data_stays_zero():
    """Mean and spread over many samples of the change of a constant image, against the transform's own."""
    image = torch.full((MODALITIES, 24, 32, 40), 0.7)
    image[:, :, :, :20] = 0
    items = [{"image": image, "label": torch.zeros(1, 24, 32, 40), "case_id": "a"}]
    placed = {
        "crop_prob": 0.0,
        "turn_prob": 0.0,
        "any_turn_prob": 0.0,
        "zoom_prob": 0.0,
        "stretch": 0.0,
        "shift": 0.0,
        "flip_prob": 0.0,
    }
    made = training_samples([3] * 3, (24, 32), 3, 1, ("axial",), modality_dropout=0.0, max_shift=0.0, placement=placed)
    many = BatchedSamples(items, made, "cpu").batch(600)["image"]
    made.set_random_state(3)
    singly = torch.stack([made(items[0])["image"] for _ in range(600)])
    for found in (many, singly):
        assert found.isfinite().all()
    empty, full = [[found.flatten(1).any(dim=1) for found in (many, singly)], [many, singly]]
    assert abs(empty[0].float().mean() - empty[1].float().mean()) < 0.08  # half of the slices have nothing
    a, b = (found[there].flatten(2).mean(dim=2) for found, there in zip(full, empty))
    assert abs(a.mean() - b.mean()) < 0.03
    assert abs(a.std() - b.std()) < 0.04
    inside_a, inside_b = (found[there].flatten(2).std(dim=2).mean() for found, there in zip(full, empty))
    assert abs(inside_a - inside_b) < 0.02


def test_modalities_are_dropped_by_chance_and_weight_but_never_all():
    made = samples(modality_dropout=0.6, dropout_weights=[1.0, 1.0, 6.0])
    items = cases()
    batched = BatchedSamples(items, made, "cpu")
    batched.place.draw = lambda random, shape, _: ([0, shape[0], 0, shape[1]], np.eye(2), np.zeros(2))
    batch = batched.batch(1500)
    given = batch["image"].unflatten(1, (MODALITIES, SLICES)).flatten(2).any(dim=2)
    assert given.any(dim=1).all()
    first = torch.tensor([case == "case0" for case in batch["case_id"]])
    assert not given[~first, 1].any()
    whole = given[first].all(dim=1).float().mean().item()
    assert whole == pytest.approx(0.4, abs=0.05)
    lacking = 1 - given[first].float().mean(dim=0)
    assert lacking[2] > 2 * lacking[0]
    made.set_random_state(0)
    dropout = made.transforms[-2]
    singly = torch.stack([dropout({"image": torch.ones(9, 2, 2)})["image"] for _ in range(3000)])
    expected = 1 - singly.unflatten(1, (3, 3)).flatten(2).any(dim=2).float().mean(dim=0)
    assert lacking.tolist() == pytest.approx(expected.tolist(), abs=0.05)


@pytest.mark.parametrize(
    ("made", "entry"),
    [
        (training_samples([3, 3], (24, 24), 3), "train::samples"),
        (training_samples([3, 9], (24, 24), 3, placement={}), "in_channels"),
        (None, "train::samples"),
    ],
)
def test_other_samples_are_refused_in_words(made, entry):
    with pytest.raises(ConfigError, match=entry):
        BatchedSamples([], made, "cpu")
