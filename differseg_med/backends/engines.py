"""Programs of a network by other engines than eager PyTorch; each maps ``(B, C, H, W)`` to logits ``(B, 1, H, W)``."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from differseg_med.backends.cache import is_stored, stored
from differseg_med.runs.describe import digest

Program = Callable[[Tensor], Tensor]
Made = Callable[[], nn.Module]

PARTS = (4, 2, 1)
"""Batches that OpenVINO gets: each other size would be prepared for anew, and more windows at once are no quicker."""

Shape = tuple[int, int, int]
"""Windows at a time, their rows and columns: a program for one shape is a fifth quicker than one for any."""


def installed(package: str) -> str:
    """The version of a package; empty if it is not installed."""
    return version(package) if find_spec(package) else ""


def openvino_program(
    network: Made, channels: int, key: str, folder: Path | None, bfloat16: bool, shape: Shape | None = None
) -> Program:
    """A network by OpenVINO on this processor.

    Args:
        network: makes it as `fuse_for_inference` does; not called if the program is stored.
        channels: that it takes.
        key: says which network it is.
        folder: of exported networks.
        bfloat16: compute in it; else float32.
        shape: that all windows have; None for windows of any size. Batches are cut and filled up to it.
    """
    openvino, core, settings, entry = _openvino(key, bfloat16, shape)

    def export() -> bytes:
        compiled = core.compile_model(_converted(openvino, network(), channels, shape), "CPU", settings)
        exported = compiled.export_model()
        return exported.getvalue() if hasattr(exported, "getvalue") else bytes(exported)

    compiled = core.import_model(io.BytesIO(stored(folder, entry, export)), "CPU", settings)

    def run(x: Tensor) -> Tensor:
        outputs, start = [], 0
        while start < len(x):
            part = shape[0] if shape else next(part for part in PARTS if part <= len(x) - start)
            windows = x[start : start + part]
            if lacking := part - len(windows):
                windows = torch.cat((windows, windows[-1:].expand(lacking, -1, -1, -1)))
            found = torch.from_numpy(compiled(windows.contiguous().numpy(), share_inputs=True)[0])
            outputs.append(found[: part - lacking])
            start += part
        return torch.cat(outputs)

    return run


def openvino_is_stored(key: str, folder: Path | None, bfloat16: bool, shape: Shape | None = None) -> bool:
    """Whether the program was exported before, so that it costs no time now; arguments as `openvino_program`."""
    return folder is not None and is_stored(folder, _openvino(key, bfloat16, shape)[3])


def _openvino(key: str, bfloat16: bool, shape: Shape | None) -> tuple[Any, Any, dict[str, object], str]:
    """The package, its core, its settings, and the name that the program has in the cache on this machine."""
    openvino: Any = import_module("openvino")
    core = openvino.Core()
    settings: dict[str, object] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    machine = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    versions = (openvino.__version__, torch.__version__)
    entry = digest(key, "openvino", *versions, *map(str, machine), sorted(settings.items()), str(shape))
    return openvino, core, settings, entry


def _converted(openvino: Any, network: nn.Module, channels: int, shape: Shape | None) -> Any:
    """A network as a model of OpenVINO, by its own reader of TorchScript: nothing is sent anywhere."""
    frontend: Any = import_module("openvino.frontend")
    scripts: Any = import_module("openvino.frontend.pytorch.ts_decoder")
    with _plainly():
        traced = torch.jit.trace(network, torch.randn(2, channels, 64, 96), check_trace=False)
        decoder = scripts.TorchScriptPythonDecoder(traced)
        reader = frontend.FrontEndManager().load_by_framework("pytorch")
        model = reader.convert(reader.load(decoder))
    count, rows, columns = shape or (-1, -1, -1)
    model.reshape(openvino.PartialShape([count, channels, rows, columns]))
    return model


def onnx_bytes(network: nn.Module, channels: int) -> bytes:
    """A network as the content of an ONNX file: ``image`` to ``pred``; batch, height and width are left open."""
    file, axes = io.BytesIO(), {0: "batch", 2: "height", 3: "width"}
    with _plainly():
        torch.onnx.export(
            network,
            (torch.randn(2, channels, 64, 96),),
            cast(Any, file),  # the older exporter, which is quick with sizes left open, writes to files too
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": axes, "pred": axes},
            dynamo=False,
        )
    return file.getvalue()


def onnxruntime_program(
    network: Made, channels: int, key: str, folder: Path | None, bfloat16: bool, shape: Shape | None = None
) -> Program:
    """A network by ONNX Runtime on this processor in float32; arguments as `openvino_program`."""
    onnxruntime: Any = import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = stored(folder, digest(key, "onnx", torch.__version__), lambda: onnx_bytes(network(), channels))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": x.contiguous().numpy()})[0])

    return run


def compiled_program(
    network: Made, channels: int, key: str, folder: Path | None, bfloat16: bool, shape: Shape | None = None
) -> Program:
    """A network by ``torch.compile``, which needs a C++ compiler (or Triton on a GPU); anew in every process."""
    compiled = torch.compile(network(), dynamic=False)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            out: Tensor = compiled(x.contiguous(memory_format=torch.channels_last))
        return out.float()

    return run


ENGINES: dict[str, Callable[[Made, int, str, Path | None, bool, Shape | None], Program]] = {
    "openvino": openvino_program,
    "onnxruntime": onnxruntime_program,
    "compile": compiled_program,
}
"""Engines by the name of their backend, which is also that of the package of the first two."""


@contextmanager
def _plainly() -> Iterator[None]:
    """In float32 and without gradients; every exporter announces its successor."""
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")
        yield
