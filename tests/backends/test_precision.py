"""``amp: auto`` is bfloat16 where the processor says that it multiplies in it, or what the environment says."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from support.running import cohort, evaluator_of
from support.synthetic import ThresholdCenter
from torch import Tensor

from differseg_med.backends.precision import in_bfloat16
from differseg_med.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instructions of x86 processors")
def test_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says in its own words which instructions there are."""
    monkeypatch.delenv("DIFFERSEG_PRECISION")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert in_bfloat16("auto", CPU) == has
    assert (in_bfloat16(True, CPU), in_bfloat16(False, CPU)) == (True, False)
    assert not in_bfloat16("auto", "meta")
    assert not in_bfloat16("auto", "mps")


@pytest.mark.parametrize("has", [True, False])
def test_older_versions_of_torch_tell_by_other_names(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFERSEG_PRECISION")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has)
    assert in_bfloat16("auto", CPU) == has


@pytest.mark.parametrize(("named", "expected"), [("bfloat16", True), ("float32", False)])
def test_the_environment_says_what_auto_is(named: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bundle says without auto stands."""
    monkeypatch.setenv("DIFFERSEG_PRECISION", named)
    assert [in_bfloat16(amp, CPU) for amp in ("auto", True, False)] == [expected, True, False]


def test_a_precision_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFERSEG_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="one of auto, float32, bfloat16"):
        in_bfloat16("auto", CPU)


class Asked(ThresholdCenter):
    """Remembers in which precision it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.bfloat16.add(torch.is_autocast_enabled("cpu"))
        return super().forward(x)


def test_a_run_computes_in_it_and_says_so_and_goes_on_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is kept, so that a machine without bfloat16 can resume; what was used stands in its environment."""
    table, network = cohort(tmp_path, "a"), Asked()
    monkeypatch.setenv("DIFFERSEG_PRECISION", "bfloat16")
    evaluator_of(table, network, amp="auto").run()
    assert network.bfloat16 == {True}
    assert manifest(tmp_path)["environment"]["precision"] == "bfloat16"
    monkeypatch.setenv("DIFFERSEG_PRECISION", "float32")
    again = Asked()
    evaluator_of(table, again, resume=True, amp="auto").run()
    assert again.bfloat16 == set()  # its mask was kept
    evaluator_of(table, again, amp="auto").run()
    assert again.bfloat16 == {False}
    assert manifest(tmp_path)["environment"]["precision"] == "float32"


def manifest(folder: Path) -> dict:
    """What a run wrote of itself."""
    found: dict = json.loads((folder / "out" / "run.json").read_text())["steps"]["predict"]
    return found
