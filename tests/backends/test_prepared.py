"""Networks made ready for prediction give what the network gives, whichever engine computes and whatever is absent."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from differseg_med.backends import prepared as module
from differseg_med.backends.engines import compiled_program
from differseg_med.backends.prepared import EXPORT_PAYS, PAYS, Prepared, named_backend
from differseg_med.errors import ConfigError
from differseg_med.networks import DifferSeg

PATTERNS = ((True, True), (True, False), (False, True))


def small_network() -> DifferSeg:
    torch.manual_seed(0)
    return DifferSeg((3, 3), "test_resnet", (8, 8, 8, 8)).eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "programs"
    monkeypatch.setenv("DIFFERSEG_CACHE", str(folder))
    return folder


def windows(seed: int = 0, size: tuple[int, int] = (32, 64)) -> Tensor:
    """Seven windows of two modalities with three slices each, with every pattern of `PATTERNS`, and an empty one."""
    x = torch.randn(7, 6, *size, generator=torch.Generator().manual_seed(seed))
    x[[1, 4], 3:] = 0
    x[2, :3] = 0
    x[6] = 0
    return x


def of(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = network(x)
    assert isinstance(out, Tensor)
    return out


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnxruntime"])
def test_every_backend_gives_what_the_network_gives(backend: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed and uniform batches, sizes not seen before, patterns with a program of their own; a second one reads it."""
    if backend != "torch":
        pytest.importorskip(backend, reason=f"needs pip install differseg-med[{backend}]")
    monkeypatch.delenv("DIFFERSEG_BACKEND")
    network = small_network()
    exported = []
    assert auto(network, cases=1) == "torch"
    for start in ("cold", "warm"):
        ready = Prepared(network, backend)
        assert ready.backend == backend
        ready.expect({PATTERNS[0]: 5, PATTERNS[1]: PAYS, PATTERNS[2]: PAYS - 1, (False, False): PAYS})
        for size in ((32, 64), (64, 32)) if start == "cold" else ((96, 32),):
            x = windows(size=size)
            assert_same(of(ready, x), of(network, x))
            assert_same(of(ready, x[:1]), of(network, x[:1]))
        assert ready.findings == []
        if backend != "torch":  # the rare pattern and the empty window are computed by the whole network's program
            assert set(ready._programs) == {(PATTERNS[0], None), (PATTERNS[1], None)}
            exported.append({path.name: path.stat().st_ino for path in cache.iterdir()})
            if start == "cold":
                assert len(exported[0]) == 2
                monkeypatch.setattr(torch.jit, "trace", None)
                monkeypatch.setattr(torch.onnx, "export", None)
    assert not exported or exported[0] == exported[1]
    assert auto(network, cases=1) == ("openvino" if backend == "openvino" else "torch")  # its program is stored
    assert auto(network, cases=1, bfloat16=True) == "torch"
    next(network.parameters()).data += 1
    assert auto(network, cases=1) == "torch"


def test_openvino_has_programs_for_the_one_size_of_a_volume(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven windows are computed as twice four; a picture has one; windows of another size still come out right."""
    assert torch.get_num_threads() == 1
    pytest.importorskip("openvino", reason="needs pip install differseg-med[openvino]")
    network, x = small_network(), windows()
    ready = Prepared(network, "openvino", window=(32, 64))
    for count, shape in ((7, (4, 32, 64)), (3, (1, 32, 64))):
        ready.expect({PATTERNS[0]: count})
        assert_same(of(ready, x[:count]), of(network, x[:count]))
        assert list(ready._programs)[-1] == (PATTERNS[0], shape)
    assert_same(of(ready, windows(size=(64, 32))), of(network, windows(size=(64, 32))))
    assert list(ready._programs)[-1] == (PATTERNS[0], None)
    assert ready.findings == []
    monkeypatch.delenv("DIFFERSEG_BACKEND")
    assert auto(network, cases=1, window=(32, 64)) == "openvino"
    assert auto(network, cases=1, window=(32, 32)) == "torch"


def test_absence_saves_the_streams_in_torch() -> None:
    network = small_network()
    ready, seen = Prepared(network, "torch"), []
    ready.expect({PATTERNS[1]: 1})
    x = windows()[[1, 4]]
    of(ready, x)
    watch = ready._parts[PATTERNS[1]].encoder.register_forward_hook(lambda _, i, __: seen.append(len(i[0])))
    of(ready, x)
    watch.remove()
    assert seen == [2]  # of four


def broken(network: nn.Module, channels: int, *rest: object):
    return lambda x: torch.zeros(len(x), 1, *x.shape[2:])


def raising(network: nn.Module, channels: int, *rest: object):
    raise RuntimeError("no such operation\nand more")


@pytest.mark.parametrize(
    ("engine", "why"), [(broken, r"differ by 0\.\d+"), (raising, "RuntimeError: no such operation")]
)
def test_what_cannot_be_trusted_is_replaced_and_said(
    engine, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(module.ENGINES, "compile", engine)
    network, x = small_network(), windows()
    ready = Prepared(network, "compile")
    with caplog.at_level(logging.WARNING):
        assert_same(of(ready, x), of(network, x))
    (finding,) = ready.findings
    assert finding.level == "warning"
    assert re.search(why, finding.text)
    assert "computed by PyTorch" in caplog.text
    assert_same(of(ready, x), of(network, x))
    assert len(ready.findings) == 1


def test_an_engine_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed", lambda package: "")
    ready = Prepared(small_network(), "openvino")
    assert ready.backend == "torch"
    assert ready.findings[0].remedy == 'pip install "differseg-med[openvino]"'
    monkeypatch.delenv("DIFFERSEG_BACKEND")
    assert (Prepared(small_network()).backend, Prepared(small_network()).findings) == ("torch", [])


def auto(network: nn.Module, **settings: Any) -> str:
    """What ``auto`` is for a network."""
    return Prepared(network, **settings).backend


def test_auto_takes_openvino_where_its_export_pays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From three cases on; not on a GPU. That a stored program counts, the test of every backend says."""
    pytest.importorskip("openvino", reason="needs pip install differseg-med[openvino]")
    monkeypatch.delenv("DIFFERSEG_BACKEND")
    network = small_network()
    assert [auto(network, cases=cases) for cases in (1, EXPORT_PAYS - 1, EXPORT_PAYS)] == ["torch", "torch", "openvino"]
    assert auto(copy.deepcopy(network).to("meta"), cases=9) == "torch"
    monkeypatch.setenv("DIFFERSEG_CACHE", "")
    assert [auto(network, cases=cases) for cases in (1, 9)] == ["torch", "openvino"]


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFERSEG_BACKEND", "onnxruntime")
    assert (named_backend("auto"), named_backend("torch")) == ("onnxruntime", "torch")
    with pytest.raises(ConfigError, match="one of auto, torch, openvino"):
        named_backend("tensorrt")


def test_compiled_code_is_run() -> None:
    """Inductor's code itself, for which there has to be a C++ compiler. Of one layer: a whole network takes minutes.

    Headers compiled before would cost thrice what they save here, and trying vector units doubles the compilations.
    """
    from torch._inductor import config as inductor  # 2 s, which not every process of the tests has to spend

    layer, x = nn.Hardswish(), torch.randn(2, 3, 4, 8)
    with torch.no_grad(), inductor.patch({"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": False}):
        torch.testing.assert_close(compiled_program(lambda: layer, 3, "", None, False)(x), layer(x))


def test_other_networks_are_called_as_they_are() -> None:
    ready, x = Prepared(nn.Identity()), torch.randn(2, 3, 4, 5, 6)
    assert ready(x) is x
