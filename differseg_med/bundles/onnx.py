"""The network of a bundle as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from differseg_med.atomic import exporting
from differseg_med.backends.engines import onnx_bytes
from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError

CHECKED = ((1, 64, 96), (3, 96, 64))
"""Batch, height and width with which the file is held against the network: none of them is fixed in it."""

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest output."""


def export_onnx(bundle: str | Path, path: str | Path) -> Path:
    """Write the network of a bundle with its weights; batch, height and width (multiples of 32) are left open.

    Input ``image`` ``(batch, channels, height, width)``, normalised as the bundle's preprocessing does, output ``pred``
    ``(batch, 1, height, width)``, logits. ONNX Runtime reads the file at two sizes and must give what PyTorch does.

    Args:
        bundle: its folder.
        path: the file to write, ``.onnx``.

    Raises:
        CaseError: if the bundle cannot be read, ONNX is not installed, or the file gives something else.
    """
    try:
        runtime: Any = import_module("onnxruntime")
        import_module("onnx")
    except ImportError as error:
        remedy = 'Install it: pip install "differseg-med[export]".'
        raise CaseError(f"the package {error.name} is not installed", remedy=remedy) from error
    parser = BundleRun(bundle, ["inference"], bundle, bundle, settings={"device": "cpu"}).open().parser
    network = parser.get_parsed_content("network").eval()
    channels = int(parser.get("_meta_")["network_data_format"]["inputs"]["image"]["num_channels"])
    with exporting(path, ".onnx") as temporary:
        temporary.write_bytes(onnx_bytes(network, channels))
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        for batch, height, width in CHECKED:
            _compare(session, network, torch.randn(batch, channels, height, width), Path(path))
    return Path(path)


def _compare(session: Any, network: nn.Module, x: torch.Tensor, path: Path) -> None:
    with torch.no_grad():
        expected = network(x)
    expected = expected[0] if isinstance(expected, list | tuple) else expected
    found = torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
    if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
        raise CaseError("the file does not give what the network does", file=path, remedy="Report this, please.")
