"""TorchScript, ONNX and torch.compile give what the network gives, at other batches and sizes, with absence too."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
import torch
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from support.walk import SHAPES, assert_equal_outputs
from torch import nn

from differseg_med.networks import DifferSeg
from differseg_med.networks.inference import PackedLinear, fuse_for_inference, pack_for_cpu

pytestmark = pytest.mark.filterwarnings("ignore")  # every exporter announces its successor


@pytest.fixture(scope="module")
def network() -> DifferSeg:
    torch.manual_seed(0)
    return DifferSeg((1, 1), "test_resnet", (8, 8, 16, 16)).eval()


@pytest.fixture(scope="module")
def hiera(literal: ModuleType) -> DifferSeg:
    """A transformer with adapters; statistics of batch norms are not their initial ones."""
    network = DifferSeg((1, 1, 1), "sam2_hiera_tiny", (8, 8, 16, 16), adapter_dim=4).eval()
    literal.randomise(network)
    return network


def test_traced_as_monai_exports_it(tmp_path: Path) -> None:
    """On the default encoder; scripted as ``ckpt_export`` does it by default, it is compared in tests/bundles."""
    default = DifferSeg((1, 1, 1)).eval()
    example = torch.randn(2, 3, 64, 96)
    convert_to_torchscript(default, tmp_path / "m.ts", inputs=[example], use_trace=True, check_trace=False)
    assert_equal_outputs(torch.jit.load(tmp_path / "m.ts"), default)


@pytest.mark.parametrize(("fusion", "decoder"), [("concat", "unet"), ("mean", "fgd")])
def test_ablations_script(network: DifferSeg, fusion: str, decoder: str) -> None:
    ablation = DifferSeg((1, 1), "test_resnet", (8, 8, 16, 16), fusion=fusion, decoder=decoder).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(ablation), buffer)
    buffer.seek(0)
    with torch.jit.optimized_execution(False):  # what torch's optimizer makes is run above
        assert_equal_outputs(torch.jit.load(buffer), ablation)


def test_scripted_network_trains_and_refuses_like_ours(network: DifferSeg) -> None:
    scripted = torch.jit.script(DifferSeg((1,), "test_resnet", (8, 8, 16, 16)))
    assert [tuple(output.shape) for output in scripted(torch.randn(2, 1, 32, 32))] == [(2, 1, 32, 32)] * 4
    with pytest.raises(torch.jit.Error, match=r"got \[33, 64\]; pad to \[64, 64\]"):
        scripted(torch.zeros(1, 1, 33, 64))


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "sam2_hiera_tiny", "test_mambaout"])
def test_fused_network(encoder: str, hiera: DifferSeg, literal: ModuleType) -> None:
    """Folded batch norms with statistics that are not their initial ones; only the unused heads keep theirs."""
    network = hiera if encoder == "sam2_hiera_tiny" else DifferSeg((1, 1, 1), encoder, (8, 8, 16, 16)).eval()
    literal.randomise(network)
    fused = fuse_for_inference(network)
    assert_equal_outputs(fused, network, SHAPES[:1] if encoder == "sam2_hiera_tiny" else SHAPES)  # 5 s for the second
    left = {name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert left == {f"heads.{i}.layers.1" for i in (1, 2, 3)}
    assert isinstance(network.reduce[0].entry[1], nn.BatchNorm2d)  # the original is as it was
    if encoder == "tf_efficientnet_lite0":
        with torch.jit.optimized_execution(False):
            assert_equal_outputs(torch.jit.script(fused), network)


def test_packed_network(hiera: DifferSeg) -> None:
    """Linear layers of blocks and of adapters in oneDNN's layout, and every GELU inside the layer before it."""
    packed = pack_for_cpu(hiera)
    assert_equal_outputs(packed, hiera)
    kinds = [type(module) for module in packed.encoder.modules()]
    assert kinds.count(PackedLinear) == sum(isinstance(m, nn.Linear) for m in hiera.encoder.modules()) > 40
    assert nn.Linear not in kinds
    assert not [kind for kind in kinds if kind.__name__ == "GELU"]
    assert {m.activation for m in packed.modules() if isinstance(m, PackedLinear)} == {"none", "gelu"}


def test_transformer_encoder_traces(hiera: DifferSeg) -> None:
    traced = torch.jit.trace(hiera, torch.randn(2, 3, 64, 64), check_trace=False)
    x = torch.randn(3, 3, 64, 64)
    x[1, 0] = 0
    with torch.no_grad(), torch.jit.optimized_execution(False):
        torch.testing.assert_close(traced(x), hiera(x), rtol=1e-4, atol=1e-5)


def test_onnx_as_monai_exports_it(network: DifferSeg, tmp_path: Path) -> None:
    """What ``onnx_export`` calls, with dynamic batch, height and width."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install differseg-med[export]")
    axes = {"image": {0: "batch", 2: "height", 3: "width"}, "pred": {0: "batch", 2: "height", 3: "width"}}
    convert_to_onnx(
        network,
        [torch.randn(2, 2, 32, 64)],
        filename=tmp_path / "m.onnx",
        input_names=["image"],
        output_names=["pred"],
        dynamic_axes=axes,
        dynamo=False,  # the newer exporter gives the same numbers, but takes minutes over dynamic sizes
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 2, "height", "width"]
    assert_equal_outputs(lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), network)


def test_torch_export_with_dynamic_batch(network: DifferSeg) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (torch.randn(2, 2, 32, 64),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(5, 2, 32, 64)
    x[3, 1] = 0
    with torch.no_grad():
        torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-5)


def test_compiled_network(network: DifferSeg) -> None:
    """The graph is captured as a whole (12 s per shape); code generated from it: scripts/benchmark_network.py."""
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    assert_equal_outputs(compiled, network, SHAPES[:1])
