"""The complete network: the measured numbers of the authors' model, and NETWORK.md word for word at other sizes."""

from __future__ import annotations

import copy
import json
import runpy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from differseg_med.networks import DifferSeg, build_encoder
from differseg_med.networks.checkpoints import convert_reference_state_dict

SALT = "differseg-full-1"


@pytest.fixture(scope="module")
def reference_state(beside: Callable) -> dict[str, Tensor]:
    """The parameters of golden/full_rgbd_tiny_128 under the authors' keys, made by the golden recipe."""
    value = runpy.run_path(str(beside("recipe.py")))["value"]
    keys = json.loads(beside("keys_full_rgbd_tiny_128.json").read_text())["keys"]
    return {key: value(key, tuple(shape), kind, rule="full", salt=SALT) for key, (shape, kind) in keys.items()}


@pytest.fixture(scope="module")
def model(reference_state: dict[str, Tensor]) -> DifferSeg:
    network = DifferSeg((3, 1), "sam2_hiera_tiny", (64, 128, 256, 512), adapter_dim=32)
    network.load_state_dict(convert_reference_state_dict(reference_state), strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def numbers(golden: Callable) -> Any:
    return golden("full_rgbd_tiny_128_thin")


def four_outputs(network: DifferSeg, x: Tensor) -> list[Tensor]:
    """The training outputs with batch norm in evaluation mode, as the golden has them."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        outputs = network(x)
    network.eval()
    return outputs


def test_recipe_gives_the_measured_parameters(reference_state: dict[str, Tensor], numbers: Any) -> None:
    first = torch.stack([reference_state[key].flatten()[0] for key in sorted(reference_state)])
    assert torch.equal(first, numbers.tensors["check.first_values"])


def test_four_training_outputs_and_the_evaluation_output(model: DifferSeg, numbers: Any, assert_near: Callable) -> None:
    x = torch.cat((numbers.part("input")["rgb"], numbers.part("input")["aux"]), dim=1)
    expected = numbers.outputs("output")
    with torch.no_grad():
        assert_near(model(x), expected[0], 1e-4, "evaluation")
    outputs = four_outputs(model, x)
    assert len(outputs) == 4
    for i, (actual, wanted) in enumerate(zip(outputs, expected, strict=True)):
        assert_near(actual, wanted, 1e-4, f"output {i}")


def test_encoder_and_fusion_in_between(model: DifferSeg, numbers: Any, assert_near: Callable) -> None:
    x = torch.cat((numbers.part("input")["rgb"], numbers.part("input")["aux"]), dim=1)
    between = numbers.part("mid")
    with torch.no_grad():
        streams, present = model.split_streams(x)
        levels = model.encoder(streams)
        fused = model.encode(streams, present)
    for i in range(4):
        expected = torch.cat((between[f"enc.x{i + 1}"], between[f"enc.d{i + 1}"]))
        assert_near(levels[i], expected, 1e-4, f"encoder {i}")
        assert_near(fused[i], between[f"dpf{i + 1}"], 1e-4, f"fusion {i}")


def test_double_precision(model: DifferSeg, numbers: Any) -> None:
    network = copy.deepcopy(model).double()
    inputs = numbers.part("input")
    x = torch.cat((inputs["rgb"], inputs["aux"]), dim=1).double()
    for actual, expected in zip(four_outputs(network, x), numbers.outputs("output64"), strict=True):
        torch.testing.assert_close(actual[..., ::4, ::4], expected, rtol=0, atol=1e-9)


def test_converted_encoder_keys_are_those_of_the_key_map(reference_state: dict[str, Tensor], beside: Callable) -> None:
    converted = convert_reference_state_dict(reference_state)
    for theirs, ours in json.loads(beside("keymap_sam2_hiera_tiny.json").read_text()).items():
        if theirs.startswith("encoder."):
            assert torch.equal(converted[ours], reference_state[theirs])


@pytest.mark.parametrize("in_channels", [(1,), (3,), (3, 1), (3, 3), (1, 1, 1)])
def test_equals_the_literal_network(in_channels: tuple[int, ...], literal: ModuleType, assert_near: Callable) -> None:
    """Single-stream, second streams of one and of three channels, three modalities; not square; batch of two."""
    encoder, widths = build_encoder("test_resnet")
    channels = (16, 24, 32, 40)
    reference = literal.LiteralDifferSeg(encoder, widths, in_channels, channels)
    literal.randomise(reference)
    ours = DifferSeg(in_channels, "test_resnet", channels)
    ours.load_state_dict(literal.our_state_dict(reference), strict=True)
    x = torch.randn(2, sum(in_channels), 96, 160)
    with torch.no_grad():
        expected = reference.eval()(x)
        actual = four_outputs(ours, x)
        assert_near(ours(x), expected[0], 1e-5)
    for a, e in zip(actual, expected, strict=True):
        assert_near(a, e, 1e-5)


def test_literal_network_has_the_authors_keys(literal: ModuleType, beside: Callable) -> None:
    encoder, widths = build_encoder("sam2_hiera_tiny", adapter_dim=32)
    with torch.device("meta"):  # names and shapes are asked for, no numbers
        state = literal.LiteralDifferSeg(encoder, widths).state_dict()
    keys = json.loads(beside("keys_full_rgbd_tiny_128.json").read_text())["keys"]
    ours = {k: list(v.shape) for k, v in state.items() if "encoder." not in k and "num_batches" not in k}
    assert ours == {k: shape for k, (shape, _) in keys.items() if "encoder." not in k}


def test_no_adapter_equals_an_adapter_without_output() -> None:
    plain, _ = build_encoder("sam2_hiera_tiny")
    adapted, _ = build_encoder("sam2_hiera_tiny", adapter_dim=8)
    state = {key.replace(".block.", "."): value for key, value in adapted.state_dict().items() if "prompt" not in key}
    plain.load_state_dict(state)
    for key, parameter in adapted.named_parameters():
        if "prompt_learn.2" in key:
            nn.init.zeros_(parameter)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(plain.eval()(x), adapted.eval()(x), strict=True):
            assert torch.equal(a, b)
