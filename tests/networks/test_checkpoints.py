"""Files of weights: conversion of the authors' keys, strict loading, and refusal of anything that could run code."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from support.forking import run_program
from torch import Tensor

from differseg_med.networks import DifferSeg, build_encoder
from differseg_med.networks.checkpoints import (
    convert_reference_state_dict,
    halved,
    is_dropped,
    load_encoder_weights,
    load_weights,
    read_state_dict,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_weights.py"
CHANNELS = (8, 16, 24, 32)


@pytest.fixture(scope="module")
def reference(literal: ModuleType) -> dict[str, Tensor]:
    """A small two-stream state dict with the authors' keys, without the encoder."""
    encoder, widths = build_encoder("test_resnet")
    state = literal.LiteralDifferSeg(encoder, widths, (3, 1), CHANNELS).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("encoder.")}


def test_every_key_is_used_or_dropped(reference: dict[str, Tensor]) -> None:
    converted = convert_reference_state_dict(reference)
    dropped = {key for key in reference if is_dropped(key)}
    assert {key.split(".")[-3] for key in dropped} == {"low_freq_fusion"}
    # Merging joins tensors and loses none: the same number of weights, except one batch counter per merged group.
    weights = sum(v.numel() for k, v in reference.items() if k not in dropped and "num_batches" not in k)
    assert sum(v.numel() for k, v in converted.items() if "num_batches" not in k) == weights
    ours = DifferSeg((3, 1), "test_resnet", CHANNELS).state_dict()
    assert converted.keys() == {key for key in ours if not key.startswith("encoder.")}


@pytest.mark.parametrize(
    "removed",
    [
        "rfb1.branch2.0.conv.weight",
        "rfb4.conv_cat.bn.running_var",
        "dpf3.depth_proj.bias",
        "dpf2.learnable_diff_y",
        "predtrans1.3.weight",
    ],
)
def test_missing_key_is_named(reference: dict[str, Tensor], removed: str) -> None:
    state = {key: value for key, value in reference.items() if key != removed}
    with pytest.raises(ValueError, match=rf"0 unknown keys \[\], 1 missing keys \['{removed}'\]"):
        convert_reference_state_dict(state)


def test_unknown_key_is_named(reference: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"1 unknown keys \['dpf1.surprise.weight'\]"):
        convert_reference_state_dict(reference | {"dpf1.surprise.weight": torch.zeros(1)})


def test_single_stream_has_no_fusion(reference: dict[str, Tensor]) -> None:
    converted = convert_reference_state_dict({k: v for k, v in reference.items() if not k.startswith("dpf")})
    ours = DifferSeg((3,), "test_resnet", CHANNELS).state_dict()
    assert converted.keys() == {key for key in ours if not key.startswith("encoder.")}


def test_counters_may_be_absent(reference: dict[str, Tensor]) -> None:
    """The key list of the golden files has no num_batches_tracked; PyTorch before 0.4.1 wrote none."""
    state = {key: value for key, value in reference.items() if "num_batches_tracked" not in key}
    ours = DifferSeg((3, 1), "test_resnet", CHANNELS).state_dict()
    converted = convert_reference_state_dict(state)
    assert converted.keys() == {key for key in ours if not key.startswith("encoder.")}


def run_script(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return run_program(SCRIPT, source, target)


def test_conversion_script(reference: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": {f"module.{key}": value for key, value in reference.items()}}, tmp_path / "in.pth")
    result = run_script(tmp_path / "in.pth", tmp_path / "out.pt")
    assert result.returncode == 0, result.stderr
    assert "dropped freq_decoder.freq_decomposers.0.low_freq_fusion.0.weight" in result.stderr
    written = read_state_dict(tmp_path / "out.pt")
    expected = convert_reference_state_dict(reference)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_conversion_script_explains_a_wrong_file(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "in.pth")
    result = run_script(tmp_path / "in.pth", tmp_path / "out.pt")
    assert result.returncode == 1
    assert "not a complete DifferSeg state dict" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.pt").exists()


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("save", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, save: object) -> None:
    path = tmp_path / "evil.pt"
    save({"state_dict": {"weight": torch.zeros(1)}, "extra": Malicious(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match=r"evil\.pt is damaged or is not a checkpoint of plain tensors"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", bytes(range(256))])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("model.pt", "model.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_state_dict(path)


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict: expected names with tensors, got list"):
        read_state_dict(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_state_dict(tmp_path / "absent.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_of_a_network_round_trip(tmp_path: Path, name: str) -> None:
    network = DifferSeg((1, 1), "test_resnet", CHANNELS)
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(network.state_dict(), path)
    other = DifferSeg((1, 1), "test_resnet", CHANNELS)
    load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(DifferSeg((1, 1), "test_resnet", CHANNELS).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"of another shape.*check in_channels, encoder and decoder_channels"):
        load_weights(DifferSeg((1, 1, 1), "test_resnet", CHANNELS), tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["test_resnet", "sam2_hiera_tiny"])
def test_encoder_weights_from_a_file(tmp_path: Path, name: str) -> None:
    """The file holds timm's whole model, classifier included; the extractor takes its part of it."""
    import timm

    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    network = DifferSeg((3,), name, CHANNELS, encoder_weights=str(tmp_path / "whole.pth"))
    key = {"test_resnet": "layer1.0.conv1.weight", "sam2_hiera_tiny": "model.blocks.0.attn.qkv.weight"}[name]
    assert torch.equal(network.encoder.state_dict()[key], whole.state_dict()[key.removeprefix("model.")])


def test_packaged_weights_are_the_trained_ones() -> None:
    """The first convolution of the packaged lite0, with other key names, lands in timm's."""
    trained = DifferSeg((1,), "tf_efficientnet_lite0", encoder_weights="package").encoder.state_dict()
    from differseg_med.networks.checkpoints import packaged_path

    stored = read_state_dict(packaged_path("tf_efficientnet_lite0"))
    assert torch.equal(trained["conv_stem.weight"], next(iter(stored.values())))


def test_encoder_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "other.pth")
    encoder, _ = build_encoder("test_resnet")
    with pytest.raises(ValueError, match=r"has no value for .* tensors of test_resnet"):
        load_encoder_weights(encoder, "test_resnet", str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="no package ships weights for 'test_resnet'"):
        load_encoder_weights(encoder, "test_resnet", "package")


def test_half_precision_keeps_what_it_cannot_hold(tmp_path: Path) -> None:
    """A variance of 7e4 became infinite and one of 1e-9 zero: the first gave NaN a few steps into the next training."""
    state = {
        "norm.running_var": torch.tensor([7e4, 1e-9]),
        "conv.weight": torch.full((2, 2), 1.5),
        "wide.weight": torch.full((2, 2), 7e4),
        "norm.num_batches_tracked": torch.tensor(70000),
    }
    saved = halved(state)
    assert {name: value.dtype for name, value in saved.items()} == {
        "norm.running_var": torch.float32,
        "conv.weight": torch.float16,
        "wide.weight": torch.float32,
        "norm.num_batches_tracked": torch.int64,
    }
    assert all(torch.equal(saved[name].to(value.dtype), value) for name, value in state.items())


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, ending: str, value: float) -> None:
    path, state = tmp_path / f"model{ending}", {"norm.running_var": torch.tensor([1.0, value])}
    torch.save(state, path) if ending == ".pt" else save_file(state, path)
    with pytest.raises(ValueError, match=r"model.*infinite values or NaN in norm.running_var"):
        read_state_dict(path)
