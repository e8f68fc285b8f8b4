"""Every module against the numbers measured on the authors' implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from differseg_med.networks import (
    Adapter,
    DifferentialPerceptionFusion,
    FrequencyGuidedDecoder,
    ReceptiveFieldBlock,
    reference,
)
from differseg_med.networks.decoder import FrequencyBalancer, FrequencyDecomposer, FrequencyUpsampler, ScaleAttention

Load = Callable[[str], Any]
Near = Callable[..., None]
Run = Callable[[nn.Module, dict[str, Tensor]], list[Tensor]]


class Block(nn.Module):
    """The stand-in for a transformer block that the adapter's golden was measured with."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn.qkv(x)


def run_scale_attention(module: nn.Module, x: dict[str, Tensor]) -> list[Tensor]:
    pairs = [attend(x[f"low{i}"], x[f"high{i}"]) for i, attend in enumerate(module)]
    return [tensor for pair in pairs for tensor in pair]


SCALES = (64, 40, 32, 24)
CASES: dict[str, tuple[Callable[[], nn.Module], dict, Run]] = {
    "adapter": (lambda: Adapter(Block(), 32), {}, lambda m, x: [m(x["x"])]),
    "rfb_48_32": (lambda: ReceptiveFieldBlock(48, 32), reference.rfb_names(), lambda m, x: [m(x["x"])]),
    "dpf_c32": (
        lambda: DifferentialPerceptionFusion(32),
        reference.dpf_names(),
        lambda m, x: [m(torch.cat((x["rgb"], x["depth"]), dim=1))],
    ),
    "decomposer_c32": (lambda: FrequencyDecomposer(32), reference.decomposer_names(), lambda m, x: list(m(x["x"]))),
    "scale_attention_64_40_32_24": (
        lambda: nn.ModuleList(ScaleAttention(c) for c in SCALES),
        reference.scale_attention_names(),
        run_scale_attention,
    ),
    "upsampler_64_32": (
        lambda: FrequencyUpsampler(64, 32),
        reference.upsampler_names(),
        lambda m, x: list(m(x["prev_low"], x["prev_high"], x["curr_low"], x["curr_high"])),
    ),
    "balancer_c32": (
        lambda: FrequencyBalancer(32),
        reference.balancer_names(),
        lambda m, x: [m(x["low"], x["high"])],
    ),
    "fgd_64_32_16_8": (
        lambda: FrequencyGuidedDecoder((64, 32, 16, 8)),
        reference.decoder_names(),
        lambda m, x: [m([x["f4"], x["f3"], x["f2"], x["f1"]])],
    ),
}
WITH_TRAINING = [name for name in CASES if name != "adapter"]
WITH_PARAMETER_GRADIENTS = ["adapter", "dpf_c32", "balancer_c32", "fgd_64_32_16_8"]


def rename(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under our names; the adapter's are the same."""
    names = CASES[name][1]
    return reference.convert_names(state, names) if names else state


def build(name: str, golden: Any) -> nn.Module:
    module = CASES[name][0]()
    module.load_state_dict(rename(name, golden.part("param")), strict=True)
    return module.eval()


@pytest.mark.parametrize("name", CASES)
def test_evaluation_output(name: str, golden: Load, assert_near: Near) -> None:
    numbers = golden(name)
    module = build(name, numbers)
    with torch.no_grad():
        outputs = CASES[name][2](module, numbers.part("input"))
        exact = CASES[name][2](module.double(), {k: v.double() for k, v in numbers.part("input").items()})
    assert len(outputs) == len(numbers.outputs("output"))
    for actual, expected in zip(outputs, numbers.outputs("output"), strict=True):
        assert_near(actual, expected, 1e-5, name)
    for actual, expected in zip(exact, numbers.outputs("output64"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_input_gradients(name: str, golden: Load, assert_near: Near) -> None:
    numbers = golden(name)
    module = build(name, numbers)
    inputs = {k: v.clone().requires_grad_() for k, v in numbers.part("input").items()}
    loss = sum(output.square().sum() for output in CASES[name][2](module, inputs))
    assert float(loss.detach()) == pytest.approx(float(numbers.tensors["loss.sum_sq"]), rel=1e-5)
    loss.backward()
    expected = numbers.part("grad.input")
    assert expected.keys() == inputs.keys()
    for key, tensor in inputs.items():
        assert_near(tensor.grad, expected[key], 2e-5, f"{name} {key}")


@pytest.mark.parametrize("name", WITH_PARAMETER_GRADIENTS)
def test_parameter_gradients(name: str, golden: Load, assert_near: Near) -> None:
    numbers = golden(name)
    module = build(name, numbers)
    sum(output.square().sum() for output in CASES[name][2](module, numbers.part("input"))).backward()
    expected = rename(name, numbers.part("grad.param"))
    actual = {key: p.grad for key, p in module.named_parameters()}
    assert actual.keys() == expected.keys()
    for key, gradient in actual.items():
        assert_near(gradient, expected[key], 2e-5, f"{name} {key}")


@pytest.mark.parametrize("name", WITH_TRAINING)
def test_training_output_and_statistics(name: str, golden: Load, assert_near: Near) -> None:
    numbers = golden(name)
    module = build(name, numbers).train()
    outputs = CASES[name][2](module, numbers.part("input"))
    for actual, expected in zip(outputs, numbers.outputs("train.output"), strict=True):
        assert_near(actual, expected, 2e-5, name)
    expected_state = rename(name, numbers.part("param") | numbers.part("train.buffer"))
    buffers = {key: value for key, value in module.named_buffers() if "running" in key}
    assert buffers
    for key, value in buffers.items():
        torch.testing.assert_close(value, expected_state[key], rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    assert any(not torch.equal(value, rename(name, numbers.part("param"))[key]) for key, value in buffers.items())


def test_upsampler_resizes_when_doubling_is_not_the_target(golden: Load, assert_near: Near) -> None:
    module = build("upsampler_64_32", golden("upsampler_64_32"))
    numbers = golden("upsampler_64_32_resize")
    with torch.no_grad():
        outputs = CASES["upsampler_64_32"][2](module, numbers.part("input"))
        exact = CASES["upsampler_64_32"][2](module.double(), {k: v.double() for k, v in numbers.part("input").items()})
    for actual, expected in zip(outputs, numbers.outputs("output"), strict=True):
        assert_near(actual, expected, 1e-5)
    for actual, expected in zip(exact, numbers.outputs("output64"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_dpf_kernels_start_as_sobel_and_laplacian(golden: Load) -> None:
    start = golden("dpf_c32").part("init")
    expected = torch.cat([start[f"learnable_{key}"] for key in ("diff_x", "diff_y", "laplacian")])
    assert torch.equal(DifferentialPerceptionFusion(32).kernels, expected)


def test_a_wrong_parameter_is_noticed(golden: Load, assert_near: Near) -> None:
    """The comparison itself works: two per cent of noise on one weight breaks the tolerance."""
    numbers = golden("dpf_c32")
    module = build("dpf_c32", numbers)
    with torch.no_grad():
        module.kernels.mul_(1.02)
        output = CASES["dpf_c32"][2](module, numbers.part("input"))[0]
    with pytest.raises(AssertionError, match="differs by"):
        assert_near(output, numbers.outputs("output")[0], 1e-5)
