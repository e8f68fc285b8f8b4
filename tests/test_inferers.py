"""The 2.5D inferer against plain loops over slices, with networks whose answers are known."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from support.synthetic import tiny_network
from torch import Tensor

from differseg_med.inferers import SliceWindowInferer
from differseg_med.networks.fusion import present_modalities
from differseg_med.transforms.slices import PLANES


def center_of_first(x: Tensor) -> Tensor:
    """The centre slice of the first of two modalities."""
    return x[:, 1:2]


class Counting:
    """Remembers what a network was asked."""

    def __init__(self, network=center_of_first) -> None:
        self.network = network
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, *args) -> Tensor:
        assert type(x) is Tensor
        self.shapes.append(tuple(x.shape))
        return self.network(x, *args)

    @property
    def windows(self) -> int:
        return sum(shape[0] for shape in self.shapes)


def volume(*shape: int, modalities: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(1, modalities, *shape, generator=torch.Generator().manual_seed(seed))


def test_one_window_per_slice_is_a_loop_over_slices():
    network, x = tiny_network(), volume(32, 32, 4, modalities=3)
    found = SliceWindowInferer((32, 32), 3, overlap=0.5)(x, network)
    for z in range(4):
        slab = torch.cat([x[0, m, :, :, [max(z - 1, 0), z, min(z + 1, 3)]].permute(2, 0, 1) for m in range(3)])
        with torch.no_grad():
            expected = network(slab[None])[0, 0]
        torch.testing.assert_close(found[0, 0, :, :, z], expected, atol=1e-4, rtol=1e-4)


def test_neighbours_further_apart():
    x = volume(8, 8, 7)
    found = SliceWindowInferer((8, 8), slice_step=2)(x, lambda w: w[:, 0:1] - w[:, 2:3])
    index = torch.arange(7)
    expected = x[0, 0][..., (index - 2).clamp(min=0)] - x[0, 0][..., (index + 2).clamp(max=6)]
    torch.testing.assert_close(found[0, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 3), (20, 9, 3), (33, 17, 2), (5, 7, 3), (1, 1, 1), (3, 40, 1), (16, 16, 1)])
@pytest.mark.parametrize("planes", [["axial"], list(PLANES)], ids=["axial", "three"])
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
def test_a_network_that_repeats_its_input_is_repeated_for_any_size(shape, planes, flip):
    x = volume(*shape)
    found = SliceWindowInferer((8, 8), planes=planes, flip=flip, sw_batch_size=5)(x, center_of_first)
    assert found.shape == (1, 1, *shape)
    torch.testing.assert_close(found[0, 0], x[0, 0], atol=1e-4, rtol=1e-4)


def test_tiles_blend():
    """Two networks' answers side by side: the window that starts at column 0 says 0, the next one 2."""

    def by_position(w: Tensor) -> Tensor:
        return torch.where(w[:, :1, :1, :1] == 0, 0.0, 2.0).repeat(1, 1, 8, 8)

    columns = torch.arange(12.0)
    x = columns.expand(1, 2, 8, 12)[..., None].repeat(1, 1, 1, 1, 1) + 0.0
    x[..., 0, :] = 0
    x[:, :, :, 0, :] = 0
    found = SliceWindowInferer((8, 8), overlap=0.5)(x, by_position)[0, 0, 4, :, 0]
    torch.testing.assert_close(found[:4], torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[8:], torch.full((4,), 2.0), atol=1e-4, rtol=0)
    middle = found[4:8]
    assert bool((middle.diff() > 0.1).all())
    assert bool(((middle > 0) & (middle < 2)).all())
    torch.testing.assert_close(middle + middle.flip(0), torch.full((4,), 2.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(20, 9, 6), (33, 40, 3), (10, 8, 5)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_tiles_are_those_of_monai(shape, overlap):
    """With answers that depend on the place in a window, batches that do not end with a slice, and empty windows."""
    x = volume(*shape)
    x[..., :8, :8, :2] = 0
    ramp = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    network = Counting(lambda w: w[:, 1:2] + ramp + w.mean(dim=(1, 2, 3), keepdim=True))
    found = SliceWindowInferer((8, 8), overlap=overlap, sw_batch_size=7)(x, network)
    for z in range(shape[2]):
        slab = x[0][..., [max(z - 1, 0), z, min(z + 1, shape[2] - 1)]].permute(0, 3, 1, 2).flatten(0, 1)[None]
        expected = sliding_window_inference(slab, (8, 8), 5, network.network, overlap=overlap, mode="gaussian")
        torch.testing.assert_close(found[..., z], expected, atol=1e-4, rtol=1e-4)
    sizes = [shape[0] for shape in network.shapes]
    assert sum(size < 7 for size in sizes) <= 2  # what is left at the end, and the one empty window


def bump(position: tuple[float, ...], radius: float, shape: tuple[int, ...] = (24, 24, 40)) -> Tensor:
    """Logits that are high within a ball, for a network that repeats its input."""
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    distance = sum((a - p) ** 2 for a, p in zip(axes, position)) ** 0.5
    return torch.stack([radius - distance, torch.randn(shape, generator=torch.Generator().manual_seed(0))])[None]


def disc(z: int, radius: float) -> Tensor:
    """Logits that are high within one axial slice only."""
    x = bump((9, 12, z), radius)
    x[0, 0, ..., :z] = x[0, 0, ..., z + 1 :] = -6.0
    return x


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("x", [bump((9, 12, 25), 1.5), disc(26, 4)], ids=["ball", "between two axial looks"])
def test_a_look_finds_where_to_compute_in_full(x, flip):
    plain, quick = Counting(), Counting()
    settings = {"planes": list(PLANES), "sw_batch_size": 5, "flip": flip}
    expected = SliceWindowInferer((8, 8), **settings)(x, plain).sigmoid()
    found = SliceWindowInferer((8, 8), look_every=4, **settings)(x, quick).sigmoid()
    assert quick.windows < plain.windows / 2
    near = expected > 0.05
    assert int(near.sum()) > 80
    torch.testing.assert_close(found[near], expected[near], atol=1e-5, rtol=0)
    assert float(found[~near].max()) <= 0.05


def test_slices_that_a_mask_does_not_depend_on_are_interpolated():
    """A mask cut at `decide_at` is the same but for a small share of its voxels, and for fewer windows."""
    x = bump((10, 12, 21), 8.3)
    settings = {"planes": list(PLANES), "sw_batch_size": 5}
    expected = SliceWindowInferer((24, 24), **settings)(x, Counting()).sigmoid()
    looked, decided = Counting(), Counting()
    SliceWindowInferer((24, 24), look_every=3, **settings)(x, looked)
    found = SliceWindowInferer((24, 24), look_every=3, decide_at=0.4, **settings)(x, decided).sigmoid()
    assert decided.windows < 0.9 * looked.windows
    mask, other = expected > 0.4, found > 0.4
    assert int((mask ^ other).sum()) <= 0.02 * int(mask.sum())
    exact = SliceWindowInferer((24, 24), look_every=3, decide_at=0.4, tolerance=0, **settings)
    assert torch.equal(exact(x, Counting()).sigmoid() > 0.4, mask)


def test_a_look_that_finds_nothing_ends_there():
    network = Counting()
    found = SliceWindowInferer((24, 24), look_every=4, planes=list(PLANES))(bump((0, 0, 0), -4), network)
    # Every fourth slice and the last one: 11 of 40, one window each, and twice 7 of 24, three windows each.
    assert network.windows == 11 + 2 * 7 * 3
    assert float(found.sigmoid().max()) < 0.05


def test_absent_modalities_are_told_and_kept_apart():
    """Windows of one call have the same modalities, and the network hears beforehand how many there will be."""

    class Told(Counting):
        in_channels: ClassVar = [3, 3]
        told: ClassVar = []
        seen: ClassVar = []

        def expect(self, windows):
            self.told.append(dict(windows))

        def __call__(self, x):
            self.seen.append({tuple(row) for row in present_modalities(x, [3, 3]).tolist()})
            return super().__call__(x)

    x = volume(8, 8, 9)
    x[:, 1, ..., 4:] = 0
    network = Told()
    found = SliceWindowInferer((8, 8), sw_batch_size=4)(x, network)
    assert network.told == [{(True, True): 5, (True, False): 4}]
    SliceWindowInferer((8, 8), planes=list(PLANES), look_every=4)(x, Told())
    assert network.told[1:] == [{(True, True): 40, (True, False): 4}]  # a quarter of the slices is told four times
    assert all(len(patterns) == 1 for patterns in network.seen)
    torch.testing.assert_close(found[0, 0], x[0, 0], atol=1e-4, rtol=1e-4)


def test_empty_slices_are_not_computed():
    x = volume(8, 8, 9)
    x[..., [0, 1, 5]] = 0
    x[:, 0, ..., 7] = 0  # one modality is enough for a slice to count
    network, steps = Counting(), []
    found = SliceWindowInferer((8, 8), sw_batch_size=4, empty_logit=-7)(x, network, progress=steps.append)
    assert network.windows == 6
    assert sum(steps) == 6
    assert max(shape[0] for shape in network.shapes) <= 4
    torch.testing.assert_close(found[..., [0, 1, 5]], torch.full((1, 1, 8, 8, 3), -7.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0, 0, ..., 2:5], x[0, 0, ..., 2:5], atol=1e-4, rtol=1e-4)


def test_a_volume_without_signal_never_reaches_the_network():
    network = Counting()
    found = SliceWindowInferer((8, 8), planes=list(PLANES))(torch.zeros(1, 2, 5, 6, 7), network)
    assert network.shapes == []
    torch.testing.assert_close(found, torch.full((1, 1, 5, 6, 7), -10.0), atol=0.1, rtol=0)


def test_windows_per_pass_and_their_size():
    network = Counting()
    SliceWindowInferer((8, 8), sw_batch_size=3)(volume(20, 20, 2), network)
    assert {shape[1:] for shape in network.shapes} == {(6, 8, 8)}
    assert max(shape[0] for shape in network.shapes) == 3


def test_three_planes_are_the_mean_of_each():
    network, x = tiny_network(), volume(32, 31, 30, modalities=3)
    x[..., 2:28] = 0
    each = [SliceWindowInferer((32, 32), planes=[p])(x, network).sigmoid() for p in ("axial", "coronal")]
    both = SliceWindowInferer((32, 32), planes=["axial", "coronal"])(x, network).sigmoid()
    torch.testing.assert_close(both, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_planes_fill_batches_together():
    """Of seven slices each third one is looked at: three in each of three planes, one window each."""
    counting = Counting(lambda x: x[:, :1] * 0 - 9)
    SliceWindowInferer((7, 7), planes=list(PLANES), look_every=3)(volume(7, 7, 7), counting)
    assert [shape[0] for shape in counting.shapes] == [9]


def test_flip_averages_four_mirror_images():
    ramp = torch.linspace(-2, 2, 64).view(1, 1, 8, 8)
    network = Counting(lambda w: ramp.repeat(len(w), 1, 1, 1))
    found = SliceWindowInferer((8, 8), flip=True)(volume(8, 8, 1), network)
    p = ramp.sigmoid()
    mean = (p + p.flip(2) + p.flip(3) + p.flip((2, 3))) / 4
    torch.testing.assert_close(found[..., 0].sigmoid(), mean, atol=1e-5, rtol=0)
    assert network.windows == 4


def test_arguments_do_not_change_during_use():
    roi, planes = [8, 8], ["axial", "coronal"]
    inferer = SliceWindowInferer(roi, planes=planes, flip=True)
    before, x = copy.deepcopy(vars(inferer)), volume(12, 5, 9)
    kept = x.clone()
    first, second = inferer(x, center_of_first), inferer(x, center_of_first)
    assert vars(inferer) == before
    assert (roi, planes) == ([8, 8], ["axial", "coronal"])
    assert torch.equal(x, kept)
    assert torch.equal(first, second)


def test_a_metatensor_and_more_arguments():
    x = volume(8, 8, 2)
    found = SliceWindowInferer((8, 8))(MetaTensor(x), Counting(lambda w, factor: w[:, 1:2] * factor), 0.5)
    torch.testing.assert_close(torch.as_tensor(found)[0, 0], x[0, 0] * 0.5, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8, 8), (2, 8, 8, 8)])
def test_one_volume_at_a_time(shape):
    with pytest.raises(ValueError, match=r"expected one volume \(1, M, R, A, S\), got"):
        SliceWindowInferer((8, 8))(torch.zeros(shape), center_of_first)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_slices": 4},
        {"planes": ["saggital"]},
        {"planes": []},
        {"slice_step": 0},
        {"look_every": 0},
        {"suspect": 1},
        {"decide_at": 1},
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(
        ValueError, match=r"num_slices must be odd|planes must be some of|slice_step|need look_every >= 1|decide_at"
    ):
        SliceWindowInferer((8, 8), **settings)
