"""Slabs: the order of channels to the letter, and augmentation that keeps what it must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from differseg_med.transforms.pipelines import training_samples
from differseg_med.transforms.slices import (
    PLANES,
    RandFlipSlabd,
    RandModalityIntensityd,
    RandSlabd,
    from_plane,
    gather_slabs,
    slab_indices,
    to_plane,
)


def numbered(modalities: int = 2, shape=(4, 5, 6)) -> Tensor:
    """A volume whose voxels say where they are: 1000 * modality + 100 r + 10 a + s."""
    m, r, a, s = torch.meshgrid(*(torch.arange(n) for n in (modalities, *shape)), indexing="ij")
    return (1000 * (m + 1) + 100 * r + 10 * a + s).float()


def test_channels_are_modality_major_with_slices_ascending():
    slabs = gather_slabs(to_plane(numbered(), "axial"), torch.tensor([3, 1]), 3)
    assert slabs.shape == (2, 6, 4, 5)
    assert slabs[0, :, 0, 0].tolist() == [1002, 1003, 1004, 2002, 2003, 2004]
    assert slabs[1, :, 2, 4].tolist() == [1240, 1241, 1242, 2240, 2241, 2242]


def test_slices_further_apart():
    slabs = gather_slabs(to_plane(numbered(), "axial"), torch.tensor([3]), 3, 2)
    assert slabs[0, :, 0, 0].tolist() == [1001, 1003, 1005, 2001, 2003, 2005]


@pytest.mark.parametrize(
    ("center", "k", "step", "indices"),
    [(0, 3, 1, [0, 0, 1]), (5, 3, 1, [4, 5, 5]), (1, 5, 1, [0, 0, 1, 2, 3]), (1, 3, 2, [0, 1, 3]), (2, 1, 1, [2])],
)
def test_border_slices_repeat(center, k, step, indices):
    assert slab_indices(center, k, 6, step).tolist() == indices


def test_a_volume_of_one_slice():
    assert slab_indices(0, 5, 1).tolist() == [0] * 5
    assert gather_slabs(torch.ones(2, 1, 3, 3), torch.tensor([0]), 3).shape == (1, 6, 3, 3)


@pytest.mark.parametrize(
    ("plane", "shape", "voxel"),
    [("axial", (2, 6, 4, 5), [5, 3, 2]), ("coronal", (2, 5, 4, 6), [2, 3, 5]), ("sagittal", (2, 4, 5, 6), [3, 2, 5])],
)
def test_planes_and_back(plane, shape, voxel):
    volume = numbered()
    slices = to_plane(volume, plane)
    assert slices.shape == shape
    assert slices[(0, *voxel)] == 1325  # r 3, a 2, s 5
    assert torch.equal(from_plane(slices, plane), volume)


def draw(seed: int, **settings) -> dict[str, Tensor]:
    label = torch.zeros(1, 4, 5, 6)
    label[0, 1:3, 2, 4] = 1
    transform = RandSlabd("image", "label", **settings).set_random_state(seed)
    return transform({"image": numbered(), "label": label, "other": "kept"})


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("step", [1, 2])
def test_the_label_is_that_of_the_centre_slice(plane, step):
    label = numbered(1)
    transform = RandSlabd("image", "label", 3, step, (plane,)).set_random_state(0)
    for _ in range(20):
        sample = transform({"image": numbered(), "label": label})
        assert torch.equal(sample["label"][0], sample["image"][1])
        assert torch.equal(sample["label"][0] + 1000, sample["image"][4])


def test_slabs_with_target_are_as_frequent_as_asked():
    with_target = [bool(draw(i, foreground_prob=1.0)["label"].any()) for i in range(50)]
    assert all(with_target)
    share = np.mean([bool(draw(i, foreground_prob=0.5)["label"].any()) for i in range(600)])
    assert share == pytest.approx(0.5 + 0.5 / 6, abs=0.07)  # one axial slice of six by chance


def test_every_slice_and_plane_is_drawn():
    seen = set()
    for seed in range(300):
        image = draw(seed, planes=tuple(PLANES), foreground_prob=0.0)["image"]
        seen.add((tuple(image.shape[1:]), image[1, 0, 0].item()))
    assert len(seen) == 4 + 5 + 6


def test_the_rest_of_the_sample_is_kept_and_the_volume_unchanged():
    volume = numbered()
    sample = RandSlabd("image", "label")({"image": volume, "label": torch.zeros(1, 4, 5, 6), "other": "kept"})
    assert sample["other"] == "kept"
    sample["label"] += 1
    assert torch.equal(volume, numbered())


@pytest.mark.parametrize("settings", [{"num_slices": 2}, {"num_slices": 0}, {"planes": ["oblique"]}, {"planes": []}])
def test_impossible_slabs(settings):
    with pytest.raises(ValueError, match=r"num_slices must be odd|planes must be some of"):
        RandSlabd("image", "label", **settings)


@pytest.mark.parametrize("step", [0, -1])
def test_neighbours_must_be_apart(step):
    with pytest.raises(ValueError, match="slice_step"):
        RandSlabd("image", "label", 3, step)


def test_a_reversed_slab_keeps_modalities_and_centres():
    slab = gather_slabs(to_plane(numbered(), "axial"), torch.tensor([3]), 3)[0]
    found = RandFlipSlabd("image", 3, prob=1.0)({"image": slab})["image"]
    assert found[:, 0, 0].tolist() == [1004, 1003, 1002, 2004, 2003, 2002]


def intensities(seed: int, image: Tensor, **settings) -> Tensor:
    return RandModalityIntensityd("image", [3, 3, 3], **settings).set_random_state(seed)({"image": image})["image"]


def slab_with_holes() -> Tensor:
    torch.manual_seed(0)
    image = torch.randn(9, 16, 16) + 3
    image[:, :4] = 0
    image[6:] = 0  # the third modality is absent
    return image


def test_augmentation_keeps_no_data_zero():
    image = slab_with_holes()
    for seed in range(100):
        assert not bool(intensities(seed, image)[6:].any())  # absent stays absent
        # A single modality is never shifted against others, so that its holes stay where they are.
        found = RandModalityIntensityd("image", [9]).set_random_state(seed)({"image": image})["image"]
        assert torch.equal(found == 0, image == 0)
        assert bool(torch.isfinite(found).all())
    assert torch.equal(image, slab_with_holes())


def test_augmentation_changes_modalities_apart_and_repeats_itself_under_a_seed():
    image = slab_with_holes()
    results = [intensities(seed, image, prob=1.0) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    ratio = (results[0] / image)[:, 8, 8]
    assert ratio[1].item() != pytest.approx(ratio[4].item(), rel=1e-3)


def test_strength_zero_changes_nothing():
    for seed in range(40):
        torch.testing.assert_close(intensities(seed, slab_with_holes(), strength=0.0), slab_with_holes())


def test_the_first_modality_never_moves_against_the_label():
    image = torch.zeros(9, 16, 16)
    image[:, 8, 8] = 1
    moved = []
    for seed in range(60):
        found = intensities(seed, image, prob=0.0)
        assert torch.equal(found[:3], image[:3])
        moved.append(not torch.equal(found[3:6], image[3:6]))
    assert 8 <= sum(moved) <= 30


def sample_of(transform, size: int = 24) -> dict[str, Tensor]:
    """A case that is all signal with the target in its middle."""
    image, label = torch.ones(2, size, size, size), torch.zeros(1, size, size, size)
    label[0, 9:15, 9:15, 9:15] = 1
    image[:, 9:15, 9:15, 9:15] = 3
    return transform({"image": image, "label": label, "case_id": "a"})


def test_a_training_sample_has_the_windows_size_and_its_label_fits():
    transform = training_samples([3, 3], (32, 32), modality_dropout=0.0, intensity=0.0).set_random_state(0)
    for _ in range(30):
        sample = sample_of(transform)
        assert set(sample) == {"image", "label", "case_id"}  # training names the cases of a step that went wrong
        assert sample["image"].shape == (6, 32, 32)
        assert sample["label"].shape == (1, 32, 32)
        assert set(sample["label"].unique().tolist()) <= {0.0, 1.0}
        target = sample["label"][0] > 0
        if target.sum() > 30:  # the bright part is where the label is, after crop, turn and shift
            assert sample["image"][1][target].mean() > 2
            assert sample["image"][1][~target].mean() < 1.5


def test_the_target_is_anywhere_in_the_window():
    transform = training_samples([3, 3], (32, 32), foreground_prob=1.0).set_random_state(0)
    centers = []
    for _ in range(150):
        label = sample_of(transform)["label"][0]
        if bool(label.any()):
            centers.append(label.nonzero().float().mean(dim=0))
    spread = torch.stack(centers).std(dim=0)
    assert len(centers) > 120
    assert bool((spread > 4).all()), spread  # a target that stays in the middle has 0; +-8 evenly spread has 4.6
    assert bool((torch.stack(centers).mean(dim=0) - 15.5).abs().max() < 2)


def test_samples_repeat_themselves_under_a_seed():
    runs = []
    for seed in (3, 3, 4):
        transform = training_samples([3, 3], (32, 32), planes=tuple(PLANES)).set_random_state(seed)
        runs.append(torch.stack([sample_of(transform)["image"] for _ in range(4)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_training_sample_is_a_plain_tensor():
    """The network would compute through MONAI's tracking of metadata, for nothing."""
    sample = sample_of(training_samples([3, 3], (32, 32)))
    assert type(sample["image"]) is type(sample["label"]) is Tensor
