"""Golden numbers of the modules, and the tolerances that the project sets for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
IN_TREE = ROOT / "tests" / "data" / "golden"
BESIDE = ROOT.parent / "shared" / "golden"


@dataclass
class Golden:
    """One file of golden numbers; `part` picks tensors by the first word of their key."""

    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        start = prefix + "."
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}

    def outputs(self, prefix: str) -> list[Tensor]:
        found = self.part(prefix)
        return [found[str(i)] for i in range(len(found))]


def golden_file(name: str) -> Path:
    """Path of a golden file; the test is skipped if it is one of those that lie beside the project and it is absent."""
    for folder in (IN_TREE, BESIDE):
        if (folder / name).is_file():
            return folder / name
    return pytest.skip(f"needs {name} in ../shared/golden, beside the project, which is not there")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    return lambda name: Golden(load_file(golden_file(f"{name}.safetensors")))


@pytest.fixture(scope="session")
def beside() -> Callable[[str], Path]:
    """Path of any file of the golden folder, with the same skip."""
    return golden_file


@pytest.fixture(scope="session")
def assert_near() -> Callable[..., None]:
    return _assert_near


@pytest.fixture(scope="session")
def literal() -> ModuleType:
    """scripts/literal_network.py: NETWORK.md word for word."""
    spec = importlib.util.spec_from_file_location("literal_network", ROOT / "scripts" / "literal_network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def thinned(actual: Tensor, expected: Tensor) -> Tensor:
    """Every n-th element along each axis, as the shipped numbers of the complete model have them."""
    if actual.shape == expected.shape:
        return actual
    steps = [mine // theirs for mine, theirs in zip(actual.shape, expected.shape, strict=True)]
    assert all(mine == step * theirs for mine, step, theirs in zip(actual.shape, steps, expected.shape, strict=True))
    return actual[tuple(slice(None, None, step) for step in steps)]


def _assert_near(actual: Tensor, expected: Tensor, relative: float, what: str = "") -> None:
    """Largest difference at most ``relative`` times the largest expected magnitude, as golden/README.md asks."""
    actual = thinned(actual, expected)
    assert actual.shape == expected.shape, what
    difference = float((actual - expected).detach().abs().max())
    assert difference <= relative * float(expected.abs().max()), f"{what}: differs by {difference:.2e}"


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
