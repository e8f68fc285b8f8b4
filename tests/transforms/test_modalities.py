"""Channels in declared order; dropout never leaves a slab without any modality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from differseg_med.keys import IMAGE, PRESENT, REFERENCE
from differseg_med.transforms.modalities import ConcatModalitiesd, RandModalityDropoutd
from differseg_med.transforms.pipelines import preprocessing

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def volume(value: float) -> MetaTensor:
    return MetaTensor(torch.full((1, 2, 3, 4), value), affine=AFFINE, meta={"original_affine": AFFINE * 2})


def test_declared_order_and_absent_as_zero():
    stack = ConcatModalitiesd(("t1", "ct", "pet"))
    done = stack({"pet": volume(3), "t1": volume(1), REFERENCE: "t1", "case_id": "a"})
    assert done[IMAGE].shape == (3, 2, 3, 4)
    assert done[IMAGE].flatten(1).mean(1).tolist() == [1, 0, 3]
    assert done[PRESENT] == ["t1", "pet"]
    assert done["channels"] == ["t1", "ct", "pet"]
    assert set(done) == {IMAGE, PRESENT, REFERENCE, "case_id", "channels"}


def test_the_image_remembers_the_references_grid():
    done = ConcatModalitiesd(("t1", "ct"))({"ct": volume(1), REFERENCE: "ct"})
    np.testing.assert_array_equal(done[IMAGE].affine, AFFINE)
    np.testing.assert_array_equal(done[IMAGE].meta["original_affine"], AFFINE * 2)
    assert done[IMAGE].dtype == torch.float32


def test_a_modality_may_be_called_image():
    done = ConcatModalitiesd(("image",))({"image": volume(5), REFERENCE: "image"})
    assert done[IMAGE].shape == (1, 2, 3, 4)
    assert done[PRESENT] == ["image"]


@pytest.mark.parametrize("name", ["label", "case_id", "notes", "reference", "modalities", "split"])
def test_names_that_mean_something_else_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        preprocessing({name: {"kind": "mr"}, "ct": {"kind": "ct"}}, "ct")


CHANNELS = [3, 3, 3]


def slab(present=(0, 1, 2), k: int = 3) -> torch.Tensor:
    out = torch.zeros(3 * k, 4, 4)
    for i in present:
        out[i * k : (i + 1) * k] = i + 1
    return out


def kept_by(drop: RandModalityDropoutd, image: torch.Tensor) -> tuple[int, ...]:
    out = drop({"x": image})["x"]
    kept = []
    for i, (before, after) in enumerate(zip(image.chunk(3), out.chunk(3))):
        assert torch.equal(after, before) or not bool(after.any())  # whole modalities or nothing
        if bool(after.any()):
            kept.append(i)
    return tuple(kept)


def test_dropout_never_drops_all_and_reaches_every_subset():
    drop = RandModalityDropoutd("x", CHANNELS, prob=1.0).set_random_state(0)
    seen = {kept_by(drop, slab()) for _ in range(200)}
    assert seen == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}


def test_dropout_never_takes_the_only_modality():
    drop = RandModalityDropoutd("x", CHANNELS, prob=1.0).set_random_state(0)
    assert {kept_by(drop, slab((1,))) for _ in range(20)} == {(1,)}
    assert {kept_by(drop, slab((0, 2))) for _ in range(50)} == {(0,), (2,)}
    assert {kept_by(drop, slab(())) for _ in range(5)} == {()}


def test_dropout_is_as_frequent_as_asked():
    drop = RandModalityDropoutd("x", CHANNELS, prob=0.4).set_random_state(0)
    changed = sum(kept_by(drop, slab()) != (0, 1, 2) for _ in range(1000))
    assert 340 < changed < 460
    never = RandModalityDropoutd("x", CHANNELS, prob=0.0).set_random_state(0)
    assert {kept_by(never, slab()) for _ in range(50)} == {(0, 1, 2)}


def test_dropout_repeats_itself_under_a_seed_and_leaves_its_input_alone():
    image = slab()
    runs = [
        [kept_by(drop, image) for _ in range(30)]
        for drop in (RandModalityDropoutd("x", CHANNELS).set_random_state(s) for s in (7, 7, 8))
    ]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(image, slab())


def test_one_modality_may_be_dropped_more_often():
    drop = RandModalityDropoutd("x", CHANNELS, prob=1.0, weights=[1, 1, 8]).set_random_state(0)
    kept = [kept_by(drop, slab()) for _ in range(400)]
    shares = [np.mean([i in k for k in kept]) for i in range(3)]
    assert shares[2] < 0.25 < 0.5 < min(shares[:2])
    for weights in ([1, 1], [1, 0, 1], [1, 1, -1]):
        with pytest.raises(ValueError, match="weights needs 3 positive numbers"):
            RandModalityDropoutd("x", CHANNELS, weights=weights)
