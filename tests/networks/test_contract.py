"""What every combination of encoder, modalities and channels must do, and what is refused with which words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from differseg_med.networks import Adapter, DifferSeg, build_encoder
from differseg_med.networks.decoder import DECODERS
from differseg_med.networks.encoders import ChannelsFirst
from differseg_med.networks.fusion import FUSIONS

CHANNELS = (8, 16, 16, 24)
ENCODERS = ("test_resnet.r160_in1k", "test_convnext", "test_efficientnet", "test_mambaout", "pvt_v2_b0")


def small(in_channels: tuple[int, ...] = (1, 1), encoder: str = "test_resnet", **options: object) -> DifferSeg:
    return DifferSeg(in_channels, encoder, CHANNELS, **options)


@pytest.mark.parametrize(
    ("encoder", "in_channels"),
    [
        *(("test_resnet.r160_in1k", channels) for channels in [(1,), (3, 1), (5, 1, 3), (1, 1, 1, 3, 5)]),
        *((encoder, (5, 1, 3)) for encoder in ENCODERS[1:]),
    ],
)
def test_shapes_and_gradients(encoder: str, in_channels: tuple[int, ...]) -> None:
    """Every encoder and every number of streams; not each with each, as an encoder sees streams as samples."""
    network = small(in_channels, encoder)
    x = torch.randn(2, sum(in_channels), 32, 64)
    outputs = network(x)
    assert [tuple(output.shape) for output in outputs] == [(2, 1, 32, 64)] * 4
    sum(output.square().mean() for output in outputs).backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    with torch.no_grad():
        logits = network.eval()(torch.randn(1, sum(in_channels), 96, 160))
    assert tuple(logits.shape) == (1, 1, 96, 160)
    assert logits.isfinite().all()


@pytest.mark.parametrize("in_channels", [(1, 1), (3, 3), (5, 5)])
def test_every_channel_reaches_the_output(in_channels: tuple[int, ...]) -> None:
    network = small(in_channels).eval()
    x = torch.randn(1, sum(in_channels), 64, 64, requires_grad=True)
    network(x).square().sum().backward()
    assert (x.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_one_sample_does_not_change_another_in_evaluation() -> None:
    network = small().eval()
    x = torch.randn(3, 2, 64, 96)
    with torch.no_grad():
        together = network(x)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1]), rtol=1e-4, atol=1e-5)


def test_modality_order_is_that_of_in_channels() -> None:
    """The streams of a (3, 1) input are its first three channels and its last, repeated."""
    x = torch.randn(2, 4, 32, 32)
    streams, _ = small((3, 1)).split_streams(x)
    assert torch.equal(streams[0], x[0, :3])
    assert torch.equal(streams[1], x[0, 3:].expand(3, -1, -1))
    assert torch.equal(streams[2], x[1, :3])


@pytest.mark.parametrize("in_channels", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("encoder", ["test_resnet", "tf_efficientnet_lite0"])
def test_a_single_small_sample_can_be_trained_on(in_channels: tuple[int, ...], encoder: str) -> None:
    """At 32 px the coarsest level is 1 x 1; batch norm has a single value per channel there."""
    network = DifferSeg(in_channels, encoder, CHANNELS)
    x = torch.randn(1, len(in_channels), 32, 32)
    x[:, 1:] = 0
    outputs = network(x)
    assert [tuple(output.shape) for output in outputs] == [(1, 1, 32, 32)] * 4
    sum(output.sum() for output in outputs).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_ablations(fusion: str, decoder: str) -> None:
    """Each combination learns; all share everything else, so that the difference is what is measured."""
    network = small(fusion=fusion, decoder=decoder)
    outputs = network(torch.randn(2, 2, 64, 96))
    assert [tuple(output.shape) for output in outputs] == [(2, 1, 64, 96)] * 4
    sum(output.square().sum() for output in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())
    full = small().state_dict()
    shared = [key for key in network.state_dict() if not key.startswith(("fuse.", "decode."))]
    assert shared == [key for key in full if not key.startswith(("fuse.", "decode."))]
    assert (network.state_dict().keys() == full.keys()) == ((fusion, decoder) == ("dpf", "fgd"))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_modality_skips_the_fusion(fusion: str) -> None:
    network = small((3,), fusion=fusion)
    assert not list(network.fuse.parameters())
    level = torch.randn(2, 8, 4, 4)
    assert torch.equal(network.fuse[0](level, torch.ones(2, 1, dtype=torch.bool)), level)


def test_mean_fusion_is_the_mean_of_the_present() -> None:
    streams = torch.tensor([2.0, 4.0, 100.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    present = torch.tensor([[True, True, False], [True, True, True]])
    fused = FUSIONS["mean"](1, 3)(streams, present)
    assert fused[:, 0, 0, 0].tolist() == [3.0, pytest.approx(106 / 3)]


def test_no_deep_supervision_returns_one_tensor_in_training() -> None:
    assert tuple(small(deep_supervision=False)(torch.randn(2, 2, 32, 32)).shape) == (2, 1, 32, 32)


class TestEncoders:
    @pytest.mark.parametrize("name", ["sam2_hiera_tiny", "swin_tiny_patch4_window7_224", "test_mambaout"])
    def test_four_strides_in_channels_first(self, name: str) -> None:
        encoder, channels = build_encoder(name)
        with torch.no_grad():
            levels = encoder.eval()(torch.randn(1, 3, 96, 160))
        expected = [(1, c, 96 // s, 160 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
        assert [tuple(level.shape) for level in levels] == expected
        assert isinstance(encoder, ChannelsFirst) == (name != "sam2_hiera_tiny")

    def test_frozen_encoder_trains_its_adapters_only(self) -> None:
        network = small(encoder="pvt_v2_b0", adapter_dim=4, freeze_encoder=True)
        trainable = {key for key, p in network.encoder.named_parameters() if p.requires_grad}
        assert trainable
        assert all("prompt_learn" in key for key in trainable)

    def test_frozen_encoder_keeps_its_statistics(self) -> None:
        network = small(freeze_encoder=True)
        before = {key: value.clone() for key, value in network.encoder.named_buffers()}
        network.train()(torch.randn(2, 2, 64, 64))
        assert all(torch.equal(before[key], value) for key, value in network.encoder.named_buffers())
        assert network.reduce[0].entry[1].num_batches_tracked == 1

    @pytest.mark.parametrize(
        ("encoder", "options"),
        [("sam2_hiera_tiny", {"adapter_dim": 4, "freeze_encoder": True}), ("pvt_v2_b0", {})],
    )
    def test_checkpointing_gives_the_same_gradients(self, encoder: str, options: dict) -> None:
        plain = small((1,), encoder, **options)
        saving = small((1,), encoder, gradient_checkpointing=True, **options)
        saving.load_state_dict(plain.state_dict())
        x = torch.randn(2, 1, 32, 32)
        for network in (plain, saving):
            network(x)[0].square().mean().backward()
        for (key, p), (_, q) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
            if p.requires_grad and not key.startswith("heads"):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=key)

    def test_adapters_wrap_every_block(self) -> None:
        encoder, _ = build_encoder("sam2_hiera_tiny", adapter_dim=32)
        assert all(isinstance(block, Adapter) for block in encoder.model.blocks)
        assert encoder.model.blocks[0].prompt_learn[0].weight.shape == (32, 96)
        encoder, _ = build_encoder("pvt_v2_b0", adapter_dim=4)
        assert sum(isinstance(module, Adapter) for module in encoder.modules()) == 8

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("resnet_34", r"unknown encoder 'resnet_34'; near it and fit: \['resnet34'"),
            ("test_vit", r"has feature strides \(16, 16, 16\), but DifferSeg needs \(4, 8, 16, 32\)"),
            ("hiera_tiny_224", r"takes no images of 64 x 96 .* near it and fit: \['sam2_hiera_tiny'"),
            ("resnet34.nonsense", r"cannot be made a feature extractor .*'resnet34'"),
        ],
    )
    def test_unfit_encoders_are_refused_with_names_that_work(self, name: str, words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            build_encoder(name)
        assert "tried: ['tf_efficientnet_lite0'" in str(caught.value)

    def test_adapters_refuse_blocks_with_channels_first(self) -> None:
        with pytest.raises(ValueError, match=r"adapters do not fit the blocks of 'davit_tiny'"):
            build_encoder("davit_tiny", adapter_dim=4)

    def test_adapters_need_a_transformer(self) -> None:
        with pytest.raises(ValueError, match=r"adapter_dim is for transformer encoders .*'test_resnet' has no such"):
            build_encoder("test_resnet", adapter_dim=4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_channels": ()}, "one positive entry per modality"),
        ({"in_channels": (1, 0)}, r"one positive entry per modality, got \(1, 0\)"),
        ({"decoder_channels": (8, 8, 8)}, "four entries"),
        ({"decoder_channels": (8, 16, 20, 24)}, r"multiple of 8, got \[20\]"),
        ({"fusion": "sum"}, r"fusion must be one of \('dpf', 'concat', 'mean'\), got 'sum'"),
        ({"decoder": "fpn"}, r"decoder must be one of \('fgd', 'unet'\), got 'fpn'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DifferSeg(**{"encoder": "test_resnet", **arguments})


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 64, 64), r"expected \(B, 2, H, W\) for channels \[1, 1\], got \[1, 3, 64, 64\]"),
        ((2, 64, 64), r"expected \(B, 2, H, W\)"),
        ((1, 2, 100, 64), r"multiples of 32, got \[100, 64\]; pad to \[128, 64\]"),
        ((1, 2, 64, 33), r"pad to \[64, 64\]"),
    ],
)
def test_unfit_inputs_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small()(torch.zeros(shape))


def test_fixed_parameters_give_fixed_numbers() -> None:
    """All parameters on a ramp: an accidental change of architecture moves these numbers."""
    network = small((3, 1)).eval()
    fill_with_ramp(network)
    x = torch.linspace(-1, 1, 4 * 32 * 32).view(1, 4, 32, 32)
    with torch.no_grad():
        logits = network(x)
    actual = [float(logits.mean()), float(logits.std())]
    assert actual == pytest.approx([1210.57, 446.622], rel=1e-4)


def fill_with_ramp(network: nn.Module) -> None:
    def ramp(tensor: Tensor) -> Tensor:
        return torch.linspace(-0.5, 0.5, tensor.numel()).view_as(tensor) / max(1, tensor[0].numel()) ** 0.5

    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                value.copy_(ramp(value) + (1 if "var" in key or value.ndim == 1 else 0))
