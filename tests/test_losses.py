"""The structure loss against measured numbers, and the sum over deep supervision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.losses import DiceLoss
from safetensors.torch import load_file
from torch import Tensor, nn

from differseg_med.losses import DeepSupervisionLoss, StructureLoss, dice_ce_loss

GOLDEN = Path(__file__).parent / "data" / "golden" / "structure_loss.safetensors"
CASES = ("binary", "soft", "empty_mask", "full_mask", "good_pred", "boundary_errors", "two_channel")


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case: str, numbers: dict[str, Tensor]) -> None:
    logits = numbers[f"{case}.pred"].clone().requires_grad_()
    loss = StructureLoss()(logits, numbers[f"{case}.mask"])
    torch.testing.assert_close(loss.detach(), numbers[f"{case}.fixed.loss"][0], rtol=1e-5, atol=0)
    loss.backward()
    expected = numbers[f"{case}.fixed.grad_pred"]
    assert float((logits.grad - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_value_in_double_precision(case: str, numbers: dict[str, Tensor]) -> None:
    loss = StructureLoss()(numbers[f"{case}.pred"].double(), numbers[f"{case}.mask"].double())
    torch.testing.assert_close(loss, numbers[f"{case}.fixed.loss64"][0], rtol=0, atol=1e-10)


def test_boundary_weight_reaches_the_bce_term(numbers: dict[str, Tensor]) -> None:
    """The published script loses the weight there and gets 0.8485 where errors lie on the boundary; ours must not."""
    loss = float(StructureLoss()(numbers["boundary_errors.pred"], numbers["boundary_errors.mask"]))
    assert loss == pytest.approx(1.027381, abs=2e-6)
    assert abs(loss - float(numbers["boundary_errors.ref.loss"])) > 0.1


def test_structure_loss_is_finite_for_huge_logits() -> None:
    logits = torch.full((1, 1, 32, 32), 1e4, requires_grad=True)
    loss = StructureLoss()(logits, torch.zeros(1, 1, 32, 32))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


class MeanDifference(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return (logits - target).mean()


def test_deep_supervision_is_the_weighted_sum() -> None:
    outputs = [torch.full((2, 1, 4, 4), value) for value in (1.0, 2.0, 3.0, 4.0)]
    loss = DeepSupervisionLoss(MeanDifference(), (1.0, 0.5, 0.25, 0.125))
    assert float(loss(outputs, torch.zeros(2, 1, 4, 4))) == 1.0 + 1.0 + 0.75 + 0.5


def test_one_tensor_counts_as_the_main_output() -> None:
    output, target = torch.full((1, 1, 4, 4), 3.0), torch.zeros(1, 1, 4, 4)
    assert float(DeepSupervisionLoss(MeanDifference(), (2.0, 1.0))(output, target)) == 6.0


def test_more_outputs_than_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="3 outputs, but only 2 weights"):
        DeepSupervisionLoss(MeanDifference(), (1.0, 1.0))([torch.zeros(1, 1, 2, 2)] * 3, torch.zeros(1, 1, 2, 2))


def test_dice_ce_is_dice_plus_binary_cross_entropy() -> None:
    logits = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    target = (torch.arange(512).view(2, 1, 16, 16) % 3 == 0).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, target)
    expected = expected + DiceLoss(sigmoid=True, batch=True)(logits, target)
    torch.testing.assert_close(dice_ce_loss()([logits], target), expected)
