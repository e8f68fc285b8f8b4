"""Absent modalities: the output depends on nothing that they would have held."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from differseg_med.networks import DifferentialPerceptionFusion, DifferSeg
from differseg_med.networks.decoder import DECODERS
from differseg_med.networks.fusion import FUSIONS

CHANNELS = (8, 16, 16, 24)
COMBINATIONS = [(fusion, decoder) for fusion in FUSIONS for decoder in DECODERS]


def network(modalities: int = 3, **options: object) -> DifferSeg:
    return DifferSeg((1,) * modalities, "test_resnet", CHANNELS, **options).eval()


GARBAGE = (0.0, 1e30, float("inf"), float("-inf"), float("nan"))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("value", GARBAGE)
def test_fusion_ignores_what_an_absent_stream_holds(fusion: str, value: float) -> None:
    fuse = FUSIONS[fusion](8, 3).eval()
    features = torch.randn(2, 24, 6, 10)
    present = torch.tensor([[True, False, True], [False, True, False]])
    changed = features.clone()
    changed[0, 8:16] = value
    changed[1, :8] = value
    changed[1, 16:] = value
    with torch.no_grad():
        assert torch.equal(fuse(features, present), fuse(changed, present))


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_stay_finite_and_equal(value: float, training: bool) -> None:
    fuse = DifferentialPerceptionFusion(8, 3).train(training)
    features = torch.randn(2, 24, 6, 10)
    present = torch.tensor([[True, False, True], [False, True, True]])
    gradients = []
    for content in (0.5, value):
        x = features.clone()
        x[0, 8:16] = content
        x[1, :8] = content
        x.requires_grad_()
        fuse.zero_grad()
        fuse(x, present).square().sum().backward()
        assert (x.grad[0, 8:16] == 0).all()
        assert (x.grad[1, :8] == 0).all()
        gradients.append([x.grad, *(p.grad.clone() for p in fuse.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


def test_absent_modality_has_weight_zero() -> None:
    """With one of two absent, the fusion of that sample is DPF with weight one for the other."""
    fuse = DifferentialPerceptionFusion(8, 2).eval()
    features = torch.randn(1, 16, 6, 10)
    alone = DifferentialPerceptionFusion(8, 1).eval()
    state = {key: value for key, value in fuse.state_dict().items() if not key.startswith("weigh")}
    state["project.weight"], state["project.bias"] = state["project.weight"][:8], state["project.bias"][:8]
    alone.load_state_dict(state)
    with torch.no_grad():
        expected = alone(features[:, :8])
        actual = fuse(features, torch.tensor([[True, False]]))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("fusion", "decoder"), COMBINATIONS)
def test_network_ignores_an_absent_stream_bit_for_bit(fusion: str, decoder: str) -> None:
    """Whatever image stands where the absent one is declared, encoder and all, nothing moves."""
    net = network(fusion=fusion, decoder=decoder)
    x = torch.randn(2, 3, 64, 96)
    x[0, 1] = 0
    x[1, 2] = 0
    streams, present = net.split_streams(x)
    assert present.tolist() == [[True, False, True], [True, True, False]]
    changed = streams.clone()
    changed[1] = 1e4 * torch.randn(3, 64, 96)
    changed[5] = torch.randn(3, 64, 96)
    with torch.no_grad():
        for a, b in zip(net.encode(streams, present), net.encode(changed, present), strict=True):
            assert torch.equal(a, b)


@settings(max_examples=8, deadline=None)
@given(
    pattern=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_absence_of_any_pattern(pattern: list[list[bool]], seed: int) -> None:
    """Any modalities absent in any samples, all but one included: each sample is as if it were alone."""
    torch.manual_seed(seed)
    net = network()
    keep = torch.tensor(pattern)
    x = torch.randn(len(pattern), 3, 32, 64) * keep[:, :, None, None]
    with torch.no_grad():
        together = net(x)
        assert together.isfinite().all()
        for i in range(len(pattern)):
            torch.testing.assert_close(together[i : i + 1], net(x[i : i + 1]), rtol=1e-3, atol=1e-4)
    assert net.split_streams(x)[1].tolist() == pattern


def test_all_zero_input_counts_as_all_present() -> None:
    net = network()
    x = torch.zeros(2, 3, 32, 32)
    x[1, 0] = 1
    assert net.split_streams(x)[1].tolist() == [[True] * 3, [True, False, False]]
    with torch.no_grad():
        logits = net(x)
        streams = torch.zeros(3, 3, 32, 32)
        fused = net.encode(streams, torch.ones(1, 3, dtype=torch.bool))
        expected = net.heads[0](net.decode(fused[::-1]), (32, 32))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1], expected, rtol=1e-4, atol=1e-5)


def test_presence_is_not_about_a_single_zero() -> None:
    """One voxel is enough to be present; a constant image is present too, and so is one of several channels."""
    net = DifferSeg((3, 1), "test_resnet", CHANNELS)
    x = torch.zeros(3, 4, 32, 32)
    x[0, 2, 5, 5] = -1e-20
    x[1, 3] = 7
    x[2, 0], x[2, 3, 0, 0] = 1, 1
    assert net.split_streams(x)[1].tolist() == [[True, False], [False, True], [True, True]]


def test_dropping_a_modality_changes_the_output() -> None:
    """The property tests above would pass on a network that ignores its input."""
    net = network()
    x = torch.randn(1, 3, 64, 64)
    dropped = x.clone()
    dropped[:, 1] = 0
    with torch.no_grad():
        assert float((net(x) - net(dropped)).abs().max()) > 1e-3


@pytest.mark.parametrize(("fusion", "decoder"), COMBINATIONS)
def test_training_with_absent_modalities(fusion: str, decoder: str) -> None:
    """Gradients are finite, and empty images leave the encoder's statistics alone."""
    net = network(fusion=fusion, decoder=decoder)
    x = torch.randn(4, 3, 64, 64)
    x[0, 1] = x[1, 0] = x[1, 2] = 0
    expected = copy.deepcopy(net.encoder).train()
    streams, present = net.split_streams(x)
    expected(streams[present.flatten()])

    outputs = net.train()(x)
    sum(output.square().mean() for output in outputs).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    for (key, a), (_, b) in zip(net.encoder.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(a, b), key
