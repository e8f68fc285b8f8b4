"""What makes training quicker: frozen stages, small maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from differseg_med.networks import DifferSeg
from differseg_med.networks.depthwise import SmallMapDepthwise, quicken_depthwise

CHANNELS = (8, 16, 16, 24)


@pytest.mark.parametrize(("size", "kernel"), [((2, 2), 5), ((1, 3), 3), ((2, 1), 5), ((6, 6), 3)])
def test_small_depthwise_is_the_convolution(size: tuple[int, int], kernel: int) -> None:
    quick = SmallMapDepthwise(7, 7, kernel, padding=kernel // 2, groups=7, bias=False)
    results = []
    x = torch.randn(3, 7, *size, requires_grad=True)
    for convolve in (quick, lambda x: nn.functional.conv2d(x, quick.weight, padding=kernel // 2, groups=7)):
        out = convolve(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, quick.weight))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_quickened_networks_keep_names_and_outputs() -> None:
    torch.manual_seed(0)
    net = DifferSeg((1, 1), "tf_efficientnet_lite0", CHANNELS).train()
    names, x = list(net.state_dict()), torch.randn(2, 2, 64, 64)
    expected = net(x)
    quicken_depthwise(net)
    assert any(isinstance(module, SmallMapDepthwise) for module in net.modules())
    assert list(net.state_dict()) == names
    for a, b in zip(net(x), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_frozen_stages_have_no_gradients_and_still_statistics() -> None:
    net = DifferSeg((1, 1), "tf_efficientnet_lite0", CHANNELS, freeze_stages=3).train()
    before = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    sum(output.mean() for output in net(torch.randn(2, 2, 64, 64))).backward()
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "blocks.2.")
    for name, parameter in net.encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    changed = {name for name, value in net.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(frozen) for name in changed)


@pytest.mark.parametrize("options", [{"encoder": "test_resnet", "freeze_stages": 1}, {"freeze_stages": 9}])
def test_stages_that_are_not_there_cannot_be_frozen(options: dict) -> None:
    with pytest.raises(ValueError, match="freeze_stages"):
        DifferSeg((1, 1), decoder_channels=CHANNELS, **options)


def test_one_encoding_serves_every_subset() -> None:
    torch.manual_seed(0)
    net = DifferSeg((1, 1, 1), "test_resnet", CHANNELS).eval()
    x = torch.randn(2, 3, 64, 64)
    streams, present = net.split_streams(x)
    features = net.reduce_streams(streams, present)
    present[:, 1] = False
    shared = net.heads[0](net.decode(net.fuse_levels(features, present)[::-1]), (64, 64))
    x[:, 1] = 0
    torch.testing.assert_close(shared, net(x), atol=1e-5, rtol=1e-5)
