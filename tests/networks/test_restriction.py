"""The network of the present modalities alone gives what the whole network gives, without the other streams."""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch

from differseg_med.networks import DifferSeg
from differseg_med.networks.inference import fuse_for_inference
from differseg_med.networks.restriction import restrict, select


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["dpf", "concat", "mean"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_network_of_the_present_modalities_alone(fusion: str, fused: bool, literal: ModuleType) -> None:
    """Exact, and without the streams: the encoder sees so many images fewer."""
    network = DifferSeg((3, 1, 1), "test_resnet", (8, 8, 16, 16), fusion=fusion).eval()
    literal.randomise(network)
    before = copy.deepcopy(network.state_dict())
    whole = fuse_for_inference(network) if fused else network
    for present in ((True, False, True), (False, True, False), (True, True, True)):
        x = torch.randn(2, 5, 64, 32)
        for channels, there in zip((slice(0, 3), slice(3, 4), slice(4, 5)), present):
            x[:, channels] *= there
        part, seen = restrict(whole, present), []
        watch = part.encoder.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(len(inputs[0])))
        found = part(select(x, [3, 1, 1], present))
        watch.remove()
        expected = network(x)
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
        assert seen == [2 * sum(present)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="at least one of 3 modalities"):
        restrict(whole, (False, False, False))
