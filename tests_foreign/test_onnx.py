"""``export-onnx``: the network of a bundle with open sizes, as other programs run it."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from support.synthetic import BUNDLE
from typer.testing import CliRunner

from differseg_med.bundles import onnx
from differseg_med.cli import app
from differseg_med.errors import CaseError


def test_batch_height_and_width_are_open_and_the_file_is_held_against_the_network(tmp_path):
    path = tmp_path / "model.onnx"
    done = CliRunner().invoke(app, ["export-onnx", str(BUNDLE), "--out", str(path)])
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 9, "height", "width"]
    assert session.run(None, {"image": torch.zeros(2, 9, 32, 96).numpy()})[0].shape == (2, 1, 32, 96)
    network = torch.nn.Conv2d(9, 1, 1)
    with pytest.raises(CaseError, match="does not give what the network does"):
        onnx._compare(session, network, torch.randn(1, 9, 32, 32), path)
